"""One logged receipt of a really sealed request, drawn and requested, with its custodians: for tests of a disclosure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.disclosure.ground import DrawnGround
from audit_layer.disclosure.service import DueCase
from audit_layer.trail.service import Submission
from shared.envelope import sealing
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.header import Envelope, envelope_hash
from shared.envelope.sealing import Candidate, SealedRequest, open_with_secret, seal_request
from shared.envelope.stream import FrameSealer, StreamContext
from shared.statements.cose import entry_of, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.epochs import Draw, EpochSeal
from shared.statements.orders import Order
from shared.statements.receipts import NO_RECEIPT, EnergyQuality, Finish, Receipt, Usage
from shared.statements.request import RequestBody, SamplingSettings
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World
from tests.vectors.samples import hpke_key, octets

CUSTODIANS = tuple(f"custodian-{number}" for number in range(1, 6))
THRESHOLD = 3
WORKER = hpke_key("worker")
POLICY, NONCE = AuditPolicy(Audit.SAMPLED), octets("policy nonce")


@dataclass(frozen=True)
class SealedReceipt:
    """The request, what was sent, and the case as a worker holds it before anything is disclosed."""

    sealed: SealedRequest
    ciphertexts: Ciphertexts
    case: DueCase


def make(
    world: World, envelope: bytes | None = None, *, spoil: Mapping[str, bytes] | None = None
) -> SealedReceipt:
    """Log a receipt and the statements of its draw; `envelope` is what its node signed for instead of the real one.

    `spoil`: custodians for which the client wrapped another share, and which.
    """
    sealed = seal_request(
        RequestBody(settings=SamplingSettings(max_tokens=4), prompt="x"),
        tenant="acme",
        candidates=[Candidate(world.bundle, hpke_key("node").public_bytes)],
        custodians=[hpke_key(name).public_bytes for name in CUSTODIANS],
        threshold=THRESHOLD,
        model_root=made.MODEL,
        max_output_tokens=4,
        policy=POLICY,
        expiry_ms=made.NOW + made.HOUR,
        policy_nonce=NONCE,
    )
    sealed = _spoiled(sealed, spoil or {})
    context = StreamContext(sealed.ctx, sealed.kc, world.bundle, made.some("nonce"), 0)
    sealer = FrameSealer(open_with_secret(sealed.envelope_bytes, sealed.ts).keys, context)
    frames = tuple(sealer.seal((token,), "x")[0] for token in range(3))
    given = sealed.envelope_bytes if envelope is None else envelope
    shared: dict[str, Any] = {
        "tenant": "acme", "number": 0, "attempt": 0, "ctx": sealed.ctx, "kc": sealed.kc,
        "envelope": envelope_hash(given), "bundle": world.bundle, "rate_card": world.card,
    }  # fmt: skip
    order = sign(
        Order(**shared, created=made.NOW - 9000, expiry=made.NOW + made.HOUR, max_input_tokens=4, max_output_tokens=4),
        key=made.key("acme"), issuer="acme",
    )  # fmt: skip
    receipt = Receipt(
        **shared, order=entry_of(order), node_nonce=context.node_nonce, h_final=sealer.h_final,
        model_root=made.MODEL, numeric_profile=made.PROFILE, finish=Finish.FAILED,
        usage=Usage(input=1, cached=0, output=3, energy_quality=EnergyQuality.UNMEASURED),
        started=made.NOW - 1000, ended=made.NOW - 990, node_sequence=0, previous=NO_RECEIPT,
    )  # fmt: skip
    raw = sign(receipt, key=made.key("alpha/one"), issuer="alpha/one")
    (logged,) = world.put(Submission(raw, order))
    return SealedReceipt(
        sealed,
        Ciphertexts(order, made.delivered(Submission(raw, order), given=given, frames=frames)),
        _case(world, raw, receipt, logged.index),
    )


def _spoiled(sealed: SealedRequest, spoil: Mapping[str, bytes]) -> SealedRequest:
    """Wrap other shares for some custodians; header, ctx and kc stay as they are, so no node notices."""
    envelope = Envelope.from_bytes(sealed.envelope_bytes)
    wraps = list(envelope.escrow)
    for name, share in spoil.items():
        place = CUSTODIANS.index(name)
        escrow = sealing._Escrow(place + 1, share, POLICY.to_bytes(), NONCE)
        wraps[place] = sealing._seal_share(
            hpke_key(name).public_bytes, escrow, sealed.ctx, sealed.kc
        )
    raw = replace(envelope, escrow=tuple(wraps)).to_bytes()
    return replace(sealed, envelope_bytes=raw, envelope_hash=envelope_hash(raw))


def _case(world: World, raw: bytes, receipt: Receipt, index: int) -> DueCase:
    """Statements of a draw that the doubles of custodians do not look at."""
    ((bundle,),) = world.rows("SELECT raw FROM trail_statements WHERE entry = %s", world.bundle)
    key = made.key("authority")
    opened = made.epoch_open()
    seal = sign(
        EpochSeal(
            epoch=0, at=made.NOW, open=entry_of(opened), first=0, size=index + 1,
            root=made.some("root"), nodes={},
        ),
        key=key, issuer="authority",
    )  # fmt: skip
    draw = sign(
        Draw(
            epoch=0, seal=entry_of(seal), reveals=(), whole=True, seed=made.some("seed"),
            drawn=(index,),
        ),
        key=key, issuer="authority",
    )  # fmt: skip
    request = sign(
        DisclosureRequest(
            receipt=entry_of(raw), index=index, draw=entry_of(draw), reason=DisclosureReason.WHOLE,
            recipient=WORKER.key_id, deadline=made.NOW + made.HOUR,
        ),
        key=key, issuer="authority",
    )  # fmt: skip
    world.put(Submission(opened), Submission(seal))
    return DueCase(
        request=request, receipt_statement=raw, receipt=receipt, bundle=bundle,
        endpoint="127.0.0.1:1", signing_key=made.public("alpha/one"),
        ground=DrawnGround(opened=opened, seal=seal, draw=draw, commitments=(), reveals=()),
    )  # fmt: skip
