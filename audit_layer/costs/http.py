"""Cost reports over HTTP, for the query API to mount."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from audit_layer.costs.exports.focus_csv import to_csv
from audit_layer.costs.service import Costs
from shared.codec.moment import days_period, parse_day

Day = Annotated[str, Query(max_length=10, json_schema_extra={"format": "date"})]
"""YYYY-MM-DD. Text, because FastAPI reads a number as a date too."""


def cost_router(costs: Costs, tenant_scope: Callable[..., str | None]) -> APIRouter:
    """Return the routes; `tenant_scope` is the API's dependency that authenticates and limits to a tenant."""
    router = APIRouter(prefix="/v1/costs", tags=["costs"])

    @router.get("/totals")
    def totals(
        tenant: str | None = Depends(tenant_scope),
    ) -> list[dict[str, str | int]]:
        """What is booked, by operator and node; amounts are exact decimals as text."""
        return costs.totals(tenant=tenant)

    @router.get(
        "/focus.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
    )
    def focus(
        start: Day,
        end: Day,
        time_zone: Annotated[str, Query(max_length=64)] = "UTC",
        tenant: str | None = Depends(tenant_scope),
    ) -> Response:
        """FOCUS 1.2 rows for the days [start, end) of a time zone; only the header where nothing was charged."""
        period = days_period(parse_day(start, "start"), parse_day(end, "end"), time_zone)
        return Response(to_csv(costs.charges(period, tenant=tenant)), media_type="text/csv")

    return router
