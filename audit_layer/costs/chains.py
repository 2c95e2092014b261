"""The places of receipts in chains of nodes, from the trail's columns. In the caller's transaction."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from audit_layer.costs.models import RatedReceiptRow
from audit_layer.trail.models import OrderRow, ReceiptRow
from shared.verification.chain_claims import Link

_HASH: Final = 32


def links_of(db: Session, *which: ColumnElement[bool]) -> Mapping[bytes, Link]:
    """Return the links of those receipts of chains that the books have, by entry, for some condition on `RatedReceiptRow`."""
    query = (
        select(
            ReceiptRow.entry,
            ReceiptRow.input_tokens,
            ReceiptRow.cached_tokens,
            ReceiptRow.output_tokens,
            ReceiptRow.sent,
            ReceiptRow.received,
            ReceiptRow.stages,
            OrderRow.head,
            OrderRow.place,
        )
        .join(RatedReceiptRow, RatedReceiptRow.receipt == ReceiptRow.entry)
        .outerjoin(OrderRow, OrderRow.entry == ReceiptRow.order_entry)
        .where(or_(ReceiptRow.part, ReceiptRow.sent.is_not(None)), *which)
    )
    return {
        row.entry: Link(
            usage=(row.input_tokens, row.cached_tokens, row.output_tokens),
            head=row.head,
            place=row.place or 0,
            sent=row.sent,
            received=row.received,
            stages=_entries(row.stages or b""),
        )
        for row in db.execute(query)
    }


def _entries(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[at : at + _HASH] for at in range(0, len(joined), _HASH))
