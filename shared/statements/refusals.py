"""Refusals: what a node signs about an order that it does not accept, and never will (protocol §3.7)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import SignedStatement, open_as
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.schema import U32, Bytes32, Ms, Name, Statement, Uint

MAX_REFUSAL: Final = 4096
"""Bytes that a client reads of a refusal; the longest ones are far shorter."""


class RefusalReason(StrEnum):
    """What is wrong with an order, in words that say nothing about its content."""

    TIMES = "times"
    """It, or its envelope, has expired, or is not of this node's time (§3.6)."""
    KEY_BUNDLE = "key-bundle"
    """The key bundle that it names is no longer, or not yet, valid."""
    ENVELOPE = "envelope"
    """The envelope is malformed, is not the one ordered, or is not sealed for the key bundle."""
    TERMS = "terms"
    """Its rate card or its budget is not the node's."""
    MODEL = "model"
    """The node does not serve the model."""
    UNREADABLE = "unreadable"
    """Steps 4 to 8 of §3.5 failed: which one, nobody learns."""
    REQUEST = "request"
    """Settings or length of what was opened are not within bounds (§3.5 step 9)."""


@dataclass(frozen=True, slots=True)
class Refusal(Statement):
    """One attempt that the node refused. Signed with the key of the key bundle that the order names."""

    TYPE: ClassVar[str] = "refusal"

    order: Bytes32
    bundle: Bytes32
    tenant: Name
    number: Uint
    attempt: U32
    reason: RefusalReason
    at: Ms

    @property
    def subject(self) -> str:
        """The order that it refuses."""
        return self.order.hex()


def refuse_order(order: Order, entry: bytes, reason: RefusalReason, at: int) -> Refusal:
    """Return the refusal of an order, given its entry and the time (ms)."""
    return Refusal(
        order=entry,
        bundle=order.bundle,
        tenant=order.tenant,
        number=order.number,
        attempt=order.attempt,
        reason=reason,
        at=at,
    )


def check_refused(refusal: Refusal, order: Order, entry: bytes) -> None:
    """Check that a refusal is about this order (its entry); COMMITMENT_MISMATCH if it is about another."""
    if order.part is not None:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, "no refusal closes an order for a part: it has no number"
        )
    told = (refusal.order, refusal.bundle, refusal.tenant, refusal.number, refusal.attempt)
    if told != (entry, order.bundle, order.tenant, order.number, order.attempt):
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the refusal is about another order")


def open_refusal(
    raw: bytes, bundle: KeyBundle, order: Order, entry: bytes
) -> tuple[Refusal, SignedStatement]:
    """Verify a refusal of an order, given its entry and the key bundle that it names.

    MALFORMED, UNTRUSTED_KEY or BAD_SIGNATURE for one that the node did not sign, COMMITMENT_MISMATCH for one of another order
    or in another node's name.
    """
    if len(raw) > MAX_REFUSAL:
        raise CounterfoilError(
            Code.MALFORMED, f"a refusal has at most {MAX_REFUSAL} bytes, and this one {len(raw)}"
        )
    refusal, statement = open_as(Refusal, raw, bundle.signing_key)
    check_refused(refusal, order, entry)
    if statement.issuer != bundle.issuer:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the refusal is in another node's name")
    return refusal, statement


def refusal_domain(order: bytes) -> bytes:
    """Return the number domain of an order's refusals: the log has one for each order, forever (protocol §5.7)."""
    return labelled_hash("refusal-domain", order)
