"""The monitor's requests: HTTPS only, all or nothing, bounded in size and time, never redirected.

Errors: UNAVAILABLE when there is no answer now (or a redirect, which is not followed); NOT_FOUND;
MALFORMED for a body of the wrong length; what the query API refuses keeps its code.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from audit_layer.monitor.answers import PAGE, Page, read_page, read_statement
from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.problems import from_problem
from shared.runtime.tls import client_context

TIMEOUT_S: Final = 20.0
"""For a whole request, from connecting to the last byte."""
CONNECTIONS: Final = 8
MAX_ANSWER: Final = 8 * 2**20
"""A page of statements: more than the server packs into one."""
_MAX_PROBLEM: Final = 64 * 1024
_GONE: Final = frozenset({404, 410})


class Https:
    """One origin of HTTPS requests."""

    def __init__(
        self,
        url: str,
        ca: Path | None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`ca` is its certificate authority; the system's by default. Raises CONFIGURATION."""
        if not url.startswith("https://"):
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{url[:200]!r} is not https://",
                remedy="Give the address at which the log serves `checkpoint`, beginning with https://.",
            )
        self._timeout_s = timeout_s
        try:
            self._client = httpx.AsyncClient(
                base_url=url.rstrip("/") + "/",
                verify=client_context(ca) if ca else ssl.create_default_context(),
                timeout=timeout_s,
                trust_env=False,
                limits=httpx.Limits(max_connections=CONNECTIONS),
                headers={"accept-encoding": "identity", **(headers or {})},
            )
        except httpx.InvalidURL as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"{url[:200]!r} is not an address"
            ) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(
        self, path: str, limit: int, parameters: Mapping[str, int | Sequence[str]] | None = None
    ) -> bytes:
        """Return the body of a 200 answer of at most `limit` bytes."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("GET", path, params=parameters) as answer,
            ):
                return await _body(answer, path, limit)
        except TimeoutError as error:
            raise _unavailable(f"{path} was not answered in {self._timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(f"{path} is not answered ({how_it_failed(error)})") from error


class ApiClient:
    """The part of the audit server's query API that a monitor uses."""

    def __init__(self, https: Https) -> None:
        self._https = https

    async def public(self, after: int, kinds: Sequence[str] = ()) -> Page:
        """Return public statements (of some types, or all) that follow an index; they need no token."""
        return await self._page("v1/public/statements", after, raw=True, kinds=kinds)

    async def receipts(self, after: int) -> Page:
        """Return the token's receipts that follow an index."""
        return await self._page("v1/receipts", after, raw=False)

    async def refusals(self, after: int) -> Page:
        """Return refusals of the token's orders that follow an index."""
        return await self._page("v1/refusals", after, raw=False)

    async def disclosures(self, after: int) -> Page:
        """Return disclosures of the token's receipts that follow an index."""
        return await self._page("v1/disclosures", after, raw=False)

    async def statement(self, entry: bytes) -> bytes:
        """Return the signed bytes that the server shows for an entry."""
        path = f"v1/statements/{entry.hex()}"
        return read_statement(await self._https.get(path, MAX_ANSWER), path)

    async def _page(self, path: str, after: int, *, raw: bool, kinds: Sequence[str] = ()) -> Page:
        asked: dict[str, int | Sequence[str]] = {
            "after": after,
            "limit": PAGE,
            **({"type": kinds} if kinds else {}),
        }
        body = await self._https.get(path, MAX_ANSWER, asked)
        return read_page(body, after, path, raw=raw)


async def _body(answer: httpx.Response, path: str, limit: int) -> bytes:
    status = answer.status_code
    if answer.has_redirect_location or 300 <= status < 400:
        raise _unavailable(f"{path} is answered with a redirect, which is not followed")
    if status in _GONE:
        raise CounterfoilError(Code.NOT_FOUND, f"{path} is not served")
    if status != httpx.codes.OK:
        raise from_problem(status, await _bounded(answer, path, _MAX_PROBLEM), path)
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise _unavailable(f"{path} is answered in an encoding that was not requested")
    return await _bounded(answer, path, limit)


async def _bounded(answer: httpx.Response, path: str, limit: int) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > limit:
            raise CounterfoilError(Code.MALFORMED, f"{path} is longer than {limit} bytes")
    return bytes(data)


def _unavailable(reason: str) -> CounterfoilError:
    return CounterfoilError(Code.UNAVAILABLE, reason, retry_after_s=1.0)
