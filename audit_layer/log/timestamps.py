"""Asking a timestamp authority (RFC 3161) about published checkpoints.

A loop of its own, separate from the publisher: after publication, at most once per interval, the newest witnessed
checkpoint is stamped. Whatever the authority does, nothing else waits for it, and only what verifies under
the configured anchors is kept.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol

import httpx
from cryptography.x509 import Certificate
from sqlalchemy import Engine

from audit_layer.log import timestamp_table as table
from audit_layer.storage.engine import transaction
from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.timestamp import (
    MAX_REPLY_BYTES,
    QUERY_TYPE,
    REPLY_TYPE,
    query_for,
    verify_timestamp,
)

TIMEOUT_S: Final = 15.0
"""For a whole exchange."""
MAX_SKEW_MS: Final = 5 * 60_000
"""How far the authority's clock may be from ours; beyond that, one of the two is wrong."""
PAUSE_S: Final = 5.0
"""Between looks at what has been published."""
_MAX_PAUSE_S: Final = 600.0

_log = logging.getLogger(__name__)


class Authority(Protocol):
    """A timestamp authority."""

    async def stamp(self, query: bytes) -> bytes:
        """Return the reply to a query, unverified and of at most `MAX_REPLY_BYTES`.

        Errors: UNAVAILABLE when there is no reply, MALFORMED when it is not one.
        """


class HttpAuthority:
    """An authority reached over HTTP (RFC 3161 §3.4).

    Plain HTTP suffices, and many authorities offer nothing else: only a hash of a public text is sent, and
    the answer is signed and bound to the query.
    """

    def __init__(
        self, url: str, tls: ssl.SSLContext | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`tls` holds the certificate authority of an https:// address; None means the system's."""
        self._url = url
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=tls or ssl.create_default_context(), timeout=timeout_s, trust_env=False
        )

    async def stamp(self, query: bytes) -> bytes:
        """See `Authority.stamp`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(query)
        except (httpx.HTTPError, TimeoutError) as e:
            raise CounterfoilError(
                Code.UNAVAILABLE,
                f"the timestamp authority does not answer ({how_it_failed(e)})",
                retry_after_s=PAUSE_S,
            ) from e

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _exchange(self, query: bytes) -> bytes:
        headers = {"content-type": QUERY_TYPE, "accept-encoding": "identity"}
        async with self._client.stream("POST", self._url, content=query, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                raise CounterfoilError(
                    Code.UNAVAILABLE,
                    f"the timestamp authority fails with status {answer.status_code}",
                    retry_after_s=PAUSE_S,
                )
            said = answer.headers.get("content-type", "").partition(";")[0].strip()
            if said.lower() != REPLY_TYPE:
                raise CounterfoilError(
                    Code.MALFORMED, "the timestamp authority's answer is not a timestamp reply"
                )
            data = b""
            async for chunk in answer.aiter_raw():
                data += chunk
                if len(data) > MAX_REPLY_BYTES:
                    raise CounterfoilError(
                        Code.MALFORMED, "the timestamp authority's answer is too long"
                    )
        return data


class Timestamper:
    """Gets one log's published checkpoints stamped."""

    def __init__(
        self,
        engine: Engine,
        authority: Authority,
        *,
        origin: str,
        anchors: Sequence[Certificate],
        interval_s: float,
    ) -> None:
        self._engine = engine
        self._authority = authority
        self._origin = origin
        self._anchors = tuple(anchors)
        self._interval_ms = int(interval_s * 1000)

    async def run(self) -> None:
        """Tick until cancelled. Failures are logged and retried, more slowly."""
        failures = 0
        while True:
            try:
                await self.tick()
                failures = 0
            except CounterfoilError as e:
                failures += 1
                _log.warning("no timestamp: %s", e)
            except Exception:  # noqa: BLE001 - one bad answer must not end the loop
                failures += 1
                _log.exception("timestamping failed")
            await asyncio.sleep(min(PAUSE_S * 2 ** min(failures, 8), _MAX_PAUSE_S))

    async def tick(self) -> int | None:
        """Have the newest published checkpoint stamped if that is due; return its size, else None.

        Errors: UNAVAILABLE, those of `verify_timestamp`, and CONFLICT when the clocks disagree.
        """
        checkpoint = await asyncio.to_thread(self._due)
        if checkpoint is None:
            return None
        query = query_for(checkpoint)
        reply = await self._authority.stamp(query.der)
        time_ms = verify_timestamp(reply, checkpoint, self._anchors, nonce=query.nonce)
        apart_ms = time_ms - time.time_ns() // 1_000_000
        if abs(apart_ms) > MAX_SKEW_MS:
            raise CounterfoilError(
                Code.CONFLICT,
                f"the timestamp authority's clock is {apart_ms / 1000:+.0f} s from this machine's",
                remedy="Set this machine's clock, or use another authority.",
            )
        await asyncio.to_thread(self._store, checkpoint.size, time_ms, reply)
        return checkpoint.size

    def _due(self) -> Checkpoint | None:
        with transaction(self._engine) as connection:
            return table.due(connection, self._origin, self._interval_ms)

    def _store(self, size: int, time_ms: int, reply: bytes) -> None:
        with transaction(self._engine) as connection:
            table.store(connection, size, time_ms, reply)
