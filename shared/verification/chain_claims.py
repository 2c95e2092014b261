"""What the receipts of one chain of nodes say of each other (protocol §4.10.4, §8.3 step 6). Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol, Self

from shared.statements.orders import Order
from shared.statements.receipts import Receipt

MISSING: Final = "the log lacks a receipt that its chain lists"
OTHERS_ORDER: Final = "its chain lists a receipt of another order or place"
OTHER_USAGE: Final = "its chain's receipts bill different tokens"
BROKEN: Final = "its chain's nodes disagree on what passed between them"


@dataclass(frozen=True, slots=True)
class Link:
    """What a receipt of a chain, or one that a stage's order has, says of its place in it."""

    usage: tuple[int, int, int]
    """Input (with the cached), cached and output tokens."""
    head: bytes | None = None
    """Entry of the head's order; None for a head."""
    place: int = 0
    sent: bytes | None = None
    """Root of what it sent, and of what it received; None if it failed."""
    received: bytes | None = None
    stages: tuple[bytes, ...] = ()
    """Of a head: entries of the stages' receipts, in order."""

    @classmethod
    def of(cls, receipt: Receipt, order: Order) -> Self | None:
        """Return the link of a receipt; None if it is of no chain."""
        chain, part, usage = receipt.chain, order.part, receipt.usage
        if chain is None and part is None:
            return None
        return cls(
            usage=(usage.input, usage.cached, usage.output),
            head=None if part is None else part.head,
            place=0 if part is None else part.place,
            sent=None if chain is None else chain.sent,
            received=None if chain is None else chain.received,
            stages=() if chain is None else chain.stages or (),
        )


class Linked(Protocol):
    """A receipt with its link."""

    @property
    def receipt(self) -> bytes:
        """Its entry."""

    @property
    def order(self) -> bytes:
        """The entry of its order."""

    @property
    def link(self) -> Link | None:
        """None if it is of no chain."""


def fault(head: Linked, known: Mapping[bytes, Linked]) -> tuple[str, bytes | None] | None:
    """Return why a head's receipt and those that it lists do not fit, and the receipt that shows it; None if they do.

    `known` are the receipts in the log of the head's request. Whoever lists what nobody can look at is not paid either: it could
    be the receipt of whoever cheated. Anybody who has it can hand it in, the head first of all.
    """
    assert head.link is not None
    for place, entry in enumerate(head.link.stages, start=1):
        stage = known.get(entry)
        if stage is None:
            return MISSING, None
        link = stage.link
        if link is None or (link.head, link.place) != (head.order, place):
            return OTHERS_ORDER, entry
        if link.usage != head.link.usage:
            return OTHER_USAGE, entry
    return next(_breaks(head, known), None)


def _breaks(head: Linked, known: Mapping[bytes, Linked]) -> Iterator[tuple[str, bytes]]:
    """Yield each boundary on which the nodes of its two sides disagree, with the stage's receipt that is on one of them."""
    assert head.link is not None
    ring = (head, *(known[entry] for entry in head.link.stages), head)
    for before, behind in pairwise(ring):
        if before.link is None or behind.link is None or before.link.sent != behind.link.received:
            yield BROKEN, (before if behind is head else behind).receipt
