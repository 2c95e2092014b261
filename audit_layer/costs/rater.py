"""From the log to the books: rate receipts, apply verdicts. Every function runs in the caller's transaction, one at a time.

Receipts are read as the trail's columns, thousands at once, and written by COPY; `cost fsck` recomputes them from what
was signed.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from audit_layer.costs.books import COLUMNS, Usage, settle
from audit_layer.costs.by_itself import ERASED, NO_ORDER, Card, cards_in_books, rated_by_itself
from audit_layer.costs.models import (
    HeededRefusalRow,
    HeededVerdictRow,
    RateCardRow,
    RatedReceiptRow,
)
from audit_layer.costs.periods import Periods
from audit_layer.costs.rating import Scaled, rate_amount
from audit_layer.storage.copying import copy_tuples
from audit_layer.trail.at_rest import DAY_MS
from audit_layer.trail.models import (
    DataKeyRow,
    OrderRow,
    ReceiptRow,
    RefusalRow,
    StatementRow,
    VerdictRow,
)
from shared.codec.moment import now_ms
from shared.codec.money import exact_sum
from shared.runtime.faults import fault_point
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Finish
from shared.statements.verdicts import Outcome
from shared.verification.payable import ANSWERED, COMPLETE
from shared.verification.rating import Facts, Tokens

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
     OR EXISTS (SELECT FROM trail_refusals f WHERE f.order_entry = fresh.order_entry)
     OR EXISTS (SELECT FROM trail_receipts r WHERE r.entry = fresh.receipt AND r.part)
     OR EXISTS (SELECT FROM trail_verdicts v WHERE v.receipt = fresh.receipt AND v.outcome <> :passed))
""")
"""Requests of new receipts that something else has a say in: another receipt, of a part's always the head's, a refusal, or a
verdict other than PASS."""
_DAY, _AMOUNT, _CURRENCY, _PERIOD = (
    COLUMNS.index(name) for name in ("day", "amount", "currency", "period")
)
_EPOCH: Final = date(1970, 1, 1)
_FINISH: Final = {finish.value: finish for finish in Finish}


class _Next(NamedTuple):
    """A receipt of the trail with what its order bounds, as `_NEXT` selects them."""

    entry: bytes
    log_index: int
    order_entry: bytes
    tenant: str
    number: int
    attempt: int
    operator: str
    node: str
    model_root: bytes
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    finish: str
    cancelled: bool
    started: int
    ended: int
    rate_card: bytes
    ordered: bytes | None
    max_input_tokens: int | None
    max_output_tokens: int | None
    max_ms: int | None
    cost_centre: bytes | None
    answered: bool


class _Place(NamedTuple):
    log_index: int
    operator: str


class _Came(NamedTuple):
    """What a receipt came to."""

    amount: Decimal | None
    reason: str | None
    cost_centre: bytes | None


def rate_new(db: Session, limit: int) -> int:
    """Rate and post receipts that the books have not processed, in the log's order; return how many."""
    alone(db)
    _learn_cards(db)
    last = db.scalar(select(func.coalesce(func.max(RatedReceiptRow.log_index), -1)))
    rows = [*map(_Next._make, db.execute(_NEXT, {"last": last, "limit": limit}))]
    if not rows:
        return 0
    cards = cards_in_books(db, {row.rate_card for row in rows})
    rating = _Rating(db, cards, _erased(db), _signed(db, rows))
    records = [_record(row, rating.of(row)) for row in rows]
    periods, journals = Periods(db), Usage()
    for record, row in zip(records, rows, strict=True):
        if record[_AMOUNT] is not None:
            currency = record[_CURRENCY] = cards[row.rate_card].row.currency
            record[_PERIOD] = periods.holding(row.tenant, row.operator, currency, row.ended)
            journals.add(record[_DAY], row.tenant, row.operator, currency, record)
    journals.post(db)
    fault_point("costs.rate.posted")
    copy_tuples(db.connection(), RatedReceiptRow, COLUMNS, records, checked=True)
    span = {"first": rows[0].log_index, "last": rows[-1].log_index, "passed": Outcome.PASS.value}
    settle(db, {(tenant, number) for tenant, number in db.execute(_CONCERNED, span)})
    fault_point("costs.rate.settled")
    return len(rows)


def heed_new(db: Session, limit: int) -> int:
    """Take verdicts other than PASS, and refusals, into account, oldest first; return how many."""
    alone(db)
    return _heed_verdicts(db, limit) + _heed_refusals(db, limit)


def _heed_refusals(db: Session, limit: int) -> int:
    highest = select(func.coalesce(func.max(HeededRefusalRow.log_index), -1)).scalar_subquery()
    refusals = db.scalars(
        select(RefusalRow)
        .where(RefusalRow.log_index > highest)
        .order_by(RefusalRow.log_index)
        .limit(limit)
    ).all()
    db.add_all(HeededRefusalRow(refusal=row.entry, log_index=row.log_index) for row in refusals)
    answered = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .join(ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt)
        .where(ReceiptRow.order_entry.in_([row.order_entry for row in refusals]))
    )
    settle(db, {(tenant, number) for tenant, number in answered})
    return len(refusals)


def _heed_verdicts(db: Session, limit: int) -> int:
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
    fault_point("costs.heed.settled")
    return len(verdicts)


def settle_all(db: Session) -> int:
    """Settle every request that has several receipts, a part's, or a refused order, whatever was done before; return how many
    receipts changed.
    """
    alone(db)
    several = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .group_by(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .having(func.count() > 1)
    )
    refused = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .join(ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt)
        .join(RefusalRow, RefusalRow.order_entry == ReceiptRow.order_entry)
    )
    parts = db.execute(
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .join(ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt)
        .where(ReceiptRow.part)
    )
    each = (several, refused, parts)
    return settle(db, {(tenant, number) for rows in each for tenant, number in rows})


def alone(db: Session) -> None:
    """Wait until no other process is booking: each would post what the other does, or into what the other closes."""
    db.execute(select(func.pg_advisory_xact_lock(RATE_LOCK)))


class _Rating:
    """Rates rows of the trail."""

    def __init__(
        self,
        db: Session,
        cards: Mapping[bytes, Card],
        erased: frozenset[tuple[str, int]],
        signed: Mapping[bytes, Any],
    ) -> None:
        self._db = db
        self._cards = cards
        self._erased = erased
        self._signed = signed
        """What was signed, for receipts whose columns do not have it all."""
        self._prices: dict[tuple[int, bytes], Scaled | str] = {}

    def of(self, row: _Next) -> _Came:
        """Return what a receipt comes to: by order and card, and as the first that answers its order."""
        if row.answered:
            return _Came(None, ANSWERED, None)
        if row.ordered is None:  # `log fsck` reports it
            return _Came(None, NO_ORDER, None)
        if self._erased and (row.tenant, row.started // DAY_MS * DAY_MS) in self._erased:
            return _Came(None, ERASED, None)
        card = self._cards.get(row.rate_card)
        if row.entry in self._signed:
            return self._as_signed(row, card)
        known = card is not None and card.log_index <= row.log_index
        amount, reason = rate_amount(
            _facts(row), card.value if card and known else None, self._prices
        )
        return _Came(amount, reason, row.cost_centre)

    def _as_signed(self, row: _Next, card: Card | None) -> _Came:
        raws, place = self._signed[row.entry], _Place(row.log_index, row.operator)
        lines, reason, order = rated_by_itself(self._db, place, raws.raw, raws.order, card)
        amount = None if reason is not None else exact_sum(line.amount for line in lines)
        return _Came(amount, reason, None if order is None else order.cost_centre)


def _facts(row: _Next) -> Facts:
    cached = row.cached_tokens
    return Facts(
        tokens=Tokens(row.input_tokens - cached, cached, row.output_tokens),
        finish=_FINISH[row.finish],
        cancelled=row.cancelled,
        started=row.started,
        ended=row.ended,
        model_root=row.model_root,
        operator=row.operator,
        max_input=row.max_input_tokens,
        max_output=row.max_output_tokens,
        max_ms=row.max_ms,
    )


def _signed(db: Session, rows: Sequence[_Next]) -> Mapping[bytes, Any]:
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


def _record(row: _Next, came: _Came) -> list[Any]:
    """Return the values of `COLUMNS`, without currency, journal and period."""
    cached = row.cached_tokens
    return [
        *(row.entry, row.log_index, row.order_entry, row.tenant, row.number, row.attempt),
        *(row.finish in COMPLETE, came.reason is None, came.reason, row.operator, row.node),
        *(row.model_root, _EPOCH + timedelta(row.ended // DAY_MS), row.started, row.ended),
        *(row.input_tokens - cached, cached, row.output_tokens, row.rate_card, came.amount),
        *(None, came.cost_centre, None, None),
    ]


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
