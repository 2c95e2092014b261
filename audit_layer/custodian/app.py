"""The custodian over HTTPS: `POST /release`, the beacon, `GET /health`."""

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from audit_layer.custodian.core import Custodian
from shared.runtime.http import install_problem_handlers, limited_body
from shared.selection.checks import MAX_CASE
from shared.selection.http import CBOR, beacon_router
from shared.selection.service import BeaconService


def create_app(custodian: Custodian, beacon: BeaconService) -> FastAPI:
    """Return the application."""
    app = FastAPI(title=f"Counterfoil custodian {custodian.name}", openapi_url=None)
    install_problem_handlers(app)

    @app.post("/release")
    async def release(request: Request) -> Response:
        body = await limited_body(request, MAX_CASE)
        return Response(await run_in_threadpool(custodian.release, body), media_type=CBOR)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "custodian": custodian.name}

    app.include_router(beacon_router(beacon))
    return app
