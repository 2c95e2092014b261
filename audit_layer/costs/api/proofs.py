"""The route to proofs of invoice lines, for tokens of finance."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from audit_layer.costs.proving.service import LineProofs


def proof_router(proofs: LineProofs, keeps: Callable[..., Any]) -> APIRouter:
    """Return the route; `keeps` lets finance pass."""
    router = APIRouter()

    @router.get(
        "/invoices/{number}/lines/{line:path}/proof",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}}},
    )
    def proof(
        _: Annotated[Any, Depends(keeps)],
        number: Annotated[int, Path(ge=1, le=2**63 - 1)],
        line: Annotated[str, Path(min_length=1, max_length=128)],
    ) -> Response:
        """Everything signed behind one line, with proofs and arithmetic, as a file that is checked offline."""
        return Response(proofs.make(number, line), media_type="application/json")

    return router
