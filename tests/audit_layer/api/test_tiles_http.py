"""The published log over HTTPS is what C2SP tlog-tiles says, and what caches and browsers need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from audit_layer.wiring.log_keys import log_policy
from shared.runtime.tls import client_context
from shared.translog.policy import verify_witnessed
from shared.translog.tiles import Tile, files_grown, width_at
from shared.translog.tree import leaf_hash
from tests.audit_layer.api.published import PublishedLog, log

__all__ = ["log"]

SIZES = (1, 3, 200, 255, 256, 300)
OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"


@asynccontextmanager
async def browsing(log: PublishedLog) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=log.world.url, verify=client_context(log.world.ca), trust_env=False
    ) as client:
        yield client


async def raw_status(log: PublishedLog, target: str) -> int:
    """Request a target exactly as written: HTTP libraries normalise paths."""
    where = urlsplit(log.world.url)
    reader, writer = await asyncio.open_connection(
        where.hostname, where.port, ssl=client_context(log.world.ca), server_hostname=where.hostname
    )
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.read()).split(b" ", 2)[1])
    finally:
        writer.close()
        await writer.wait_closed()


def bundle(log: PublishedLog, first: int, end: int) -> bytes:
    return b"".join(b"\x00\x20" + log.entry(index) for index in range(first, end))


async def test_every_partial_of_a_published_size_is_served_then_and_after_it_became_full(
    log: PublishedLog,
):
    served: dict[str, bytes] = {}
    before = 0
    async with browsing(log) as client:
        for size in SIZES:
            await log.grow(before, size)
            for tile in files_grown(0, size):
                answer = await client.get(f"/{tile.path}")
                assert answer.status_code == 200, (size, tile)
                assert len(answer.content) == tile.byte_length
                assert served.setdefault(tile.path, answer.content) == answer.content
            before = size
        await log.grow(before, 700)
        for path, data in served.items():
            assert (await client.get(f"/{path}")).content == data, path
    partial = {path for path in served if ".p/" in path}
    widths = {f"tile/{kind}/000.p/{w}" for kind in ("0", "entries") for w in (1, 3, 200, 255)}
    assert partial >= {*widths, "tile/0/001.p/44", "tile/entries/001.p/44", "tile/1/000.p/1"}
    assert served["tile/0/000"] == b"".join(leaf_hash(log.entry(i)) for i in range(256))
    assert served["tile/entries/000"] == bundle(log, 0, 256)
    assert served["tile/entries/001.p/44"] == bundle(log, 256, 300)
    assert served["tile/0/000"].startswith(served["tile/0/000.p/200"])


async def test_what_no_checkpoint_has_and_what_is_not_a_path_is_not_found(log: PublishedLog):
    await log.grow(0, 700)
    assert width_at(0, 2, 700) == 188
    beyond = ("tile/0/002.p/189", "tile/0/002.p/187", "tile/0/002", "tile/0/003.p/1", "tile/0/003",
              "tile/1/000.p/3", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/63/000.p/1",
              "tile/entries/002.p/189", "tile/entries/002", "tile/entries/003.p/1",
              "tile/0/x001/000", "tile/0/x999/x999/x999/x999/x999/x999/999")  # fmt: skip
    odd = ("tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/257", "tile/0/000.p/01",
           "tile/0/000.p/-1", "tile/0/000.p/+1", "tile/0/000.p/", "tile/0/000.p", "tile/0/000/",
           "tile/0/000.p/1/", "tile/0/000.P/1", "tile/0/000.p/1.p/1", "tile/0/000.p/x01",
           "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/x000/000", "tile/0/000/000",
           "tile/0/x000", "tile/0/1/000", "tile/0/X001/000", "tile/0/x01/000",
           "tile/00/000", "tile/01/000", "tile/64/000", "tile/-1/000", "tile/+0/000", "tile/0x0/000",
           "tile/data/000", "tile/8/0/000", "tile/Entries/000", "tile/entries/", "tile/entries",
           "tile/entries/000.p/256", "tile/entries/000.p/0", "tile/", "tile//000", "tile/0//000",
           "/tile/0/000", "tile/0/00%EF%BC%91", "tile/0/000%0A", "tile/0/000%00", "tile/0/000%20",
           "tile/0/000%FF", "tile/0/000.p/%D9%A1", "tile/../keys/log-ed25519", "tile/0/../0/000",
           "tile/./0/000", "tile/%2e%2e/audit.toml", "tile/..%2f..%2faudit.toml",
           "tile/0/..%5c..%5caudit.toml", "Checkpoint", "checkpoint.sig", "checkpoint%0A",
           "tile/checkpoint", "tile/0/" + "x000/" * 2000 + "000")  # fmt: skip
    for path in (*beyond, *odd):
        assert await raw_status(log, f"/{path}") == 404, path
    assert await raw_status(log, "/tile/0/000") == 200


async def test_types_and_caching_are_those_of_tlog_tiles(log: PublishedLog):
    async with browsing(log) as client:
        early = await client.get("/checkpoint")
        assert (early.status_code, early.headers["cache-control"]) == (404, "no-store")
        note = await log.grow(0, 300)
        checkpoint = await client.get("/checkpoint")
        assert checkpoint.content == note.encode()
        assert verify_witnessed(checkpoint.text, log_policy(log.settings)).checkpoint.size == 300
        assert checkpoint.headers["content-type"] == TEXT
        assert checkpoint.headers["cache-control"] == "no-cache, max-age=0"
        for path in ("tile/0/000", "tile/0/001.p/44", "tile/0/000.p/9", "tile/entries/000"):
            tile = await client.get(f"/{path}")
            assert tile.headers["content-type"] == OCTETS
            assert tile.headers["cache-control"] == "public, max-age=31536000, immutable"
        missing = await client.get("/tile/0/007")
        assert missing.headers["cache-control"] == "no-store", "what is not there may come yet"
        for answer in (checkpoint, tile, missing):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "set-cookie" not in answer.headers
        assert (await client.post("/checkpoint")).status_code == 405
        assert (await client.put("/tile/0/000", content=b"x")).status_code == 405


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/001.p/44", "tile/entries/000"])
async def test_heads_and_conditions_spare_clients_the_bytes(log: PublishedLog, path: str):
    await log.grow(0, 300)
    async with browsing(log) as client:
        got = await client.get(f"/{path}")
        head = await client.head(f"/{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
        assert int(head.headers["content-length"]) == len(got.content)
        tag = got.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', f'{tag},"other"', "*"):
            for method in ("GET", "HEAD"):
                again = await client.request(method, f"/{path}", headers={"if-none-match": known})
                assert (again.status_code, again.content) == (304, b"")
                for name in ("etag", "cache-control", "access-control-allow-origin"):
                    assert again.headers[name] == got.headers[name]
        for other in ('"other"', tag.strip('"'), f'"{tag}"', "", 'W/"other"'):
            again = await client.get(f"/{path}", headers={"if-none-match": other})
            assert (again.status_code, again.content) == (200, got.content)
        grown = await log.grow(300, 301)
        again = await client.get(f"/{path}", headers={"if-none-match": tag})
        changed = path == "checkpoint"
        assert again.status_code == (200 if changed else 304)
        assert again.text == (grown if changed else "")
        assert (await client.head("/tile/0/007")).status_code == 404


def test_the_largest_indexes_have_paths_of_three_digits_each():
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
