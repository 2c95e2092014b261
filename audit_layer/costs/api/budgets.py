"""The routes of budgets: tenants read their own, finance sets them."""

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Final, Self

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from audit_layer.costs.api.asking import NAME_PATTERN, Body, Caller, NameQuery, own
from audit_layer.costs.api.views import View
from audit_layer.costs.budgets.forecast import ASSUMPTION
from audit_layer.costs.budgets.models import BudgetRow
from audit_layer.costs.budgets.status import Status
from audit_layer.costs.budgets.store import Budget
from audit_layer.costs.budgets.use import Budgets
from audit_layer.costs.reporting import exact
from shared.codec.ids import parse_hex32
from shared.codec.money import parse_decimal

DEFAULT: Final = [50, 80, 100]


class BudgetBody(Body):
    """A budget to be recorded."""

    tenant: Annotated[str, Field(pattern=NAME_PATTERN)]
    amount: Annotated[str, Field(max_length=64)]
    """For one calendar month."""
    currency: Annotated[str, Field(max_length=12)]
    """Of the bills."""
    thresholds: list[int] = Field(default_factory=DEFAULT.copy, max_length=10)
    """Percent."""
    operator: Annotated[str | None, Field(pattern=NAME_PATTERN)] = None
    cost_centre: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = None
    """Blinded tags: only orders that show them count."""


class EndBody(Body):
    """Whose budget ends."""

    tenant: Annotated[str, Field(pattern=NAME_PATTERN)]


class BudgetView(View):
    """A recorded budget."""

    id: int
    tenant: str
    name: str
    operator: str | None
    cost_centre: str | None
    amount: str
    currency: str
    thresholds: list[int]
    active: bool
    recorded_at: int
    recorded_by: str

    @classmethod
    def of(cls, row: BudgetRow) -> Self:
        """Return the view."""
        return cls(
            id=row.id,
            tenant=row.tenant,
            name=row.name,
            operator=row.operator,
            cost_centre=None if row.cost_centre is None else row.cost_centre.hex(),
            amount=exact(Fraction(row.amount)),
            currency=row.currency,
            thresholds=list(row.thresholds),
            active=row.active,
            recorded_at=row.recorded_at,
            recorded_by=row.recorded_by,
        )


class StatusView(View):
    """A budget in one month."""

    budget: BudgetView
    month: str
    at: int
    spent: str
    forecast: str
    """Exact: a decimal, or numerator/denominator."""
    assumption: str
    """What the forecast takes for granted, in words."""
    crossed: list[int]
    """Thresholds that are reached, percent."""
    will_cross: list[int]
    """Thresholds that only the forecast reaches."""
    other_currencies: dict[str, str]
    """Spent, and not counted."""

    @classmethod
    def of(cls, found: Status) -> Self:
        """Return the view."""
        return cls(
            budget=BudgetView.of(found.budget),
            month=found.month,
            at=found.at,
            spent=exact(Fraction(found.spent)),
            forecast=exact(found.forecast),
            assumption=ASSUMPTION,
            crossed=list(found.crossed),
            will_cross=list(found.will_cross),
            other_currencies={
                name: exact(Fraction(amount)) for name, amount in found.others.items()
            },
        )


def add_budgets(
    router: APIRouter,
    budgets: Budgets,
    asking: Callable[..., Caller],
) -> None:
    """Add the routes."""

    @router.get("/budgets")
    def listed(
        caller: Annotated[Caller, Depends(asking)], tenant: NameQuery = None
    ) -> list[BudgetView]:
        """Budgets that apply, by tenant and name."""
        return [BudgetView.of(row) for row in budgets.in_force(own(caller, tenant))]

    @router.get("/budget-status")
    def checked(
        caller: Annotated[Caller, Depends(asking)],
        tenant: NameQuery = None,
        month: Annotated[str | None, Query(max_length=7)] = None,
    ) -> list[StatusView]:
        """Spent and forecast of each budget, in a month (YYYY-MM; by default the present one)."""
        return [StatusView.of(found) for found in budgets.check(own(caller, tenant), month)]

    @router.put("/budgets/{name}")
    def put(caller: Annotated[Caller, Depends(asking)], name: str, body: BudgetBody) -> BudgetView:
        """Record a budget in place of the tenant's one of that name."""
        centre = body.cost_centre
        budget = Budget(
            tenant=body.tenant,
            name=name,
            amount=parse_decimal(body.amount),
            currency=body.currency,
            thresholds=tuple(body.thresholds),
            operator=body.operator,
            cost_centre=None if centre is None else parse_hex32(centre, "a cost centre"),
        )
        return BudgetView.of(budgets.record(budget, by=caller.name))

    @router.post("/budgets/{name}/end")
    def end(caller: Annotated[Caller, Depends(asking)], name: str, body: EndBody) -> BudgetView:
        """End a budget; it stays on record."""
        return BudgetView.of(budgets.end(body.tenant, name, by=caller.name))
