"""Budgets as use cases: each is one transaction and may be repeated."""

from collections.abc import Sequence

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from audit_layer.costs.budgets import store
from audit_layer.costs.budgets.models import BudgetRow
from audit_layer.costs.budgets.status import Status, current_month, status
from audit_layer.costs.models import PeriodRow
from audit_layer.storage.engine import session
from shared.codec.moment import now_ms


class Budgets:
    """Budgets over one database. All methods block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, budget: store.Budget, *, by: str) -> BudgetRow:
        """Record a budget in place of the one of its name."""
        with session(self._engine) as db:
            return store.record(db, budget, by=by, now=now_ms())

    def end(self, tenant: str, name: str, *, by: str) -> BudgetRow:
        """End a budget; NOT_FOUND if there is none."""
        with session(self._engine) as db:
            return store.end(db, tenant, name, by=by, now=now_ms())

    def in_force(self, tenant: str | None) -> Sequence[BudgetRow]:
        """Return the budgets that apply."""
        with session(self._engine) as db:
            return store.in_force(db, tenant)

    def check(self, tenant: str | None, month: str | None) -> Sequence[Status]:
        """Return each budget's state in a month, by default the present one; errors as in `status.status`."""
        now = now_ms()
        with session(self._engine, isolation="REPEATABLE READ") as db:
            return [
                status(db, budget, month or _present(db, budget, now), now)
                for budget in store.in_force(db, tenant)
            ]


def _present(db: Session, budget: BudgetRow, now: int) -> str:
    query = select(PeriodRow).where(PeriodRow.tenant == budget.tenant, PeriodRow.end > now)
    if budget.operator is not None:
        query = query.where(PeriodRow.operator == budget.operator)
    return current_month(db.scalars(query), now)
