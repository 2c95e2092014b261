"""A party that answers slowly, endlessly or not at all costs a worker bounded time and memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from audit_layer.disclosure.parties import CBOR, MAX_ANSWER, MAX_UNANSWERED, PartyClient
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import serve_https
from shared.runtime.tls import LocalCA

Served = tuple[str, Path]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    ca = LocalCA.load_or_create(tmp_path / "ca")
    app = FastAPI()

    @app.post("/endless")
    def endless() -> StreamingResponse:
        return StreamingResponse(iter(lambda: bytes(65_536), None), media_type=CBOR)

    @app.post("/slow")
    def slow() -> StreamingResponse:
        async def drops() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0.02)

        return StreamingResponse(drops(), media_type=CBOR)

    @app.post("/packed")
    def packed() -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            yield b"\x1f\x8b"

        return StreamingResponse(parts(), headers={"content-encoding": "gzip"})

    server = await serve_https(app, ca.issue("party"), "127.0.0.1:0", grace_s=0.1)
    yield f"https://{server.address}", ca.ca_file
    await server.stop()


def asked(served: Served, path: str, timeout_s: float = 30.0) -> bytes | Code:
    """Post to a party; return the answer, or the error's code."""
    client = PartyClient("custodian-1", *served, timeout_s=timeout_s)
    try:
        return client.post(path, b"")
    except CounterfoilError as error:
        return error.code
    finally:
        client.close()


async def test_an_answer_without_an_end_is_cut_off(served: Served):
    assert await asyncio.to_thread(asked, served, "/endless") is Code.MALFORMED
    assert MAX_ANSWER < 2**21


async def test_an_answer_that_comes_byte_by_byte_ends_with_its_time(served: Served):
    assert await asyncio.to_thread(asked, served, "/slow", 0.5) is Code.UNAVAILABLE


async def test_nothing_is_unpacked(served: Served):
    """A few compressed bytes could be gigabytes."""
    assert await asyncio.to_thread(asked, served, "/packed") == b"\x1f\x8b"


def test_who_leaves_requests_unanswered_gets_no_more(tmp_path: Path):
    ca = LocalCA.load_or_create(tmp_path / "ca")
    client = PartyClient("custodian-1", "https://127.0.0.1:1", ca.ca_file)
    for _ in range(MAX_UNANSWERED):
        assert client._room.acquire(blocking=False)
    with pytest.raises(CounterfoilError, match="unanswered") as caught:
        client.post("/release", b"")
    client._room.release()
    with pytest.raises(CounterfoilError, match="does not answer"):
        client.post("/release", b"")
    client.close()
    assert caught.value.code is Code.UNAVAILABLE
