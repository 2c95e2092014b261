"""Cost reports over HTTP, for the query API to mount."""

from collections.abc import Callable
from datetime import date

from fastapi import APIRouter, Depends, Response

from audit_layer.costs.focus import to_csv
from audit_layer.costs.service import Costs


def cost_router(costs: Costs, tenant_scope: Callable[..., str | None]) -> APIRouter:
    """Return the routes; `tenant_scope` is the API's dependency that authenticates and limits to a tenant."""
    router = APIRouter(prefix="/v1/costs", tags=["costs"])

    @router.get("/totals")
    def totals(
        tenant: str | None = Depends(tenant_scope),
    ) -> list[dict[str, str | int]]:  # FastAPI's way
        """What is booked by operator and node; amounts are exact decimals as text."""
        return costs.totals(tenant=tenant)

    @router.get(
        "/focus.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
    )
    def focus(start: date, end: date, tenant: str | None = Depends(tenant_scope)) -> Response:
        """FOCUS 1.2 rows for the days [start, end)."""
        return Response(to_csv(costs.charges(start, end, tenant=tenant)), media_type="text/csv")

    return router
