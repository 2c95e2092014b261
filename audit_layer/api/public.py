"""What needs no token: the published log (C2SP tlog-tiles), health, metrics."""

import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from audit_layer.api.parts import Parts, status_of
from audit_layer.api.schemas import StatusView
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import problem_response

METRICS_AGE_S: Final = 5.0
"""How old metrics may be: strangers may ask as often as they like, and counting is costly."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ANY_ORIGIN: Final = {"access-control-allow-origin": "*"}
"""Verifiers in browsers may read the log from any page; it is public, and no cookie grants more."""


def public_router(parts: Parts) -> APIRouter:
    """Return the routes of the log's files, `/healthz` and `/metrics`."""
    router = APIRouter(tags=["public"])
    metrics_text = _Metrics(parts)

    @router.head("/checkpoint", include_in_schema=False)
    @router.get("/checkpoint", response_class=PlainTextResponse)
    def checkpoint(request: Request) -> Response:
        """The newest witnessed checkpoint, a signed note."""
        return _file(parts, "checkpoint", request)

    @router.head("/tile/{path:path}", include_in_schema=False)
    @router.get("/tile/{path:path}", response_class=Response)
    def tile(path: str, request: Request) -> Response:
        """A tile or entry bundle; it never changes."""
        return _file(parts, f"tile/{path}", request)

    @router.get("/healthz", response_model=dict[str, str])
    def health() -> Response:
        """Whether the server and its database answer, and the database holds what this log has signed and published."""
        try:
            parts.check_health()
        except CounterfoilError as error:
            return problem_response(error, http_status=503)
        return JSONResponse({"status": "ok"})

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(metrics_text.render(), headers={"content-type": METRICS_TYPE})

    return router


def _file(parts: Parts, path: str, request: Request) -> Response:
    whole = request.scope["path"].endswith(path)  # the router's patterns drop a trailing newline
    try:
        served = parts.files.serve(path if whole else "")  # knows exact names only
    except CounterfoilError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        missing = problem_response(error)
        missing.headers.update({**_ANY_ORIGIN, "cache-control": "no-store"})  # it may still appear
        return missing
    tag = f'"{sha256(served.body).hexdigest()}"'
    headers = {**_ANY_ORIGIN, "cache-control": served.headers.cache_control, "etag": tag}
    if _known(request.headers.getlist("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(served.body, headers={**headers, "content-type": served.headers.content_type})


def _known(conditions: list[str], tag: str) -> bool:
    """Return whether If-None-Match names the tag, by weak comparison (RFC 9110 §13.1.2)."""
    named = {one.strip().removeprefix("W/") for line in conditions for one in line.split(",")}
    return tag in named or named == {"*"}


class _Metrics:
    """The metrics, counted at most once per `METRICS_AGE_S`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._mutex = threading.Lock()
        self._rendered: tuple[float, str] | None = None

    def render(self) -> str:
        with self._mutex:
            now = time.monotonic()
            if self._rendered is None or now - self._rendered[0] > METRICS_AGE_S:
                parts = self._parts
                status = status_of(parts.origin, parts.engine, parts.trail, parts.proofs)
                self._rendered = (now, "".join(f"{line}\n" for line in _lines(status)))
            return self._rendered[1]


def _lines(status: StatusView) -> Iterator[str]:
    yield "# TYPE counterfoil_log_size gauge"
    yield f"counterfoil_log_size {status.size}"
    if status.witnessed_size is not None:
        yield "# TYPE counterfoil_log_witnessed_size gauge"
        yield f"counterfoil_log_witnessed_size {status.witnessed_size}"
    yield "# TYPE counterfoil_statements gauge"
    for kind, count in status.statements.items():
        yield f'counterfoil_statements{{type="{kind}"}} {count}'
    yield "# TYPE counterfoil_findings gauge"
    yield f"counterfoil_findings {status.findings}"
