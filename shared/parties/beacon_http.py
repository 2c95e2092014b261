"""The beacon's two endpoints, for any server that hosts a party. Bodies are deterministic CBOR."""

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from shared.parties.beacon_service import MAX_COMMITMENT_REQUEST, MAX_MESSAGE, BeaconService
from shared.runtime.http import limited_body

CBOR = "application/cbor"


def beacon_router(service: BeaconService) -> APIRouter:
    """Return `POST /beacon/commitment` and `POST /beacon/reveal`; each answers with a signed statement."""
    router = APIRouter(prefix="/beacon")

    @router.post("/commitment")
    async def commitment(request: Request) -> Response:
        body = await limited_body(request, MAX_COMMITMENT_REQUEST)
        return Response(await run_in_threadpool(service.commitment, body), media_type=CBOR)

    @router.post("/reveal")
    async def reveal(request: Request) -> Response:
        body = await limited_body(request, MAX_MESSAGE)
        return Response(await run_in_threadpool(service.reveal, body), media_type=CBOR)

    return router
