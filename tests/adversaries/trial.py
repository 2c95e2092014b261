"""Requests through the ordinary parts of a node in this process, honest or under an adversary, up to the auditor's verdict.

Model, engine, sealing, signing and the node's store are the real ones. There is no network, no log and no database: who
would carry the bytes from one party to the next is left out. A trial is synchronous and is not for use by two threads at once.
"""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.disclosure.evidence import Ciphertexts, check_evidence
from audit_layer.replay.case import Case
from audit_layer.replay.child import Bench
from audit_layer.replay.hearing import Answer
from audit_layer.replay.judge import judge_claims
from execution_layer.client.response_check import Sent
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.scheduler import Limits
from execution_layer.node.admission import Admission, ServedModel
from execution_layer.node.delivery import Delivery
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.energy import Unmetered
from execution_layer.node.health import Health
from execution_layer.node.identity import KeyRing, NodeFacts
from execution_layer.node.intake import Intake
from execution_layer.node.load import Load
from execution_layer.node.refusing import Refuser
from execution_layer.node.session import SessionParts
from execution_layer.node.settings import Quotas
from execution_layer.node.spool import Spool
from execution_layer.node.store import NodeStore
from execution_layer.node.tape import Event
from shared.codec.moment import now_ms
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.delivered import Delivered
from shared.envelope.evidence import Evidence
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import Candidate, SealedRequest, open_with_secret, seal_request
from shared.envelope.stream import FinalRecord, Frame
from shared.model import profile as profiles
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.decoder import load_decoder
from shared.model.root import model_root
from shared.runtime.errors import CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, open_as, read_as, sign
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import Order, input_bound
from shared.statements.receipts import Receipt
from shared.statements.request import RequestBody
from shared.statements.verdicts import Reason
from shared.text.opening import open_tokenizer
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from shared.verification.judgement import Judgement
from tests.adversaries.adversary import Adversary
from tests.adversaries.received import as_received, objection

MODEL: Final = Path(profiles.__file__).parent / "checkpoints" / "counterfoil-mini"
OPERATOR, NODE, TENANT = "operator", "node", "tenant"
WAIT_S: Final = 120.0
"""How long a request waits for its answer: none comes near it."""
LIFE_MS: Final = 600_000
"""How long an order is good."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. Give the body a seed where two runs are to be compared."""

    body: RequestBody
    request_id: bytes | None = None
    """16 bytes; random unless given."""
    max_ms: int | None = None
    """The order's deadline (protocol §4.7)."""


@dataclass(frozen=True, slots=True, repr=False)
class Tried:
    """One request after its answer: what every party holds."""

    order: bytes
    """The order statement."""
    receipt: bytes
    """The receipt statement that the node delivers to the log."""
    prompt_ids: tuple[int, ...]
    """The tokenizer's own encoding of the request."""
    frames: tuple[Frame, ...]
    """As the client opens them."""
    final: FinalRecord | None
    """As the client opens it; None where it does not open."""
    evidence: Evidence | None
    """As in that final record; None where there is none that opens."""
    case: Case | None
    """What the auditor judges; None if the node hands out nothing that is the receipt's, and nobody deposited it."""
    undelivered: str
    """Why there is no case."""
    handed_out: Ciphertexts | None
    """What the node hands out, whether or not it is the receipt's."""
    node_key: bytes
    """The node's signing key, from its key bundle."""
    refusal: CounterfoilError | None
    """What the client, which has the tokenizer, says against the answer; None if it believes it."""
    took_ms: int
    """Time from the order to the answer's end by this process's clock."""

    @property
    def ordered(self) -> Order:
        """What was ordered."""
        return open_as(Order, self.order, None)[0]

    @property
    def claimed(self) -> Receipt:
        """What the receipt says."""
        return open_as(Receipt, self.receipt, None)[0]

    @property
    def output_ids(self) -> tuple[int, ...]:
        """All tokens of the frames."""
        return Answer(self.frames).tokens

    @property
    def text(self) -> str:
        """All text of the frames."""
        return Answer(self.frames).text

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """All log-probabilities of the frames."""
        return Answer(self.frames).logprobs


@dataclass(frozen=True, slots=True)
class _Node:
    """The parts of one run."""

    intake: Intake
    store: NodeStore
    ring: KeyRing
    tokenizer: Tokenizer
    root: bytes


@dataclass(frozen=True, slots=True, repr=False)
class _Heard:
    """What a client sent and received."""

    order: bytes
    sent: Sent
    events: tuple[Event, ...]
    at: int
    """When the answer had ended."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """A double of the node's tenants: one of them, with its key."""

    key: bytes

    def key_of(self, tenant: str, _kid: bytes) -> bytes | None:
        return self.key if tenant == TENANT else None


class _NoLog:
    """A double of the log, to which nothing is delivered: the trial takes receipts from the spool."""

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[object]:
        raise AssertionError("nothing delivers in a trial")


@dataclass
class Trial:
    """One operator's node, one tenant and one auditor, with their keys and one model."""

    folder: Path
    """Below which keys and the node's store are kept; several trials may share it."""
    model: Path = MODEL
    arithmetic: str | None = None
    """The node's arithmetic; None: that of this machine's matrix unit."""
    others: Sequence[Path] = ()
    """Folders of other models that the auditor has."""
    threads: int = 1
    sequences: int = 16
    """How many are in flight in the engine at once."""
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.root = model_root(self.model)
        self._home = Path(tempfile.mkdtemp(dir=self.folder))
        self._operator = Ed25519PrivateKey.generate()
        self._tenant = Ed25519PrivateKey.generate()
        self._custodian = generate_hpke_key()
        self._bench = Bench((self.model, *self.others), self.threads)
        self._card = b"\x11" * 32
        """Nothing is rated in a trial, so orders may name any card."""

    def run(self, asks: Sequence[Ask], adversary: Adversary | None = None) -> list[Tried]:
        """Answer all requests at once with a node that starts, serves and stops; return what became of each, in order."""
        with nullcontext() if adversary is None else adversary.applied():
            return asyncio.run(self._run(asks))

    def judge(self, tried: Tried) -> Judgement:
        """Judge as an audit worker does. Call it only while no adversary is applied: the auditor's program is the ordinary one."""
        claims = judge_claims(read_as(Order, tried.order), read_as(Receipt, tried.receipt))
        if claims is not None:  # what receipt and order show by themselves
            return claims
        if tried.case is None:
            return Judgement(Reason.WITHHELD, {"why": tried.undelivered})
        return self._bench.judge(tried.case)

    async def _run(self, asks: Sequence[Ask]) -> list[Tried]:
        with tempfile.TemporaryDirectory(dir=self._home) as folder:
            async with self._node(Path(folder)) as node:
                heard = await asyncio.gather(*(self._ask(node, ask) for ask in asks))
                spool = Spool(node.store.journal).pending(len(asks))
                receipts = {item.order: item.statement for item in spool}
                return [_tried(node, one, receipts[one.order]) for one in heard]

    @contextlib.asynccontextmanager
    async def _node(self, folder: Path) -> AsyncIterator[_Node]:
        """Start the node's parts as `execution_layer.wiring.node` and `Node` put them together."""
        config = ModelConfig.from_folder(self.model)
        backend = CpuBackend(self.threads, self.arithmetic or own_arithmetic(config.dtype))
        decoder = load_decoder(self.model, backend=backend)
        tokenizer = open_tokenizer(self.model, rows=config.vocab_size, stops=config.eos_token_ids)
        profile = dict(profiles.numeric_profile(config.dtype, backend))
        served = ServedModel(
            root=self.root,
            numeric_profile=profiles.profile_id(profile),
            max_positions=config.max_positions,
            tokenise=lambda body: prompt_ids(tokenizer, body),
        )
        limits = Limits(sequences=self.sequences, blocks=512, context=config.max_positions)
        engine = LocalEngine(decoder, tokenizer, limits)
        ring = KeyRing(self._home / "keys", self._operator)
        facts = NodeFacts(
            OPERATOR, NODE, "node.test:1", (served.root,), served.numeric_profile, profile
        )
        ring.renew(facts, now_ms())
        store = NodeStore(folder / "node.sqlite", ring.storage_key)
        quotas = Quotas(in_flight_per_tenant=4096, in_flight=4096)
        signer = ReceiptSigner(ring.signing_key, f"{OPERATOR}/{NODE}")
        intake = Intake(
            admission=Admission(
                ring=ring,
                tenants=_Keys(public_bytes(self._tenant)),
                seen=store,
                model=served,
                rate_card=self._card,
                quotas=quotas,
            ),
            engine=engine,
            load=Load(quotas),
            delivery=Delivery(Spool(store.journal), _NoLog()),  # type: ignore[arg-type]  # never asked
            health=Health(store, engine),
            parts=SessionParts(
                store=store,
                signer=signer,
                energy=Unmetered(),
                frame_interval_s=0.02,
                numeric_profile=served.numeric_profile,
            ),
            refuser=Refuser(store, signer, ring, quotas.refusals_per_tenant),
        )
        await engine.start()
        try:
            yield _Node(intake, store, ring, tokenizer, served.root)
        finally:
            await intake.close(0.0)
            await engine.stop()
            store.close()

    async def _ask(self, node: _Node, ask: Ask) -> _Heard:
        sealed, statement = self._ordered(node, ask)
        order, signed = open_as(Order, statement, None)
        keys = node.ring.current()
        opened = open_with_secret(sealed.envelope_bytes, sealed.ts)
        session = await node.intake.take(statement, sealed.envelope_bytes)
        events = tuple([event async for event in session.events()])
        sent = Sent(
            order, signed.entry, opened, keys.bundle, keys.entry, public_bytes(self._tenant)
        )
        return _Heard(statement, sent, events, now_ms())

    def _ordered(self, node: _Node, ask: Ask) -> tuple[SealedRequest, bytes]:
        """Seal a request for the node's key bundle, and sign its order."""
        keys, now = node.ring.current(), now_ms()
        sealed = seal_request(
            ask.body,
            tenant=TENANT,
            candidates=[Candidate(keys.entry, keys.bundle.hpke_key)],
            custodians=[self._custodian.public_bytes],
            threshold=1,
            model_root=node.root,
            max_output_tokens=ask.body.settings.max_tokens,
            policy=AuditPolicy(Audit.SAMPLED),
            expiry_ms=now + LIFE_MS,
            request_id=ask.request_id,
        )
        order = Order(
            tenant=TENANT,
            number=next(self._numbers),
            attempt=0,
            ctx=sealed.ctx,
            kc=sealed.kc,
            envelope=sealed.envelope_hash,
            bundle=keys.entry,
            created=now,
            expiry=now + LIFE_MS,
            max_input_tokens=input_bound(ask.body),
            max_output_tokens=ask.body.settings.max_tokens,
            rate_card=self._card,
            max_ms=ask.max_ms,
        )
        return sealed, sign(order, key=self._tenant, issuer=TENANT)


def case_of(order: bytes, receipt: bytes, sent: Delivered, secret: bytes) -> Case:
    """Return what an audit worker puts before its judge, from ciphertexts that are the receipt's."""
    return Case(
        receipt=receipt,
        order=order,
        envelope=sent.envelope,
        frames=sent.frames,
        final_record=sent.final_record,
        secret=secret,
    )


def _tried(node: _Node, heard: _Heard, receipt: bytes) -> Tried:
    """Look at one answer with the eyes of client and auditor."""
    sent = heard.sent
    handed_out = _handed_out(node, receipt)
    case, undelivered = audited(receipt, sent.bundle.signing_key, sent.opened.ts, handed_out)
    frames, final, evidence = as_received(sent, heard.events)
    return Tried(
        order=heard.order,
        receipt=receipt,
        prompt_ids=prompt_ids(node.tokenizer, sent.opened.body),
        frames=frames,
        final=final,
        evidence=evidence,
        case=case,
        undelivered=undelivered,
        handed_out=handed_out,
        node_key=sent.bundle.signing_key,
        refusal=objection(sent, heard.events, node.tokenizer),
        took_ms=heard.at - sent.order.created,
    )


def _handed_out(node: _Node, receipt: bytes) -> Ciphertexts | None:
    """Ask the node for the evidence of a receipt."""
    found = node.store.evidence_of(entry_of(receipt))
    if found is None:
        return None
    sent = Delivered(
        found.envelope, found.node_nonce, found.frames, found.final_record, found.final_signature
    )
    return Ciphertexts(found.order, sent)


def audited(
    receipt: bytes, node_key: bytes, secret: bytes, found: Ciphertexts | None
) -> tuple[Case | None, str]:
    """Check what one source has for a receipt, as a worker does; return its case, or why there is none."""
    if found is None:
        return None, "the node has none"
    try:
        covered, lack = check_evidence(found, read_as(Receipt, receipt), node_key)
    except CounterfoilError as error:
        return None, str(error)
    return case_of(found.order, receipt, covered.sent, secret), lack
