"""The client of the cost routes against a real server: whole answers, streamed ones, and errors in the server's own words."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from audit_layer.commands.cost_client import Api
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private
from tests.audit_layer.costs.test_service import AFTER, FIRST
from tests.audit_layer.served import World

DAYS = {"start": str(FIRST), "end": str(AFTER)}


def api_of(world: World, folder: Path, role: str = "finance", url: str | None = None) -> Api:
    path = folder / f"{role}.token"
    create_private(path, world.token(role).encode())
    return Api(url or world.url, path, world.ca)


async def refused(call: Callable[[], object]) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        await asyncio.to_thread(call)
    return caught.value


def streamed(api: Api, **parameters: object) -> tuple[bytes, dict[str, str]]:
    with api.stream("/export", {"format": "focus-1.2-csv", **DAYS, **parameters}) as answer:
        return b"".join(answer.chunks), dict(answer.headers)


async def test_a_streamed_answer_is_the_whole_answer(world: World, tmp_path: Path):
    api = api_of(world, tmp_path)
    assert (await asyncio.to_thread(api.post, "/rate"))["rated_receipts"] > 0
    parameters = {"format": "focus-1.2-csv", **DAYS, "tenant": None}
    whole = await asyncio.to_thread(api.answer, "GET", "/export", parameters)
    data, headers = await asyncio.to_thread(streamed, api)
    assert sha256(data).digest() == sha256(whole.content).digest()
    assert data.count(b"\r\n") > 1
    assert headers["counterfoil-manifest"]


async def test_an_error_is_the_servers_own(world: World, tmp_path: Path):
    api = api_of(world, tmp_path)
    assert (await refused(lambda: streamed(api, format="odt"))).code is Code.UNSUPPORTED
    assert (await refused(lambda: api.get("/periods/999/bill"))).code is Code.NOT_FOUND
    auditor = api_of(world, tmp_path, "auditor")
    assert (await refused(lambda: auditor.post("/rate"))).code is Code.FORBIDDEN


async def test_a_server_that_is_not_there_is_unavailable_and_http_is_refused(
    world: World, tmp_path: Path
):
    away = api_of(world, tmp_path, url="https://127.0.0.1:1")
    assert (await refused(lambda: streamed(away))).code is Code.UNAVAILABLE
    plain = Api("http://127.0.0.1:1", tmp_path / "finance.token", world.ca)
    assert (await refused(lambda: streamed(plain))).code is Code.INVALID_ARGUMENT


async def test_an_error_of_the_reader_is_not_taken_for_the_servers(world: World, tmp_path: Path):
    api = api_of(world, tmp_path)

    def read() -> None:
        with api.stream("/export", {"format": "focus-1.2-csv", **DAYS}):
            raise CounterfoilError(Code.CONFLICT, "not what was expected")

    assert (await refused(read)).code is Code.CONFLICT
