"""From the log to the books: rate receipts, apply verdicts. Every function runs in the caller's transaction, one at a time."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.books import Posting, settle
from audit_layer.costs.by_itself import cards_in_books, rated_by_itself
from audit_layer.costs.models import (
    HeededVerdictRow,
    RateCardRow,
    RatedLineRow,
    RatedReceiptRow,
)
from audit_layer.costs.payable import ANSWERED, COMPLETE
from audit_layer.costs.rating import RatedLine
from audit_layer.trail.models import OrderRow, ReceiptRow, StatementRow, VerdictRow
from shared.codec.moment import day_of, now_ms
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.verdicts import Outcome

RATE_LOCK = 0x63665F72617465  # "cf_rate"


def rate_new(db: Session, limit: int) -> int:
    """Rate and post receipts that the books have not processed, oldest first; return how many."""
    _alone(db)
    _learn_cards(db)
    receipts = db.execute(
        select(ReceiptRow, StatementRow.raw, OrderRow.raw)
        .join(StatementRow, StatementRow.entry == ReceiptRow.entry)
        .outerjoin(OrderRow, OrderRow.entry == ReceiptRow.order_entry)
        .outerjoin(RatedReceiptRow, RatedReceiptRow.receipt == ReceiptRow.entry)
        .where(RatedReceiptRow.receipt.is_(None))
        .order_by(ReceiptRow.log_index)
        .limit(limit)
    ).all()
    rows = [row for row, _, _ in receipts]
    answered = _answered(db, rows)
    cards = cards_in_books(db, {row.rate_card for row in rows})
    posting = Posting(db)
    for row, raw, order_raw in receipts:
        if row.order_entry in answered:
            db.add(_dealt_with(row, ANSWERED))
            continue
        answered.add(row.order_entry)
        card = cards.get(row.rate_card)
        lines, reason, order = rated_by_itself(db, row, raw, order_raw, card)
        db.add(_dealt_with(row, reason))
        if card is None or order is None:
            continue
        for line in lines:
            posting.add(_line_row(row, order.cost_centre, card.row, line))
    db.flush()
    posting.post()
    settle(db, {(row.tenant, row.number) for row in rows})
    return len(rows)


def heed_new(db: Session, limit: int) -> int:
    """Take verdicts other than PASS into account, oldest first; return how many."""
    _alone(db)
    highest = select(func.coalesce(func.max(HeededVerdictRow.log_index), -1)).scalar_subquery()
    verdicts = db.scalars(
        select(VerdictRow)
        .where(VerdictRow.log_index > highest, VerdictRow.outcome != Outcome.PASS.value)
        .order_by(VerdictRow.log_index)
        .limit(limit)
    ).all()
    db.add_all(HeededVerdictRow(verdict=row.entry, log_index=row.log_index) for row in verdicts)
    concerned = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number).where(
            RatedReceiptRow.receipt.in_([row.receipt for row in verdicts])
        )
    )
    settle(db, {(tenant, number) for tenant, number in concerned})
    return len(verdicts)


def settle_all(db: Session) -> int:
    """Settle every request that has several receipts, whatever was done before; return how many receipts changed."""
    _alone(db)
    several = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .group_by(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .having(func.count() > 1)
    )
    return settle(db, {(tenant, number) for tenant, number in several})


def _alone(db: Session) -> None:
    """Wait until no other process is rating: each would post what the other does."""
    db.execute(select(func.pg_advisory_xact_lock(RATE_LOCK)))


def _answered(db: Session, receipts: Sequence[ReceiptRow]) -> set[bytes]:
    """Return those of the receipts' orders that an earlier receipt in the log has answered."""
    orders = {row.order_entry for row in receipts}
    return set(
        db.scalars(
            select(RatedReceiptRow.order_entry).where(RatedReceiptRow.order_entry.in_(orders))
        )
    )


def _learn_cards(db: Session) -> None:
    """Record rate cards that have entered the log since the last time."""
    known = select(RateCardRow.entry)
    new = db.scalars(
        select(StatementRow).where(
            StatementRow.type == RateCard.TYPE, StatementRow.entry.not_in(known)
        )
    )
    for statement in new:
        card = read_as(RateCard, statement.raw)
        db.add(
            RateCardRow(
                entry=statement.entry,
                operator=card.operator,
                name=card.name,
                currency=card.currency,
                valid_from=card.valid_from,
                valid_to=card.valid_to,
                statement=statement.raw,
                recorded_at=now_ms(),
            )
        )
    db.flush()


def _dealt_with(row: ReceiptRow, reason: str | None) -> RatedReceiptRow:
    return RatedReceiptRow(
        receipt=row.entry,
        log_index=row.log_index,
        order_entry=row.order_entry,
        tenant=row.tenant,
        number=row.number,
        attempt=row.attempt,
        complete=row.finish in COMPLETE,
        billable=reason is None,
        reason=reason,
    )


def _line_row(
    row: ReceiptRow, cost_centre: bytes | None, card: RateCardRow, line: RatedLine
) -> RatedLineRow:
    return RatedLineRow(
        receipt=row.entry,
        log_index=row.log_index,
        tenant=row.tenant,
        operator=row.operator,
        node=row.node,
        model_root=row.model_root,
        rate_card=card.entry,
        day=day_of(row.ended),
        started=row.started,
        ended=row.ended,
        kind=line.kind.value,
        quantity=line.quantity,
        unit_price=line.unit_price,
        per=line.per,
        amount=line.amount,
        currency=card.currency,
        cost_centre=cost_centre,
    )
