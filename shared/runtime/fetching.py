"""HTTPS GET for processes that need nothing more: all or nothing, bounded in size and time, never redirected.

Standard library only, because a client installs without an HTTP library. The answer is read to its end first, within its
bounds, and parsed then (`http.client`), so no server can hold a reader with what it announces.
"""

import asyncio
import http.client
import io
import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError

TIMEOUT_S: Final = 10.0
"""For a whole request, from connecting to the last byte."""
_MAX_HEAD: Final = 64 * 2**10
"""Bytes that head and framing of an answer may add to its body."""
_PIECE: Final = 64 * 2**10
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
_GONE: Final = frozenset({404, 410})
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class HttpsFiles:
    """Files below one https:// address. Certificates: the system's authorities, and `ca` in addition.

    A bearer `token` goes with every request.
    """

    def __init__(
        self,
        url: str,
        ca: Path | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        token: str | None = None,
    ) -> None:
        """Raise CONFIGURATION if it is not such an address, or if no header can carry the token."""
        if token is not None and not _TOKEN.fullmatch(token):
            raise CounterfoilError(Code.CONFIGURATION, "the token has characters that no token has")
        self.url = checked_url(url)
        self._bearer = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context()
        if ca is not None:
            try:
                self._context.load_verify_locations(cafile=str(ca))
            except OSError as error:  # ssl.SSLError is one
                raise CounterfoilError(
                    Code.CONFIGURATION, f"{ca} does not hold a certificate authority's certificate"
                ) from error

    async def get(self, path: str, limit: int) -> bytes:
        """Return the body of a 200 answer of at most `limit` bytes.

        Errors: UNAVAILABLE when there is no such answer now, NOT_FOUND, MALFORMED for a longer one.
        """
        where = f"{self.url}/{path}"
        raw = await self._answer(path, limit)
        if len(raw) > limit + _MAX_HEAD:
            raise _too_long(where, limit)
        return _body(raw, where, limit)[1]

    async def get_range(self, path: str, start: int, stop: int) -> tuple[bytes, int]:
        """Return the bytes [start, stop) of a file, fewer only where it ends before, and how many it has in all; errors as `get`.

        UNSUPPORTED if the server only sends whole files.
        """
        where = f"{self.url}/{path}"
        raw = await self._answer(path, stop - start, f"Range: bytes={start}-{stop - 1}\r\n")
        head, body = _body(raw, where, stop - start, part=True)
        found = _RANGE.fullmatch(head.getheader("content-range", ""))
        first, last, size = map(int, found.groups()) if found else (-1, -1, 0)
        if first != start or last != min(stop, size) - 1 or len(body) != last + 1 - first:
            raise _unavailable(f"{where} is answered with other bytes than those requested")
        return body, size

    async def _answer(self, path: str, limit: int, headers: str = "") -> bytes:
        """Return an answer with head and framing; what is too long is cut off behind the longest that can be one."""
        where = f"{self.url}/{path}"
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(path, limit + _MAX_HEAD, headers)
        except TimeoutError as error:
            raise _unavailable(f"{where} was not answered in {self._timeout_s:g} s") from error
        except OSError as error:  # ssl.SSLError is one
            raise _unavailable(f"{where} is not answered ({how_it_failed(error)})") from error

    async def _exchange(self, path: str, most: int, headers: str) -> bytes:
        """Return all that the server sends until it closes, and at most one piece more than `most` bytes."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 443, ssl=self._context
        )
        try:
            target = quote(f"{parts.path}/{path}")
            writer.write(
                f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept-Encoding: identity\r\n"
                f"{self._bearer}{headers}Connection: close\r\n\r\n".encode("ascii")
            )
            data = bytearray()
            while len(data) <= most and (piece := await reader.read(_PIECE)):
                data += piece
            return bytes(data)
        finally:
            writer.transport.abort()


def checked_url(url: str) -> str:
    """Return an https:// address without its last slash; CONFIGURATION for anything else, and for one with a user or a query."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and (parts.port or 443) > 0
    except ValueError:
        good = False
    if not good or not url.isascii() or set(url) & set("?#@ \\\r\n\t"):
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{url[:200]!r} is not an address that begins with https://",
            remedy="Give the address of a folder, without a user, a query or a fragment.",
        )
    return url.rstrip("/")


class _Arrived:
    """What http.client takes for a socket: bytes that have arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        """Return them as a file."""
        return io.BytesIO(self._data)


def _body(
    raw: bytes, where: str, limit: int, *, part: bool = False
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return head and body of an answer that has the whole of a file, or a part of one."""
    answer = http.client.HTTPResponse(_Arrived(raw), method="GET")  # type: ignore[arg-type]  # it only calls makefile
    try:
        answer.begin()
        body = answer.read(limit + 1)
        cut = len(body) <= limit and bool(answer.length)
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise _unavailable(f"{where} is not answered as HTTP has it") from error
    if answer.status in _GONE:
        raise CounterfoilError(Code.NOT_FOUND, f"{where} is not served")
    if part and answer.status == http.client.OK:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"{where} is served as a whole only, not in parts (HTTP range requests)",
        )
    if answer.status != (http.client.PARTIAL_CONTENT if part else http.client.OK):
        raise _unavailable(f"{where} is answered with status {answer.status}")
    if answer.getheader("content-encoding", "identity") != "identity":
        raise _unavailable(f"{where} is answered in an encoding that was not requested")
    if cut:
        raise _unavailable(f"{where} is answered incompletely")
    if len(body) > limit:
        raise _too_long(where, limit)
    return answer, body


def _too_long(where: str, limit: int) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"{where} is longer than {limit} bytes")


def _unavailable(reason: str) -> CounterfoilError:
    return CounterfoilError(Code.UNAVAILABLE, reason, retry_after_s=1.0)
