"""A stage's side of orders for parts, without a network; and what a tenant and a head hand to it, every part of which can be wrong.

python -m tests.execution_layer.node.parting FOLDER OFFERED_FILE WHAT

accepts an order in a process of its own and, if WHAT is `close`, closes it.
"""

import asyncio
import pickle
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from execution_layer.engine.protocol import EngineStats
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.health import Health
from execution_layer.node.identity import KeyRing, NodeFacts
from execution_layer.node.load import Load
from execution_layer.node.order_checks import OrderChecks
from execution_layer.node.part_admission import PartAdmission
from execution_layer.node.part_store import PartStore
from execution_layer.node.parts import AcceptedParts
from execution_layer.node.settings import Quotas
from execution_layer.node.spool import Spool
from execution_layer.node.store import NodeStore
from execution_layer.pipeline.parts import Counts, Offered, Roots
from shared.codec.moment import now_ms
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.header import Envelope
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import Candidate, seal_request
from shared.envelope.stages import ChainStage
from shared.runtime.keys import load_or_create_ed25519, public_bytes
from shared.statements.cose import entry_of, sign
from shared.statements.keys import Layers
from shared.statements.orders import Order, Part
from shared.statements.request import RequestBody, SamplingSettings

ROOT, PROFILE, CARD = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
HEAD, OTHER, STAGE = "front/head", "front/other", "farm/s1"
COUNTS = Counts(12, 0, 5)
ROOTS = Roots(received=b"\x0a" * 32, sent=b"\x0b" * 32, compute_ms=7)
CUSTODIAN = generate_hpke_key()


@dataclass
class Tenants:
    """A double of the tenants file."""

    keys: dict

    def key_of(self, tenant, _kid):
        return self.keys.get(tenant)


class Computes:
    """A double of what computes."""

    stats = EngineStats(0, 0, 0, 0, 0, 0, 0, 0, 0)


def ring_of(folder, name, layers=None):
    """Return the keys of a node with a key bundle."""
    operator, node = name.split("/")
    ring = KeyRing(folder / node, load_or_create_ed25519(folder / f"{operator}.pem"))
    facts = NodeFacts(operator, node, "127.0.0.1:1", (ROOT,), PROFILE, {}, layers=layers)
    ring.renew(facts, now_ms())
    return ring


@dataclass
class StageSide:
    """Keys, store and parts of a stage in a folder; `again` is its next process."""

    folder: Path
    quotas: Quotas = field(default_factory=Quotas)
    heeded: list = field(default_factory=list)
    woken: int = 0

    def __post_init__(self):
        self.tenant_key = load_or_create_ed25519(self.folder / "tenant.pem")
        self.ring = ring_of(self.folder, STAGE, Layers(4, 8))
        self.store = NodeStore(self.folder / "node.sqlite", self.ring.storage_key)
        self.spool = Spool(self.store.journal)
        self.load = Load(self.quotas)
        checks = OrderChecks(
            self.ring,
            Tenants({"acme": public_bytes(self.tenant_key)}),
            rate_card=CARD,
            max_output_tokens=self.quotas.max_output_tokens,
        )
        self.parts = AcceptedParts(
            PartAdmission(checks, ROOT),
            PartStore(self.store),
            ReceiptSigner(self.ring.signing_key, STAGE),
            load=self.load,
            health=Health(self.store, Computes()),
            heed=self.heed,
            wake=self.wake,
        )

    async def heed(self, order):
        self.heeded.append(order)

    def wake(self):
        self.woken += 1

    async def restored(self):
        await self.parts.restore(lambda entry: self.ring.known(entry) is not None)
        return self

    async def again(self, **changes):
        """Return the stage's next process, after this one has gone."""
        self.store.close()
        return await StageSide(self.folder, **changes).restored()


@dataclass
class Request:
    """What a head hands to a stage, and the order's entry."""

    offered: Offered
    order: bytes
    sealed: object

    def but(self, **changes):
        """Return it with parts of it changed."""
        return replace(self.offered, **changes)


def request_for(
    side,
    *,
    head=HEAD,
    number=0,
    attempt=0,
    place=1,
    key=None,
    whole=False,
    stages=None,
    root=ROOT,
    budget=6,
    expires_in_ms=60_000,
    order_changes=None,
):
    """Seal a request for `head` and a chain with this stage, and order its part; every argument is a way to get it wrong."""
    now = now_ms()
    bundle = ring_of(side.folder, head).current()
    own = side.ring.current()
    sealed = seal_request(
        RequestBody(SamplingSettings(budget), prompt="hello"),
        tenant="acme",
        candidates=[Candidate(bundle.entry, bundle.bundle.hpke_key)],
        custodians=[CUSTODIAN.public_bytes],
        threshold=1,
        model_root=root,
        max_output_tokens=budget,
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=now + expires_in_ms,
        stages=stages or [ChainStage(own.entry, own.bundle.hpke_key)],
    )
    order = Order(
        tenant="acme",
        number=number,
        attempt=attempt,
        ctx=sealed.ctx,
        kc=sealed.kc,
        envelope=sealed.envelope_hash,
        bundle=own.entry,
        created=now - 1000,
        expiry=now + 60_000,
        max_input_tokens=100,
        max_output_tokens=budget,
        rate_card=CARD,
        part=None if whole else Part(b"\x05" * 32, place),
    )
    order = replace(order, **(order_changes or {}))
    signed = sign(order, key=key or side.tenant_key, issuer=order.tenant)
    envelope = Envelope.from_bytes(sealed.envelope_bytes)
    wraps = envelope.stage_wraps
    offered = Offered(
        order=signed,
        header=envelope.header.to_cbor(),
        kc=envelope.kc,
        wrap=wraps[min(place, len(wraps)) - 1],
        head_bundle=bundle.statement,
    )
    return Request(offered, entry_of(signed), sealed)


def computed(_part, positions):
    """A double of what was computed: as much as `COUNTS` say."""
    assert positions == COUNTS.positions
    return ROOTS


async def main(folder, request, what):
    side = await StageSide(folder).restored()
    await side.parts.accept(request, HEAD)
    if what == "close":
        await side.parts.close(entry_of(request.order), COUNTS, HEAD, computed)


if __name__ == "__main__":
    folder, offered, what = sys.argv[1:]
    request = pickle.loads(Path(offered).read_bytes())  # noqa: S301  # the test's own
    asyncio.run(main(Path(folder), request, what))
