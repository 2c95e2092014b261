"""What charges come to by blinded cost centre and model: one row each, however many receipts. In the caller's transaction.

The sums are those of the exports: of a billing period in the currency of its bill, of days in that of the rate card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from audit_layer.costs.billing import NET, bill_of
from audit_layer.costs.books import held
from audit_layer.costs.contracts.bill import PeriodCharge
from audit_layer.costs.models import PeriodRow
from shared.codec.moment import Period, day_of
from shared.runtime.errors import Code, CounterfoilError

MOST: Final = 200_000
"""Rows of an answer; a tenant can give every order a centre of its own."""
_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])
_SUMS: Final = """
SELECT tenant, cost_centre, model_root, currency, sum(net) AS receipts,
       sum(net * (input + cached + output)) AS tokens, sum(net * amount) AS amount,
       coalesce(sum(net * amount) FILTER (WHERE receipt = ANY(CAST(:held AS bytea[]))), 0) AS held
  FROM lines WHERE net <> 0
 GROUP BY tenant, cost_centre, model_root, currency
 ORDER BY tenant, cost_centre NULLS FIRST, model_root, currency LIMIT :most
"""
_OF_PERIOD: Final = text(f"{NET} {_SUMS}")
_OF_DAYS: Final = text(
    f"""
WITH changed AS (
  SELECT receipt, sum(CASE WHEN payable THEN 1 ELSE -1 END) AS net FROM costs_corrections
   WHERE at >= :start AND at < :end AND journal IS NOT NULL GROUP BY receipt
), lines AS (
  SELECT r.*, (1 + coalesce(c.net, 0))::int AS net
    FROM costs_rated_receipts r LEFT JOIN changed c USING (receipt)
   WHERE r.amount IS NOT NULL AND r.day BETWEEN :first AND :last AND r.ended >= :start AND r.ended < :end
     AND (CAST(:tenant AS text) IS NULL OR r.tenant = :tenant) AND (CAST(:operator AS text) IS NULL OR r.operator = :operator)
  UNION ALL
  SELECT r.*, c.net::int FROM changed c JOIN costs_rated_receipts r USING (receipt)
   WHERE r.amount IS NOT NULL AND NOT (r.ended >= :start AND r.ended < :end)
     AND (CAST(:tenant AS text) IS NULL OR r.tenant = :tenant) AND (CAST(:operator AS text) IS NULL OR r.operator = :operator)
) {_SUMS}"""  # noqa: S608  # constants
)


@dataclass(frozen=True, slots=True)
class CentreSum:
    """What the receipts of one tenant, blinded centre, model and currency come to; those taken back are negative."""

    tenant: str
    cost_centre: bytes | None
    """None for orders without tags."""
    model_root: bytes
    currency: str
    receipts: int
    tokens: int
    amount: Decimal
    """Exact; what is held is in it."""
    held: Decimal


@dataclass(frozen=True, slots=True)
class Centres:
    """The sums, and what a contract charges for the whole period, which belongs to no centre."""

    sums: Sequence[CentreSum]
    charges: Sequence[PeriodCharge] = ()
    """Of a billing period only."""
    currency: str | None = None
    """Of `charges`."""


def of_period(db: Session, row: PeriodRow) -> Centres:
    """Return what a billing period adds, in the currency of its bill; INVALID_ARGUMENT where there are too many centres."""
    bill = bill_of(db, row)
    sums = _sums(db, _OF_PERIOD, {"period": row.id}, bill.fx_rate, bill.currency)
    return Centres(sums, bill.charges, bill.currency)


def of_days(db: Session, days: Period, *, tenant: str | None, operator: str | None) -> Centres:
    """Return what `reading.charges` of the same days come to; errors as in `of_period`."""
    given = {
        "start": days.start,
        "end": days.end,
        "first": day_of(days.start),
        "last": day_of(days.end - 1),
        "tenant": tenant,
        "operator": operator,
    }
    return Centres(_sums(db, _OF_DAYS, given))


def _sums(
    db: Session,
    query: Any,
    given: dict[str, Any],
    rate: Decimal = Decimal(1),
    currency: str | None = None,
) -> Sequence[CentreSum]:
    rows = db.execute(query, {**given, "held": list(held(db)), "most": MOST + 1}).all()
    if len(rows) > MOST:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"there are more than {MOST:,} cost centres and models in that time",
            remedy="Ask for fewer days, or for one tenant.",
        )
    return [
        CentreSum(
            tenant=row.tenant,
            cost_centre=row.cost_centre and bytes(row.cost_centre),
            model_root=bytes(row.model_root),
            currency=currency or row.currency,
            receipts=int(row.receipts),
            tokens=int(row.tokens),
            amount=_EXACT.multiply(row.amount, rate),
            held=_EXACT.multiply(row.held, rate),
        )
        for row in rows
    ]
