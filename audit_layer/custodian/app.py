"""The custodian over HTTPS: `POST /release`, `POST /share`, the beacon, `GET /reports`, `GET /health`."""

from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from audit_layer.custodian.core import Custodian
from audit_layer.custodian.store import Report
from shared.parties.beacon_http import CBOR, beacon_router
from shared.parties.beacon_service import BeaconService
from shared.parties.custody import MAX_SHARE_REQUEST
from shared.parties.permissions import CUSTODIAN_HTTP
from shared.runtime.http import install_problem_handlers, limited_body
from shared.runtime.http_access import HttpAccess
from shared.statements.beacons import BeaconReveal
from shared.verification.release_case import MAX_CASE


def create_app(
    custodian: Custodian, beacon: BeaconService, *, behind_proxy: bool = False
) -> FastAPI:
    """Return the application. Behind a proxy, that one has checked the callers' certificates."""
    app = FastAPI(
        title=f"Counterfoil custodian {custodian.name}",
        openapi_url=None,
        dependencies=[Depends(HttpAccess(CUSTODIAN_HTTP, behind_proxy))],
    )
    install_problem_handlers(app)

    @app.post("/release")
    async def release(request: Request) -> Response:
        body = await limited_body(request, MAX_CASE)
        return Response(await run_in_threadpool(custodian.release, body), media_type=CBOR)

    @app.post("/share")
    async def share(request: Request) -> Response:
        body = await limited_body(request, MAX_SHARE_REQUEST)
        return Response(await run_in_threadpool(custodian.share, body), media_type=CBOR)

    @app.get("/reports")
    def reports() -> dict[str, list[dict[str, Any]]]:
        return {"reports": [public_report(report) for report in custodian.store.reports()]}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "custodian": custodian.name}

    app.include_router(beacon_router(beacon))
    return app


def public_report(report: Report) -> dict[str, Any]:
    """Return what anyone may know about a report: the statement by its entry only, since not all are public.

    The custodian's own reveal is shown in full: anyone who does not find it in the log sees here that it was made.
    """
    own = report.shown.get("own_reveal")
    return {
        "rule": report.rule.value,
        "epoch": report.epoch,
        "detail": report.detail,
        "entry": report.about.hex(),
        "at": report.at,
        BeaconReveal.TYPE: None if own is None else own.hex(),
    }
