"""Billing periods as people see them. In the caller's transaction."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.models import PeriodEventRow, PeriodRow
from audit_layer.costs.periods import OPEN
from shared.statements.cose import entry_of


@dataclass(frozen=True, slots=True)
class PeriodState:
    """A period, and its last event."""

    row: PeriodRow
    state: str = OPEN
    since: int | None = None
    by: str | None = None
    seal: bytes | None = None
    """Entry of the seal that closed it."""


def periods(
    db: Session, *, tenant: str | None = None, operator: str | None = None
) -> list[PeriodState]:
    """Return the periods, the latest first."""
    later = aliased(PeriodEventRow)
    last = ~select(later).where(
        later.period == PeriodEventRow.period, later.turn > PeriodEventRow.turn
    ).exists()  # fmt: skip
    query = (
        select(PeriodRow, PeriodEventRow)
        .outerjoin(PeriodEventRow, (PeriodEventRow.period == PeriodRow.id) & last)
        .order_by(PeriodRow.start.desc(), PeriodRow.tenant, PeriodRow.operator, PeriodRow.currency)
    )
    if tenant is not None:
        query = query.where(PeriodRow.tenant == tenant)
    if operator is not None:
        query = query.where(PeriodRow.operator == operator)
    return [_state(row, event) for row, event in db.execute(query)]


def _state(row: PeriodRow, event: PeriodEventRow | None) -> PeriodState:
    if event is None:
        return PeriodState(row)
    seal = None if event.statement is None else entry_of(event.statement)
    return PeriodState(row, event.state, event.at, event.by, seal)
