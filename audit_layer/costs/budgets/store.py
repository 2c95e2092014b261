"""Budgets as they are recorded. In the caller's transaction; the last row of a tenant's name applies."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.budgets.models import BudgetRow
from shared.codec.ids import check_name
from shared.codec.money import check_currency
from shared.runtime.errors import Code, CounterfoilError

MOST_THRESHOLDS: Final = 10
MOST_PERCENT: Final = 1000


@dataclass(frozen=True, slots=True)
class Budget:
    """What is to be recorded; the fields of `BudgetRow`."""

    tenant: str
    name: str
    amount: Decimal
    currency: str
    thresholds: tuple[int, ...]
    operator: str | None = None
    cost_centre: bytes | None = None

    def __post_init__(self) -> None:
        """INVALID_ARGUMENT for what is no budget."""
        check_name(self.tenant, "the tenant")
        check_name(self.name, "the budget")
        if self.operator is not None:
            check_name(self.operator, "the operator")
        check_currency(self.currency)
        if self.amount <= 0:
            raise _wrong("a budget is more than nothing")
        known = sorted(set(self.thresholds))
        if not 1 <= len(known) <= MOST_THRESHOLDS or tuple(known) != self.thresholds:
            raise _wrong(f"a budget has 1 to {MOST_THRESHOLDS} thresholds, each once, ascending")
        if known[0] < 1 or known[-1] > MOST_PERCENT:
            raise _wrong(f"a threshold is 1 to {MOST_PERCENT} percent")


def record(db: Session, budget: Budget, *, by: str, now: int) -> BudgetRow:
    """Record a budget in place of the one of its name; the same again is the same row."""
    present = _last(db, budget.tenant, budget.name)
    if present is not None and present.active and _budget(present) == budget:
        return present
    return _add(db, budget, active=True, by=by, now=now)


def end(db: Session, tenant: str, name: str, *, by: str, now: int) -> BudgetRow:
    """End a budget; NOT_FOUND if there is none."""
    present = _last(db, tenant, name)
    if present is None:
        raise CounterfoilError(Code.NOT_FOUND, f"{tenant} has no budget {name!r}")
    if not present.active:
        return present
    return _add(db, _budget(present), active=False, by=by, now=now)


def in_force(db: Session, tenant: str | None = None) -> Sequence[BudgetRow]:
    """Return the budgets that apply, by tenant and name."""
    later = aliased(BudgetRow)
    superseded = (
        select(later.id)
        .where(
            later.tenant == BudgetRow.tenant, later.name == BudgetRow.name, later.id > BudgetRow.id
        )
        .exists()
    )
    query = select(BudgetRow).where(BudgetRow.active, ~superseded)
    if tenant is not None:
        query = query.where(BudgetRow.tenant == tenant)
    return db.scalars(query.order_by(BudgetRow.tenant, BudgetRow.name)).all()


def _last(db: Session, tenant: str, name: str) -> BudgetRow | None:
    return db.scalar(
        select(BudgetRow)
        .where(BudgetRow.tenant == tenant, BudgetRow.name == name)
        .order_by(BudgetRow.id.desc())
        .limit(1)
    )


def _budget(row: BudgetRow) -> Budget:
    centre = None if row.cost_centre is None else bytes(row.cost_centre)
    thresholds = tuple(row.thresholds)
    return Budget(row.tenant, row.name, row.amount, row.currency, thresholds, row.operator, centre)


def _add(db: Session, budget: Budget, *, active: bool, by: str, now: int) -> BudgetRow:
    row = BudgetRow(
        tenant=budget.tenant,
        name=budget.name,
        operator=budget.operator,
        cost_centre=budget.cost_centre,
        amount=budget.amount,
        currency=budget.currency,
        thresholds=list(budget.thresholds),
        active=active,
        recorded_at=now,
        recorded_by=by,
    )
    db.add(row)
    db.flush()
    return row


def _wrong(detail: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail)
