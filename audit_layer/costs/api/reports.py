"""The routes of reports: spend by cost centre."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Engine

from audit_layer.costs.api.asking import Caller, Day, NameQuery, days_or_period, own
from audit_layer.costs.api.report_views import CentresView
from audit_layer.costs.reports import Reports


def add_reports(router: APIRouter, engine: Engine, reads: Callable[..., Caller]) -> None:
    """Add the routes."""
    _add_centres(router, Reports(engine), reads)


def _add_centres(router: APIRouter, reports: Reports, reads: Callable[..., Caller]) -> None:
    @router.get("/centres")
    def centres(
        caller: Annotated[Caller, Depends(reads)],
        start: Day | None = None,
        end: Day | None = None,
        time_zone: Annotated[str, Query(max_length=64)] = "UTC",
        period: Annotated[int | None, Query(ge=1)] = None,
        tenant: NameQuery = None,
        operator: NameQuery = None,
    ) -> CentresView:
        """Spend by tenant, blinded cost centre, model and currency: of the days [start, end), or of a billing period."""
        days = days_or_period(start, end, time_zone, period)
        whose = own(caller, tenant)
        if period is not None:
            return CentresView.of(reports.centres_of_period(period, tenant=whose))
        assert days is not None
        return CentresView.of(reports.centres_of_days(days, tenant=whose, operator=operator))
