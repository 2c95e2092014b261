"""The routes of reports: spend by cost centre, physical plausibility."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy import Engine

from audit_layer.costs.api.asking import (
    NAME_PATTERN,
    Body,
    Caller,
    Day,
    NameQuery,
    days_or_period,
    own,
)
from audit_layer.costs.api.report_views import CentresView, NodeView, PlausibilityView
from audit_layer.costs.plausibility.serving_file import MAX_BYTES as SERVING_BYTES
from audit_layer.costs.reports import Reports, ServingFiles
from shared.codec.moment import days_period, parse_day
from shared.verification.devices import MAX_BYTES as DEVICES_BYTES


class PlausibilityBody(Body):
    """How an operator serves, and whose receipts are held against it."""

    operator: Annotated[str, Field(pattern=NAME_PATTERN)]
    node: Annotated[str | None, Field(pattern=NAME_PATTERN)] = None
    start: Annotated[str, Field(max_length=10)]
    """First day, YYYY-MM-DD."""
    end: Annotated[str, Field(max_length=10)]
    """Day after the last."""
    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    serving: Annotated[str, Field(max_length=SERVING_BYTES)]
    """TOML, as docs/plausibility.md has it."""
    devices: Annotated[str | None, Field(max_length=DEVICES_BYTES)] = None
    """TOML with devices that the table does not have."""


def add_reports(router: APIRouter, engine: Engine, asking: Callable[..., Caller]) -> None:
    """Add the routes."""
    _add_centres(router, Reports(engine), asking)
    _add_plausibility(router, Reports(engine), asking)


def _add_centres(router: APIRouter, reports: Reports, asking: Callable[..., Caller]) -> None:
    @router.get("/centres")
    def centres(
        caller: Annotated[Caller, Depends(asking)],
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


def _add_plausibility(router: APIRouter, reports: Reports, asking: Callable[..., Caller]) -> None:
    @router.post("/plausibility")
    def plausibility(
        _: Annotated[Caller, Depends(asking)], body: PlausibilityBody
    ) -> PlausibilityView:
        """Hold an operator's receipts against what its declared hardware can do; nothing is stored."""
        days = days_period(
            parse_day(body.start, "start"), parse_day(body.end, "end"), body.time_zone
        )
        devices = None if body.devices is None else body.devices.encode()
        files = ServingFiles(body.serving.encode(), devices)
        found = reports.plausibility(days, body.operator, files, node=body.node)
        return PlausibilityView(
            operator=body.operator,
            nodes=[NodeView.of(each) for each in found],
            implausible=any(each.implausible for each in found),
        )
