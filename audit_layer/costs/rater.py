"""From the log to the books: rate receipts, apply verdicts. Every function runs in the caller's transaction, one at a time.

Receipts are read as the trail's columns, thousands at once, and written by COPY; `cost fsck` recomputes them from what
was signed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from audit_layer.costs.books import Usage, post_usage, settle
from audit_layer.costs.by_itself import ERASED, NO_ORDER, Card, cards_in_books, rated_by_itself
from audit_layer.costs.models import HeededVerdictRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.payable import ANSWERED, COMPLETE
from audit_layer.costs.periods import Periods
from audit_layer.costs.rating import Facts, RatedLine, Tokens, rate_facts
from audit_layer.storage.copying import copy_tuples
from audit_layer.trail.at_rest import DAY_MS
from audit_layer.trail.models import DataKeyRow, OrderRow, ReceiptRow, StatementRow, VerdictRow
from shared.codec.moment import day_of, now_ms
from shared.codec.money import exact_sum
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Finish
from shared.statements.verdicts import Outcome

RATE_LOCK = 0x63665F72617465  # "cf_rate"

_NEXT: Final = text("""
SELECT r.entry, r.log_index, r.order_entry, r.tenant, r.number, r.attempt, r.operator, r.node, r.model_root,
       r.input_tokens, r.cached_tokens, r.output_tokens, r.finish, r.cancelled, r.started, r.ended, r.rate_card,
       o.entry AS ordered, o.max_input_tokens, o.max_output_tokens, o.max_ms, o.cost_centre,
       EXISTS (SELECT FROM trail_receipts e WHERE e.order_entry = r.order_entry AND e.log_index < r.log_index) AS answered
  FROM trail_receipts r LEFT JOIN trail_orders o ON o.entry = r.order_entry
 WHERE r.log_index > :last ORDER BY r.log_index LIMIT :limit
""")
_CONCERNED: Final = text("""
SELECT DISTINCT fresh.tenant, fresh.number FROM costs_rated_receipts fresh
 WHERE fresh.log_index BETWEEN :first AND :last
   AND (EXISTS (SELECT FROM costs_rated_receipts o WHERE o.tenant = fresh.tenant AND o.number = fresh.number
                 AND o.receipt <> fresh.receipt)
     OR EXISTS (SELECT FROM trail_verdicts v WHERE v.receipt = fresh.receipt AND v.outcome <> :passed))
""")
"""Requests of new receipts that something else has a say in: another receipt, or a verdict other than PASS."""
_COLUMNS: Final = [column.name for column in RatedReceiptRow.__table__.columns]


class _Place(NamedTuple):
    log_index: int
    operator: str


class _Came(NamedTuple):
    """What a receipt came to."""

    lines: tuple[RatedLine, ...]
    reason: str | None
    cost_centre: bytes | None


def rate_new(db: Session, limit: int) -> int:
    """Rate and post receipts that the books have not processed, in the log's order; return how many."""
    alone(db)
    _learn_cards(db)
    last = db.scalar(select(func.coalesce(func.max(RatedReceiptRow.log_index), -1)))
    rows = db.execute(_NEXT, {"last": last, "limit": limit}).all()
    if not rows:
        return 0
    rating = _Rating(
        db, cards_in_books(db, {row.rate_card for row in rows}), _erased(db), _signed(db, rows)
    )
    periods = Periods(db)
    found = [(row, rating.of(row)) for row in rows]
    records = [_record(row, came, rating.cards, periods) for row, came in found]
    post_usage(db, [record for record in records if record["amount"] is not None])
    copy_tuples(
        db.connection(),
        RatedReceiptRow,
        _COLUMNS,
        (tuple(record[name] for name in _COLUMNS) for record in records),
    )
    span = {"first": rows[0].log_index, "last": rows[-1].log_index, "passed": Outcome.PASS.value}
    settle(db, {(tenant, number) for tenant, number in db.execute(_CONCERNED, span)})
    return len(rows)


def heed_new(db: Session, limit: int) -> int:
    """Take verdicts other than PASS into account, oldest first; return how many."""
    alone(db)
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
    alone(db)
    several = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .group_by(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .having(func.count() > 1)
    )
    return settle(db, {(tenant, number) for tenant, number in several})


def alone(db: Session) -> None:
    """Wait until no other process is booking: each would post what the other does, or into what the other closes."""
    db.execute(select(func.pg_advisory_xact_lock(RATE_LOCK)))


@dataclass(frozen=True, slots=True)
class _Rating:
    """Rates rows of the trail."""

    db: Session
    cards: Mapping[bytes, Card]
    erased: frozenset[tuple[str, int]]
    signed: Mapping[bytes, Any]
    """What was signed, for receipts whose columns do not have it all."""

    def of(self, row: Row[Any]) -> _Came:
        """Return what a receipt comes to: by order and card, and as the first that answers its order."""
        if row.answered:
            return _Came((), ANSWERED, None)
        if row.ordered is None:  # `log fsck` reports it
            return _Came((), NO_ORDER, None)
        if (row.tenant, row.started // DAY_MS * DAY_MS) in self.erased:
            return _Came((), ERASED, None)
        card = self.cards.get(row.rate_card)
        if row.entry in self.signed:
            raws = self.signed[row.entry]
            lines, reason, order = rated_by_itself(
                self.db, _Place(row.log_index, row.operator), raws.raw, raws.order, card
            )
            return _Came(lines, reason, None if order is None else order.cost_centre)
        known = card is not None and card.log_index <= row.log_index
        return _Came(
            *rate_facts(_facts(row), card.value if card and known else None), row.cost_centre
        )


def _facts(row: Row[Any]) -> Facts:
    return Facts(
        tokens=_tokens(row),
        finish=Finish(row.finish),
        cancelled=row.cancelled,
        started=row.started,
        ended=row.ended,
        model_root=row.model_root,
        operator=row.operator,
        max_input=row.max_input_tokens,
        max_output=row.max_output_tokens,
        max_ms=row.max_ms,
    )


def _tokens(row: Row[Any]) -> Tokens:
    return Tokens(row.input_tokens - row.cached_tokens, row.cached_tokens, row.output_tokens)


def _signed(db: Session, rows: Sequence[Row[Any]]) -> Mapping[bytes, Any]:
    """Return the stored statements of rows that were written before the trail had a column for each fact."""
    older = [row.entry for row in rows if row.max_output_tokens is None or row.cancelled is None]
    if not older:
        return {}
    query = (
        select(ReceiptRow.entry, StatementRow.raw, OrderRow.raw.label("order"))
        .join(StatementRow, StatementRow.entry == ReceiptRow.entry)
        .outerjoin(OrderRow, OrderRow.entry == ReceiptRow.order_entry)
        .where(ReceiptRow.entry.in_(older))
    )
    return {row.entry: row for row in db.execute(query)}


def _erased(db: Session) -> frozenset[tuple[str, int]]:
    """Return the (tenant, day) whose receipts nobody can read any more."""
    gone = select(DataKeyRow.tenant, DataKeyRow.day).where(DataKeyRow.erasure.is_not(None))
    return frozenset((tenant, day) for tenant, day in db.execute(gone))


def _record(row: Row[Any], came: _Came, cards: Mapping[bytes, Card], periods: Periods) -> Usage:
    billable = came.reason is None
    amount: Decimal | None = exact_sum(line.amount for line in came.lines) if billable else None
    currency = cards[row.rate_card].row.currency if billable else None
    fresh, cached, output = _tokens(row)
    return {
        "receipt": row.entry,
        "log_index": row.log_index,
        "order_entry": row.order_entry,
        "tenant": row.tenant,
        "number": row.number,
        "attempt": row.attempt,
        "complete": row.finish in COMPLETE,
        "billable": billable,
        "reason": came.reason,
        "operator": row.operator,
        "node": row.node,
        "model_root": row.model_root,
        "day": day_of(row.ended),
        "started": row.started,
        "ended": row.ended,
        "input": fresh,
        "cached": cached,
        "output": output,
        "rate_card": row.rate_card,
        "amount": amount,
        "currency": currency,
        "cost_centre": came.cost_centre,
        "journal": None,
        "period": (
            None
            if currency is None
            else periods.holding(row.tenant, row.operator, currency, row.ended)
        ),
    }


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
