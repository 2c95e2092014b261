"""Tables of budgets: what is to be spent, and the alerts of what was. Append-only."""

from decimal import Decimal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.costs.columns import KEPT_BY_WORKER, Exact
from audit_layer.storage.base import Base, Name, RowId, UnixMs, bytes_check, not_negative


class BudgetRow(Base):
    """What a tenant means to spend in a calendar month; the last row of a tenant's name applies.

    Its months are those of the billing periods, in the time zone of each contract.
    """

    __tablename__ = "costs_budgets"
    __table_args__ = (
        Index(None, "tenant", "name"),
        bytes_check("cost_centre", 32),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("cardinality(thresholds) BETWEEN 1 AND 10", name="thresholds"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    tenant: Mapped[Name]
    name: Mapped[Name]
    operator: Mapped[str | None] = mapped_column(Text)
    """Null: all of the tenant's operators."""
    cost_centre: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """The blinded tags whose orders count; null: every order."""
    amount: Mapped[Decimal] = mapped_column(Exact)
    currency: Mapped[Name]
    """Of the bills."""
    thresholds: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """Percent of the amount, each once, ascending."""
    active: Mapped[bool] = mapped_column(Boolean)
    """False where the budget ended."""
    recorded_at: Mapped[UnixMs]
    recorded_by: Mapped[Name]


class BudgetAlertRow(Base):
    """What happened to the alert of one threshold in one month: it is raised once (turn 0), then attempts to send it follow.

    Nothing follows `sent` and `given-up`.
    """

    __tablename__ = "costs_budget_alerts"
    __table_args__ = (
        PrimaryKeyConstraint("budget", "month", "threshold", "turn"),
        CheckConstraint("state IN ('raised', 'failed', 'sent', 'given-up')", name="state"),
        CheckConstraint("(turn = 0) = (state = 'raised')", name="raised_first"),
        CheckConstraint("(body IS NOT NULL) = (state = 'raised')", name="body"),
        not_negative("turn"),
        KEPT_BY_WORKER,
    )

    budget: Mapped[int] = mapped_column(BigInteger, ForeignKey("costs_budgets.id"))
    month: Mapped[str] = mapped_column(Text)
    """YYYY-MM."""
    threshold: Mapped[int] = mapped_column(Integer)
    turn: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    at: Mapped[UnixMs]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What is sent, the same bytes in every attempt."""
    note: Mapped[str | None] = mapped_column(Text)
    """How an attempt failed."""
