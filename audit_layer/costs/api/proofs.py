"""The route to proofs of invoice lines, for tokens of finance."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from audit_layer.costs.proving.service import LineProofs


def proof_router(proofs: LineProofs, asking: Callable[..., Any]) -> APIRouter:
    """Return the route; `keeps` lets finance pass."""
    router = APIRouter()

    @router.get(
        "/invoices/{number}/lines/{line:path}/proof",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}}},
    )
    def proof(
        _: Annotated[Any, Depends(asking)],
        number: Annotated[int, Path(ge=1, le=2**63 - 1)],
        line: Annotated[str, Path(min_length=1, max_length=128)],
        first_index: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    ) -> Response:
        """Everything signed behind one line, with proofs and arithmetic, as a file that is checked offline.

        A line with many receipts takes several files: `scope.end_index` of one is `first_index` of the next, and 2^63 in
        the last.
        """
        return Response(
            proofs.make(number, line, first_index=first_index), media_type="application/json"
        )

    return router
