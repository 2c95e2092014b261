"""How much of a budget is spent in a month, from the billing periods that begin in it. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from fractions import Fraction
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from audit_layer.costs.billing import NET
from audit_layer.costs.budgets.forecast import Part, crossed, forecast
from audit_layer.costs.budgets.models import BudgetRow
from audit_layer.costs.contracts.store import terms_at
from audit_layer.costs.contracts.terms import last_day
from audit_layer.costs.models import PeriodRow
from shared.codec.moment import Period, day_of, parse_month
from shared.codec.money import exact_sum

_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])
_SPENT: Final = text(
    f"{NET} SELECT coalesce(sum(net * amount), 0) FROM lines"  # noqa: S608  # constants
    " WHERE net <> 0 AND (CAST(:centre AS bytea) IS NULL OR cost_centre = :centre)"
)
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Status:
    """A budget in one month."""

    budget: BudgetRow
    month: str
    """YYYY-MM."""
    at: int
    spent: Decimal
    """Exact, in the budget's currency."""
    forecast: Fraction
    """What the month will come to (`forecast.ASSUMPTION`)."""
    others: Mapping[str, Decimal]
    """What is spent in other currencies, and so not counted."""

    @property
    def crossed(self) -> tuple[int, ...]:
        """Thresholds that what is spent has reached, percent."""
        return crossed(Fraction(self.spent), self.budget.amount, self.budget.thresholds)

    @property
    def will_cross(self) -> tuple[int, ...]:
        """Thresholds that only the forecast reaches."""
        reached = crossed(self.forecast, self.budget.amount, self.budget.thresholds)
        return tuple(percent for percent in reached if percent not in self.crossed)


def status(db: Session, budget: BudgetRow, month: str, at: int) -> Status:
    """Return a budget's state in a month, at a time (ms).

    Errors: INVALID_ARGUMENT for what is no month; CONFLICT where a contract bills in another currency than its rate cards
    and has no exchange rate.
    """
    parts: list[Part] = []
    others: dict[str, list[Decimal]] = defaultdict(list)
    for row in periods_of(db, budget, month):
        spent, currency = _spent(db, row, budget.cost_centre)
        if currency == budget.currency:
            parts.append(Part(Period(row.start, row.end), spent))
        elif spent:
            others[currency].append(spent)
    return Status(
        budget=budget,
        month=month,
        at=at,
        spent=exact_sum(part.spent for part in parts),
        forecast=forecast(parts, at),
        others={currency: exact_sum(amounts) for currency, amounts in sorted(others.items())},
    )


def periods_of(db: Session, budget: BudgetRow, month: str) -> Sequence[PeriodRow]:
    """Return the billing periods that begin in a month of their own time zone."""
    utc = parse_month(month)
    query = select(PeriodRow).where(
        PeriodRow.tenant == budget.tenant,
        PeriodRow.start >= utc.start - _DAY_MS,  # no time zone is a day away from UTC
        PeriodRow.start < utc.end + _DAY_MS,
    )
    if budget.operator is not None:
        query = query.where(PeriodRow.operator == budget.operator)
    rows = db.scalars(query.order_by(PeriodRow.operator, PeriodRow.currency, PeriodRow.start))
    return [row for row in rows if month_of(row) == month]


def month_of(row: PeriodRow) -> str:
    """Return the month in which a period begins, YYYY-MM."""
    return day_of(row.start, row.time_zone).isoformat()[:7]


def current_month(rows: Iterable[PeriodRow], at: int) -> str:
    """Return the month of a time: of the latest period that holds it, or else in UTC."""
    months = [month_of(row) for row in rows if row.start <= at < row.end]
    return max(months, default=day_of(at).isoformat()[:7])


def _spent(db: Session, row: PeriodRow, centre: bytes | None) -> tuple[Decimal, str]:
    """Return what a period adds, in the currency of its bill."""
    terms = terms_at(db, row.tenant, row.operator, row.end - 1)
    currency = terms.currency or row.currency
    spent = db.scalar(_SPENT, {"period": row.id, "centre": centre}) or Decimal(0)
    if currency == row.currency or not spent:
        return spent, currency
    day = last_day(Period(row.start, row.end), row.time_zone)
    return _EXACT.multiply(spent, terms.fx_rate(row.currency, day)), currency
