"""Asking witnesses for cosignatures (C2SP tlog-witness, the log's side)."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx

from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import MAX_NOTE_BYTES, SignatureLine, decode_text
from shared.translog.witness_protocol import (
    SIZE_CONTENT_TYPE,
    AddCheckpoint,
    latest_path,
    parse_cosignatures,
    parse_size,
)

TIMEOUT_S = 10.0


class WitnessHoldsError(Exception):
    """The witness answered 409: `size` is the size of its latest checkpoint of this log."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness holds size {size}")
        self.size = size


class WitnessClient(Protocol):
    """One witness, by its name in the log policy."""

    @property
    def name(self) -> str:
        """The key name of the witness's cosignatures."""

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: str
    ) -> tuple[SignatureLine, ...]:
        """Return cosignature lines, unverified.

        Raises WitnessHoldsError for another old size, UNAVAILABLE when there is no answer, and
        CONFLICT when the witness refuses.
        """

    async def latest(self, origin: str) -> str | None:
        """Return the note of the latest checkpoint it holds of this log; None if it holds none."""


class HttpWitness:
    """A witness reached over HTTPS. `tls` holds its certificate authority; `why` finds out what keeps it from answering."""

    def __init__(
        self,
        name: str,
        url: str,
        tls: ssl.SSLContext,
        *,
        why: Callable[[], str | None] = lambda: None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if not url.startswith("https://"):
            raise CounterfoilError(
                Code.CONFIGURATION, f"the address of witness {name!r} is not https://"
            )
        self._name, self._why = name, why
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/", verify=tls, timeout=timeout_s, trust_env=False
        )

    @property
    def name(self) -> str:
        """The key name of the witness's cosignatures."""
        return self._name

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: str
    ) -> tuple[SignatureLine, ...]:
        """See `WitnessClient.add_checkpoint`."""
        request = AddCheckpoint(old_size, tuple(proof), note).encode()
        status, media_type, body = await self._exchange("POST", "add-checkpoint", request)
        if status == httpx.codes.OK:
            return parse_cosignatures(body)
        if status == httpx.codes.CONFLICT and media_type == SIZE_CONTENT_TYPE:
            raise WitnessHoldsError(parse_size(body))
        raise CounterfoilError(
            Code.CONFLICT, f"witness {self._name!r} refuses the checkpoint with status {status}"
        )

    async def latest(self, origin: str) -> str | None:
        """See `WitnessClient.latest`; a witness without this resource answers as if empty."""
        status, _, body = await self._exchange("GET", latest_path(origin), None)
        return decode_text(body) if status == httpx.codes.OK else None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
        """Return (status, media type, bounded body); UNAVAILABLE when there is no answer."""
        try:
            async with self._client.stream(method, path, content=body) as answer:
                data = b""
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_NOTE_BYTES:
                        raise CounterfoilError(
                            Code.MALFORMED, f"witness {self._name!r}'s answer is too long"
                        )
        except httpx.HTTPError as e:
            why = await asyncio.to_thread(self._why) or how_it_failed(e)
            raise CounterfoilError(
                Code.UNAVAILABLE,
                f"witness {self._name!r} does not answer ({why})",
                retry_after_s=1.0,
            ) from e
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise CounterfoilError(
                Code.UNAVAILABLE,
                f"witness {self._name!r} fails with status {answer.status_code}",
                retry_after_s=1.0,
            )
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        return answer.status_code, media_type, data
