"""The error catalogue as HTTP problem details (RFC 9457), for servers and clients; no web framework here."""

import json
import math
import time
from typing import Any, Final

from shared.runtime.clocks import compared
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

MEDIA_TYPE: Final = "application/problem+json"
MAX_TEXT: Final = 1000
EXPIRES_HEADER: Final = "counterfoil-token-expires"
"""When the caller's token expires (RFC 3339); in answers to one that soon does."""


def to_problem(error: CounterfoilError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return the status, headers and members that a peer may learn of `error`.

    `code` names the catalogue's code; `metadata` holds facts for programs, unless the code is opaque.
    """
    code, meaning = error.code, error.code.value
    members: dict[str, Any] = {
        "type": f"urn:counterfoil:problem:{code.name.lower().replace('_', '-')}",
        "title": meaning.message,
        "status": meaning.http,
        "code": code.name,
    }
    headers: dict[str, str] = {}
    if not meaning.opaque:
        members["detail"] = error.detail
        if error.remedy:
            members["remedy"] = error.remedy
        if (delay := error.retry_s) is not None:
            headers["retry-after"] = str(max(1, math.ceil(delay)))
    if error.metadata and (not meaning.opaque or "incident" in error.metadata):
        members["metadata"] = error.metadata
    if code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return meaning.http, headers, members


def from_problem(status: int, body: bytes, who: str) -> CounterfoilError:
    """Return the error with which a server named `who` answered, whatever its body is."""
    try:
        members = json.loads(body)
        code = Code[members["code"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        fallback = Code.UNAVAILABLE if status >= 500 else Code.INTERNAL
        return CounterfoilError(fallback, f"{who} answered with HTTP status {status}")
    detail = _text(members.get("detail")) or code.value.message
    metadata = members.get("metadata")
    told = CounterfoilError(
        code,
        f"{who} refused: {detail}",
        remedy=_text(members.get("remedy")),
        metadata={str(k): str(v)[:MAX_TEXT] for k, v in metadata.items()}
        if isinstance(metadata, dict)
        else None,
    )
    return compared(told, time.time_ns() // 1_000_000)


def _text(value: object) -> str | None:
    """Return a stranger's text, truncated and without control characters."""
    if not isinstance(value, str) or not value:
        return None
    return printable(value, MAX_TEXT, " ")
