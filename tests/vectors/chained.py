"""Bundles that carry the statements by which a log continues identities' keys (docs/bundle.md §3), in a log of their own.

The verifier brings the operator's and the tenant's first keys; the key bundle and the order are signed by their second ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, sign
from shared.statements.identities import Holder, IdentityKeyEnd, sign_identity_key
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash
from shared.verification.bundle import Bundle, OrderContext
from shared.verification.identities import END_SKEW_MS
from tests.vectors import samples
from tests.vectors.bundle_samples import BUNDLE_LOG, ORIGIN, policy_text
from tests.vectors.generate_translog import TIME, WITNESSES, Json, entry
from tests.vectors.samples import NOW, signing_key

OPERATOR, TENANT = "gpu-farm", "acme"
PINS = {
    OPERATOR: (public_bytes(signing_key("operator 1")),),
    TENANT: (public_bytes(signing_key("tenant 1")),),
}
"""What the verifier brings."""
_OPERATOR, _TENANT = (Holder.OPERATOR, OPERATOR), (Holder.TENANT, TENANT)
ENDED_AT = NOW + 1
"""When the tenant's second key ended: after the work began that it had ordered."""


def _add(identity: tuple[Holder, str], by: str, new: str) -> bytes:
    return sign_identity_key(*identity, new=signing_key(new), by=signing_key(by), now_ms=NOW)


def _end(identity: tuple[Holder, str], by: str, key: str, at: int) -> bytes:
    value = IdentityKeyEnd(*identity, public_bytes(signing_key(key)), at, "rotated")
    return sign(value, key=signing_key(by), issuer=identity[1])


@dataclass(frozen=True)
class Answered:
    """A key bundle, an order under it, and the receipt that answers it."""

    key_bundle: bytes
    order: bytes
    receipt: bytes

    @classmethod
    def by(cls, operator: str, tenant: str, number: int, started: int = NOW) -> "Answered":
        """Return one with signers of these names, whose work began at `started`."""
        node = replace(samples.BUNDLE, endpoint=f"n{number}.gpu-farm.example:7443")
        key_bundle = sign(node, key=signing_key(operator), issuer=OPERATOR)
        order_value = replace(
            *(samples.ORDER,), number=number, bundle=entry_of(key_bundle), created=started,
            expiry=started + 60_000,
        )  # fmt: skip
        order = sign(order_value, key=signing_key(tenant), issuer=TENANT)
        receipt = replace(
            *(samples.RECEIPT,), order=entry_of(order), bundle=entry_of(key_bundle), number=number,
            started=started, ended=started + 800,
        )  # fmt: skip
        return cls(key_bundle, order, sign(receipt, key=signing_key("node"), issuer=node.issuer))


ADD_OPERATOR = _add(_OPERATOR, "operator 1", "operator 2")
ADD_TENANT = _add(_TENANT, "tenant 1", "tenant 2")
END_OPERATOR = _end(_OPERATOR, "operator 1", "operator 2", ENDED_AT)
END_TENANT = _end(_TENANT, "tenant 1", "tenant 2", ENDED_AT)
ADD_LATE = _add(_OPERATOR, "operator 1", "operator 3")
ADD_THIEF = _add(_OPERATOR, "thief", "thief 2")
GOOD = Answered.by("operator 2", "tenant 2", 41)
LATE_ORDER = Answered.by("operator 2", "tenant 2", 42, ENDED_AT + END_SKEW_MS)
LAST_ORDER = Answered.by("operator 2", "tenant 2", 43, ENDED_AT + END_SKEW_MS - 1)
LATE_BUNDLE = Answered.by("operator 2", "tenant 1", 44)
EARLY_BUNDLE = Answered.by("operator 3", "tenant 1", 45)
OF_THIEF = Answered.by("thief 2", "tenant 1", 46)
LOG = (
    *(ADD_OPERATOR, GOOD.key_bundle, ADD_TENANT, GOOD.receipt),
    *(LATE_ORDER.key_bundle, LAST_ORDER.key_bundle, END_OPERATOR, END_TENANT),
    *(LATE_ORDER.receipt, LAST_ORDER.receipt, LATE_BUNDLE.key_bundle, LATE_BUNDLE.receipt),
    *(EARLY_BUNDLE.key_bundle, ADD_LATE, EARLY_BUNDLE.receipt),
    *(ADD_THIEF, OF_THIEF.key_bundle, OF_THIEF.receipt),
)
"""In the log's order."""
ALL = (ADD_OPERATOR, ADD_TENANT, END_OPERATOR, END_TENANT, ADD_LATE, ADD_THIEF)
_ENTRIES = [*(entry(index) for index in range(5)), *(entry_of(raw) for raw in LOG)]
_LOOKUP = lookup_in([leaf_hash(value) for value in _ENTRIES])
_HEAD = Checkpoint(ORIGIN, len(_ENTRIES), root_at(len(_ENTRIES), _LOOKUP))


def index_of(raw: bytes) -> int:
    """Return where the log has a statement."""
    return _ENTRIES.index(entry_of(raw))


def proof_of(raw: bytes, witnesses: int = 2) -> str:
    """Return a statement's tlog-proof, cosigned by the first witnesses."""
    index = index_of(raw)
    lines = tuple(cosign(signer, _HEAD, time_s=TIME) for signer in WITNESSES[:witnesses])
    note = sign_checkpoint(_HEAD, [BUNDLE_LOG], time_s=TIME).with_signatures(lines)
    path = tuple(inclusion_proof(index, len(_ENTRIES), _LOOKUP))
    return TlogProof(index, path, note.encode()).encode()


def bundle_of(answered: Answered, *identities: bytes, **changes: Any) -> Bundle:
    """Return the bundle of a receipt with these statements about identities' keys."""
    context = OrderContext(answered.order, answered.key_bundle, proof_of(answered.key_bundle))
    made = Bundle(
        statement=answered.receipt,
        tlog_proof=proof_of(answered.receipt),
        policy=policy_text(2),
        context=context,
        identities=tuple((raw, proof_of(raw)) for raw in identities),
    )
    return replace(made, **changes)


def cases() -> Iterator[tuple[str, Bundle, str | None, int]]:
    """Yield name, bundle, the code with which a verifier with `PINS` ends, and at which step: the last one if all hold."""
    unknown = "UNTRUSTED_KEY"
    led = (ADD_OPERATOR, ADD_TENANT)
    yield "led from the pinned keys to those that signed", bundle_of(GOOD, *led), None, 9
    yield "of keys that ended afterwards", bundle_of(GOOD, *ALL), None, 9
    yield "in another order", bundle_of(GOOD, *reversed(ALL)), None, 9
    yield "begun just in time after the end", bundle_of(LAST_ORDER, *ALL), None, 9
    yield "with nothing that leads there", bundle_of(GOOD), unknown, 2
    yield "with nothing that leads to the operator's", bundle_of(GOOD, ADD_TENANT), unknown, 3
    yield "with nothing that leads to the tenant's", bundle_of(GOOD, ADD_OPERATOR), unknown, 6
    yield "ordered by a key that had ended", bundle_of(LATE_ORDER, *ALL), unknown, 6
    yield "under a key bundle logged after the end", bundle_of(LATE_BUNDLE, *ALL), unknown, 4
    yield "under one logged before its signer was added", bundle_of(EARLY_BUNDLE, *ALL), unknown, 4
    yield "of a thief that no key of the operator added", bundle_of(OF_THIEF, *ALL), unknown, 3
    yield (
        "with the proof of another statement",
        bundle_of(GOOD, identities=((ADD_OPERATOR, proof_of(ADD_TENANT)),)),
        "BAD_PROOF",
        2,
    )
    yield (
        "with a statement that is not witnessed",
        bundle_of(GOOD, identities=((ADD_OPERATOR, proof_of(ADD_OPERATOR, 1)),)),
        "NOT_WITNESSED",
        2,
    )
    yield "with a statement about something else", bundle_of(GOOD, GOOD.key_bundle), "MALFORMED", 2


def vectors() -> Json:
    """Return the content of bundle_identities.json."""
    return {
        "pins": {name: [key.hex() for key in keys] for name, keys in PINS.items()},
        "cases": [
            {"name": name, "bundle": made.encode(), "code": code, "step": step}
            for name, made, code, step in cases()
        ],
    }
