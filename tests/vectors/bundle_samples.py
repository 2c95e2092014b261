"""What the bundles of the vectors hold: statements of fixed keys, one log that has them all, and bundles that verify.

Besides the good receipt, the log has receipts whose end is unfounded and receipts with a claim that cannot be true
(protocol §4.7, §4.8): signed, logged and witnessed like any other.
"""

from dataclasses import replace
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import attach, entry_of, read_as, sign
from shared.statements.receipts import Finish, Receipt
from shared.statements.schema import Statement
from shared.translog.checkpoint import Checkpoint
from shared.translog.cose_receipt import issue_receipt
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import LogPolicy
from shared.translog.policy_file import PolicyFile
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash
from shared.verification.bundle import Bundle, OrderContext
from tests.vectors import samples
from tests.vectors.generate_translog import TIME, WITNESSES, Json, entry
from tests.vectors.samples import SAMPLES, signing_key

ORIGIN = "log.example/bundles"
BUNDLE_LOG = Signer(ORIGIN, SignatureType.ED25519, sha256(b"bundles").digest())
COSE_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"cose").digest())


def signed(name: str, value: Statement) -> bytes:
    """Return a statement of the type of sample `name`, by the same signer."""
    _, signer, issuer = SAMPLES[name]
    return sign(value, key=signing_key(signer), issuer=issuer)


KEY_BUNDLE = signed("key-bundle", samples.BUNDLE)


def _order(**fields: Any) -> bytes:
    return signed("order", replace(samples.ORDER, bundle=entry_of(KEY_BUNDLE), **fields))


ORDER = _order()
RECEIPT_VALUE = replace(samples.RECEIPT, bundle=entry_of(KEY_BUNDLE), order=entry_of(ORDER))
RECEIPT = signed("receipt", RECEIPT_VALUE)
VERDICT = signed("verdict", SAMPLES["verdict"][0])
TIMED_ORDER = _order(max_ms=5_000)
"""An order with a deadline, 5 s after the work begins."""
LARGE_ORDER = _order(max_output_tokens=200_000)
"""An order for more tokens than can be generated in the receipt's 800 ms."""
_LATER = RECEIPT_VALUE.started + 300_001
LATER_ORDER = _order(created=_LATER, expiry=_LATER + 60_000)
"""An order that was signed more than 5 minutes after the receipt's work began."""


def _claiming(order: bytes = TIMED_ORDER, usage: Json | None = None, **fields: Any) -> bytes:
    """Return a receipt for an order that differs from the good one in these fields."""
    used = replace(RECEIPT_VALUE.usage, **usage or {})
    return signed("receipt", replace(RECEIPT_VALUE, order=entry_of(order), usage=used, **fields))


def _called(finish: Finish, took_ms: int = 800, **fields: Any) -> bytes:
    return _claiming(finish=finish, ended=RECEIPT_VALUE.started + took_ms, **fields)


def _cancellation(signer: str, order: bytes = TIMED_ORDER) -> bytes:
    return sign_cancellation(entry_of(order), signing_key(signer))


CANCELLED = _called(Finish.CANCELLED, cancel=_cancellation("tenant"))
LATE = _called(Finish.DEADLINE, 4_000)
UNFOUNDED = (
    ("cancelled without a signature", _called(Finish.CANCELLED), "COMMITMENT_MISMATCH"),
    (
        "cancelled by a stranger",
        _called(Finish.CANCELLED, cancel=_cancellation("stranger")),
        "BAD_SIGNATURE",
    ),
    (
        "cancelled by the node",
        _called(Finish.CANCELLED, cancel=_cancellation("node")),
        "BAD_SIGNATURE",
    ),
    (
        "cancelled with the signature for another order",
        _called(Finish.CANCELLED, cancel=_cancellation("tenant", ORDER)),
        "BAD_SIGNATURE",
    ),
    ("late before the deadline", _called(Finish.DEADLINE, 3_999), "COMMITMENT_MISMATCH"),
    (
        "late without a deadline",
        _claiming(ORDER, finish=Finish.DEADLINE, ended=RECEIPT_VALUE.started + 10**9),
        "COMMITMENT_MISMATCH",
    ),
)
"""Receipts whose end nobody but the node wanted: name, statement, code of the step that says so."""
IMPOSSIBLE = (
    ("computed for longer than it took", _claiming(usage={"compute_ms": 1_801})),
    ("energy above what a machine draws", _claiming(usage={"energy_mj": 150_000 * 1_800 + 1})),
    (
        "more tokens than steps fit into its time",
        _claiming(LARGE_ORDER, usage={"output": 180_001}),
    ),
    ("began before it was ordered", _claiming(LATER_ORDER)),
)
"""Receipts with a claim that cannot be true: name, statement."""
REFUSAL_VALUE = replace(
    samples.REFUSAL,
    order=entry_of(ORDER),
    bundle=entry_of(KEY_BUNDLE),
    tenant=samples.ORDER.tenant,
    number=samples.ORDER.number,
    attempt=samples.ORDER.attempt,
    at=samples.BUNDLE.not_after + 1,
)
"""Made after the end of its key bundle, which may be its reason."""
REFUSAL = signed("refusal", REFUSAL_VALUE)
_FIRST = [entry(index) for index in range(17)]
ENTRIES = [
    *_FIRST,
    *(entry_of(raw) for raw in (KEY_BUNDLE, RECEIPT, VERDICT, CANCELLED, LATE, REFUSAL)),
    *(entry_of(raw) for _, raw, _ in UNFOUNDED),
    *(entry_of(raw) for _, raw in IMPOSSIBLE),
]
_LOOKUP = lookup_in([leaf_hash(value) for value in ENTRIES])
HEAD = Checkpoint(ORIGIN, len(ENTRIES), root_at(len(ENTRIES), _LOOKUP))


def policy_of(threshold: int) -> LogPolicy:
    """Return the policy of the vectors' log with another threshold."""
    witnesses = [signer.verifier.vkey() for signer in WITNESSES]
    logs = [BUNDLE_LOG.verifier.vkey()]
    return LogPolicy.from_vkeys(logs=logs, witnesses=witnesses, threshold=threshold)


def policy_text(threshold: int) -> str:
    """Return the same policy as a file."""
    return PolicyFile.of(policy_of(threshold)).encode()


def path_of(raw: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Return a statement's index and inclusion path."""
    index = ENTRIES.index(entry_of(raw))
    return index, tuple(inclusion_proof(index, len(ENTRIES), _LOOKUP))


def proof_of(raw: bytes, witnesses: int = 2) -> str:
    """Return a statement's tlog-proof, cosigned by the first witnesses."""
    lines = tuple(cosign(signer, HEAD, time_s=TIME) for signer in WITNESSES[:witnesses])
    note = sign_checkpoint(HEAD, [BUNDLE_LOG], time_s=TIME).with_signatures(lines)
    return TlogProof(*path_of(raw), note.encode()).encode()


def with_cose_receipt(raw: bytes, key: Ed25519PrivateKey = COSE_KEY) -> bytes:
    """Return a statement with a COSE Receipt attached."""
    index, path = path_of(raw)
    receipt = issue_receipt(entry_of(raw), index, HEAD.size, path, HEAD.root, key=key)
    return attach(raw, [receipt])


def _keys(*names: str) -> tuple[bytes, ...]:
    return (*(public_bytes(signing_key(name)) for name in names), public_bytes(COSE_KEY))


OF_RECEIPT = Bundle(
    statement=with_cose_receipt(RECEIPT),
    tlog_proof=proof_of(RECEIPT),
    policy=policy_text(2),
    keys=_keys("operator", "tenant"),
    context=OrderContext(ORDER, KEY_BUNDLE, proof_of(KEY_BUNDLE)),
    timestamps=(b"opaque",),
)


def of_claim(raw: bytes) -> Bundle:
    """Return the bundle of one of the receipts that differ from the good one, with the order that it answers."""
    answered = read_as(Receipt, raw).order
    order = next(
        order
        for order in (ORDER, TIMED_ORDER, LARGE_ORDER, LATER_ORDER)
        if entry_of(order) == answered
    )
    return Bundle(
        statement=with_cose_receipt(raw),
        tlog_proof=proof_of(raw),
        policy=policy_text(2),
        keys=_keys("operator", "tenant"),
        context=OrderContext(order, KEY_BUNDLE, proof_of(KEY_BUNDLE)),
    )


OF_VERDICT = Bundle(
    statement=VERDICT,
    tlog_proof=proof_of(VERDICT),
    policy=policy_text(2),
    keys=_keys("worker"),
)

OF_REFUSAL = Bundle(
    statement=with_cose_receipt(REFUSAL),
    tlog_proof=proof_of(REFUSAL),
    policy=policy_text(2),
    keys=_keys("operator", "tenant"),
    context=OrderContext(ORDER, KEY_BUNDLE, proof_of(KEY_BUNDLE)),
)
