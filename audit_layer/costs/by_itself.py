"""What a receipt of the trail comes to by itself (protocol §8.3, step 2), read from what was signed.

The books are made up from the trail's columns; this is what `cost fsck` holds them against.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.books import card_of
from audit_layer.costs.models import RateCardRow
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.models import StatementRow
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.orders import Order
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt
from shared.verification.rating import RatedLine, rated

ERASED: Final = "erased"
NO_ORDER: Final = "its order is not kept"


class Placed(Protocol):
    """A receipt's place: its index in the log, and its node's operator."""

    @property
    def log_index(self) -> int:
        """Its index in the log."""
        ...

    @property
    def operator(self) -> str:
        """Whose node made it."""
        ...


class Card(NamedTuple):
    """A rate card that the books know."""

    row: RateCardRow
    log_index: int
    value: RateCard


class Rating(NamedTuple):
    """Lines, or the reason why there are none; and the order, if it can be read."""

    lines: tuple[RatedLine, ...]
    reason: str | None
    order: Order | None = None


def cards_in_books(db: Session, entries: Collection[bytes] | None = None) -> Mapping[bytes, Card]:
    """Return rate cards by entry: these, or all."""
    query = select(RateCardRow, StatementRow.log_index).join(
        StatementRow, StatementRow.entry == RateCardRow.entry
    )
    if entries is not None:
        query = query.where(RateCardRow.entry.in_(entries))
    return {row.entry: Card(row, index, card_of(row)) for row, index in db.execute(query)}


def rated_by_itself(
    db: Session, row: Placed, raw: bytes, order_raw: bytes | None, card: Card | None
) -> Rating:
    """Rate one receipt, given where it is in the log, and it and its order as they are stored.

    Its rate card must precede it in the log: when the books are made up makes no difference.
    """
    if order_raw is None:  # `log fsck` reports it
        return Rating((), NO_ORDER)
    try:
        receipt = read_as(Receipt, decrypted(db, raw))
        order = read_as(Order, decrypted(db, order_raw))
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return Rating((), ERASED)
    known = card is not None and card.log_index <= row.log_index
    lines, reason = rated(receipt, card.value if card and known else None, row.operator, order)
    return Rating(lines, reason, order)
