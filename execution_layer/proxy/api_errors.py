"""The error catalogue in the API's own shape, as its clients read it. Pure, but for the response's class."""

import math
from typing import Any, Final

from starlette.responses import JSONResponse

from shared.runtime.errors import Code, CounterfoilError, sentences

_CALLERS: Final = frozenset({Code.INVALID_ARGUMENT, Code.UNSUPPORTED, Code.UNKNOWN_MODEL})
"""What the caller can mend, whoever says it."""
_OURS: Final = frozenset(
    {
        Code.QUOTA,
        Code.OVERLOADED,
        Code.UNAVAILABLE,
        Code.DRAINING,
        Code.DEADLINE,
        Code.INTERNAL,
        Code.CONFIGURATION,
    }
)
"""What has a status of its own. Everything else that a node, the log or the checks say is a bad answer from upstream."""
_BAD_GATEWAY: Final = 502
_NAMES: Final = {
    Code.UNAUTHENTICATED: "invalid_api_key",
    Code.UNKNOWN_MODEL: "model_not_found",
    Code.OVERLOADED: "rate_limit_exceeded",
    Code.QUOTA: "rate_limit_exceeded",
}
"""The API's own names; other codes have those of the catalogue."""


def upstream_status(code: Code) -> int:
    """Return the status for what ended a request after it was accepted from the caller: a node's lie is not the caller's."""
    return code.value.http if code in _CALLERS | _OURS else _BAD_GATEWAY


def error_members(error: CounterfoilError, status: int) -> dict[str, Any]:
    """Return the API's `error` object; of an opaque error no more than its code's sentence."""
    told = error.code.value.message
    if not error.code.value.opaque:
        told = " ".join(sentences(error.detail, error.remedy))
    return {
        "message": told,
        "type": _kind(status),
        "param": error.metadata.get("param"),
        "code": _NAMES.get(error.code, error.code.name.lower()),
    }


def answer_error(error: CounterfoilError, *, http_status: int | None = None) -> JSONResponse:
    """Return the response that carries `error`, with its code's status unless one is given.

    Clients repeat what failed with a status of 409 or from 500 by themselves. What was ordered is paid for, so they are told not to
    unless nothing was accepted.
    """
    meaning = error.code.value
    status = meaning.http if http_status is None else http_status
    headers = {"x-should-retry": "true" if meaning.retryable else "false"}
    if (delay := error.retry_s) is not None:
        headers["retry-after"] = str(max(1, math.ceil(delay)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(
        {"error": error_members(error, status)}, status_code=status, headers=headers
    )


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
