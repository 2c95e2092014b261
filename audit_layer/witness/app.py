"""The witness over HTTP: C2SP tlog-witness, and retrieval of the latest checkpoint."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from audit_layer.witness.core import TEXT, Answer, Witness
from shared.parties.permissions import WITNESS_HTTP
from shared.runtime.http import install_problem_handlers, limited_body
from shared.runtime.http_access import HttpAccess
from shared.translog.witness_protocol import MAX_REQUEST_BYTES


def create_app(
    witness: Witness, *, extra_routers: Sequence[APIRouter] = (), behind_proxy: bool = False
) -> FastAPI:
    """Return the application: `POST /add-checkpoint`, `GET /checkpoint/{hash}`, `GET /health`.

    `extra_routers` are mounted alongside these (the beacon's, for instance); what they raise is
    answered as a problem document. Behind a proxy, that one has checked the callers' certificates.
    """
    app = FastAPI(
        title=f"Counterfoil witness {witness.name}",
        openapi_url=None,
        dependencies=[Depends(HttpAccess(WITNESS_HTTP, behind_proxy))],
    )
    install_problem_handlers(app)

    @app.post("/add-checkpoint")
    async def add_checkpoint(request: Request) -> Response:
        body = await limited_body(request, MAX_REQUEST_BYTES)
        return _response(await run_in_threadpool(witness.add_checkpoint, body))

    @app.get("/checkpoint/{origin_hash}")
    def latest(origin_hash: str) -> Response:
        held = witness.latest_by_hash(origin_hash)
        if held is None:
            return _response(Answer(404, b"this witness holds no checkpoint of that log\n"))
        return Response(held.note, media_type=TEXT, headers={"cache-control": "no-cache"})

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "witness": witness.name}

    for router in extra_routers:
        app.include_router(router)
    return app


def _response(answer: Answer) -> Response:
    return Response(
        answer.body, status_code=answer.status, headers={"content-type": answer.content_type}
    )
