"""Problem details and HTTPS serving, over real sockets."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.http import (
    HttpsServer,
    install_problem_handlers,
    limited_body,
    serve_https,
    serve_near,
)
from shared.runtime.problems import MEDIA_TYPE, from_problem, to_problem
from shared.runtime.tls import LocalCA, TlsFiles, client_context
from shared.runtime.traffic import Traffic

LIMIT = 10.0


def application() -> FastAPI:
    app = FastAPI()
    install_problem_handlers(app)
    app.state.entered = asyncio.Event()
    app.state.leave = asyncio.Event()

    @app.get("/raise/{code}")
    async def raise_it(code: str) -> None:
        raise CounterfoilError(
            Code[code], "what was wrong", remedy="What to do.", metadata={"k": "v"}, retry_after_s=2
        )

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("secret inner state")

    @app.get("/number")
    async def number(n: Annotated[int, Query(ge=1)]) -> int:
        return n

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await limited_body(request, 10))

    @app.post("/reads")
    async def reads(request: Request) -> int:
        app.state.entered.set()
        try:
            return len(await limited_body(request))
        finally:
            app.state.leave.set()

    @app.get("/long")
    async def long() -> Response:
        return StreamingResponse(b"x" * 2**16 for _ in range(256))

    @app.get("/whole")
    async def whole() -> Response:
        return Response(b"x" * 2**24)

    @app.get("/slow")
    async def slow() -> str:
        app.state.entered.set()
        await app.state.leave.wait()
        return "done"

    return app


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return LocalCA.load_or_create(tmp_path_factory.mktemp("ca")).issue("server")


@pytest.fixture
def app() -> FastAPI:
    return application()


@pytest.fixture
async def server(app: FastAPI, tls: TlsFiles) -> AsyncIterator[HttpsServer]:
    started = await serve_https(app, tls, "127.0.0.1:0")
    yield started
    await started.stop()


@pytest.fixture
async def client(server: HttpsServer, tls: TlsFiles) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"https://{server.address}", verify=client_context(tls.ca), trust_env=False
    ) as opened:
        yield opened


async def test_our_error_is_a_problem_document_and_comes_back(client):
    answer = await client.get("/raise/QUOTA")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["retry-after"] == "2"
    assert answer.json() == {
        "type": "urn:counterfoil:problem:quota",
        "title": Code.QUOTA.value.message,
        "status": 429,
        "code": "QUOTA",
        "detail": "what was wrong",
        "remedy": "What to do.",
        "metadata": {"k": "v"},
    }
    found = from_problem(answer.status_code, answer.content, "the witness")
    assert (found.code, found.detail) == (Code.QUOTA, "the witness refused: what was wrong")
    assert (found.remedy, found.metadata) == ("What to do.", {"k": "v"})


async def test_an_opaque_error_says_nothing_of_the_occurrence(client):
    answer = await client.get("/raise/UNREADABLE")
    assert set(answer.json()) == {"type", "title", "status", "code"}


async def test_a_missing_token_says_which_scheme(client):
    assert (await client.get("/raise/UNAUTHENTICATED")).headers["www-authenticate"] == "Bearer"


async def test_an_unforeseen_exception_stays_in_our_log(client, caplog):
    answer = await client.get("/crash")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    number = answer.json()["metadata"]["incident"]
    assert any(getattr(record, "incident", "") == number for record in caplog.records)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/absent", 404, "NOT_FOUND"),
        ("POST", "/crash", 405, "INVALID_ARGUMENT"),
        ("GET", "/number?n=0", 400, "INVALID_ARGUMENT"),
        ("GET", "/number?n=x", 400, "INVALID_ARGUMENT"),
    ],
)
async def test_routing_and_validation_answer_with_problems(client, method, path, status, code):
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert (answer.json()["code"], answer.json()["status"]) == (code, status)


async def test_a_long_body_is_refused(client):
    assert (await client.post("/length", content=b"x" * 10)).json() == 10
    answer = await client.post("/length", content=b"x" * 11)
    assert answer.json()["code"] == "MALFORMED"


@contextlib.asynccontextmanager
async def serving(app: FastAPI, tls: TlsFiles, **traffic: Any) -> AsyncIterator[HttpsServer]:
    """A server with limits."""
    started = await serve_https(app, tls, "127.0.0.1:0", traffic=Traffic(**traffic), grace_s=1.0)
    try:
        yield started
    finally:
        app.state.leave.set()
        await started.stop()


@contextlib.asynccontextmanager
async def speaking(
    server: HttpsServer, tls: TlsFiles, text: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which `text` was sent."""
    reader, writer = await asyncio.open_connection(
        server.host, server.port, ssl=client_context(tls.ca), server_hostname=server.host
    )
    writer.write(text.replace("\n", "\r\n").encode())
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not holds():  # noqa: ASYNC110  # the server has no event for it
            await asyncio.sleep(0.01)


async def answer_to(server: HttpsServer, tls: TlsFiles, text: str) -> bytes:
    """Return everything received until the server closes."""
    async with speaking(server, tls, text) as (reader, _):
        try:
            return await asyncio.wait_for(reader.read(), LIMIT)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("head", ["", "GET", "GET /number?n=1 HTTP/1.1\nhost: x\nx-half: "])
async def test_a_head_that_does_not_arrive_ends_the_connection(app, tls, head):
    async with serving(app, tls, head_s=1) as server:
        assert b" 408 " in (await answer_to(server, tls, head)).splitlines()[0]


async def test_a_second_head_on_a_connection_has_its_time_too(app, tls):
    whole = "GET /number?n=1 HTTP/1.1\nhost: x\n\n"
    async with (
        serving(app, tls, head_s=1) as server,
        speaking(server, tls, whole) as (reader, writer),
    ):
        assert (await reader.readuntil(b"\r\n\r\n1")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /num")
        assert (await asyncio.wait_for(reader.readline(), LIMIT)).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(("method", "path"), [("POST", "/reads"), ("GET", "/slow")])
async def test_a_body_that_does_not_arrive_ends_the_request(app, tls, method, path, caplog):
    text = f"{method} {path} HTTP/1.1\nhost: x\ncontent-length: 100\n\nhalf"
    async with serving(app, tls, body_s=1) as server:
        assert b" 408 " in (await answer_to(server, tls, text)).splitlines()[0]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("announced", [11, 2**30, 10**18])
async def test_a_long_body_is_refused_before_it_is_sent(app, tls, announced):
    text = f"POST /length HTTP/1.1\nhost: x\ncontent-length: {announced}\n\n"
    async with serving(app, tls, body_mib=1024, body_s=1) as server:
        assert b"MALFORMED" in await answer_to(server, tls, text)


async def test_bodies_that_take_too_much_memory_are_refused_for_now(app, tls):
    text = "POST /reads HTTP/1.1\nhost: x\ncontent-length: 2000000\n\n"
    async with serving(app, tls, body_mib=4, body_s=1) as server:
        answer = await answer_to(server, tls, text)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in answer


async def test_a_client_that_goes_away_leaves_no_error_in_the_log(app, tls, caplog):
    text = "POST /reads HTTP/1.1\nhost: x\ncontent-length: 100\n\nhalf"
    async with serving(app, tls) as server:
        async with speaking(server, tls, text):
            await asyncio.wait_for(app.state.entered.wait(), LIMIT)
        await asyncio.wait_for(app.state.leave.wait(), LIMIT)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_answer_that_nobody_reads_is_not_kept(app, tls):
    async with serving(app, tls, body_s=1) as server:
        text = "GET /long HTTP/1.1\nhost: x\n\n"
        async with speaking(server, tls, text) as (reader, _):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await until(lambda: not server._server.server_state.connections)


async def test_a_long_answer_is_not_over_before_a_slow_client_has_read_it(app, tls):
    async with serving(app, tls) as server:
        text = "GET /whole HTTP/1.1\nhost: x\nconnection: close\n\n"
        async with speaking(server, tls, text) as (reader, _):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            (connection,) = server._server.server_state.connections
            await until(lambda: connection.flow.write_paused)
            assert not connection.cycle.response_complete
            rest = await asyncio.wait_for(reader.read(), 2 * LIMIT)
    assert rest.endswith(b"\r\n\r\n" + b"x" * 2**24)


async def test_a_peer_that_calls_too_often_is_told_when_to_come_back(app, tls):
    async with (
        serving(app, tls, calls_per_s=0.001) as server,
        httpx.AsyncClient(verify=client_context(tls.ca), trust_env=False) as client,
    ):
        url = f"https://{server.address}/number?n=1"
        assert (await client.get(url)).status_code == 200
        answer = await client.get(url)
    assert answer.status_code == 429
    assert answer.json()["code"] == "OVERLOADED"
    assert 0 < int(answer.headers["retry-after"]) <= 1000


async def test_a_peer_with_too_many_connections_gets_no_more_until_one_ends(app, tls):
    whole = "GET /number?n=1 HTTP/1.1\nhost: x\nconnection: close\n\n"
    async with serving(app, tls, connections_per_peer=1) as server:
        async with speaking(server, tls, "GET") as (first, _):
            await until(lambda: bool(server._server.server_state.connections))
            assert await answer_to(server, tls, whole) == b""
            assert not first.at_eof()
        await until(lambda: not server._server.server_state.connections)
        assert (await answer_to(server, tls, whole)).startswith(b"HTTP/1.1 200")


async def test_a_port_in_use_is_a_configuration_error(server, tls):
    with pytest.raises(CounterfoilError, match="cannot be bound") as caught:
        await serve_https(FastAPI(), tls, server.address)
    assert caught.value.code is Code.CONFIGURATION


async def test_an_application_that_does_not_start_is_reported(tls, caplog):
    def lifespan_only(app: FastAPI) -> object:
        raise CounterfoilError(Code.CONFIGURATION, "no start")

    broken = FastAPI(lifespan=lifespan_only)  # type: ignore[arg-type]  # broken on purpose
    with pytest.raises(CounterfoilError, match="did not start"):
        await serve_https(broken, tls, "127.0.0.1:0")


async def test_plain_http_gets_no_answer(server):
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await writer.drain()
    try:
        answer = await asyncio.wait_for(reader.read(), LIMIT)
    except ConnectionResetError:
        answer = b""
    assert not answer.startswith(b"HTTP")
    writer.close()


@pytest.mark.parametrize("secure", [False, True], ids=["in the clear", "over TLS"])
async def test_a_server_for_this_machine_answers_errors_in_its_apis_own_way(tls, secure):
    def own(error: CounterfoilError, *, http_status: int | None = None) -> Response:
        return Response(error.code.name, http_status or 418)

    gate = Traffic(calls_per_s=0.001)
    server = await serve_near(
        application(), tls if secure else None, "127.0.0.1:0", answer=own, traffic=gate
    )
    url = f"{'https' if secure else 'http'}://{server.address}/number?n=1"
    async with httpx.AsyncClient(verify=client_context(tls.ca), trust_env=False) as client:
        assert (await client.get(url)).text == "1"
        refused = await client.get(url)
        assert (refused.status_code, refused.text) == (418, "OVERLOADED")
    await server.stop()


async def test_stopping_lets_a_request_in_flight_end(app, tls):
    server = await serve_https(app, tls, "127.0.0.1:0")
    async with httpx.AsyncClient(verify=client_context(tls.ca), trust_env=False) as client:
        pending = asyncio.create_task(client.get(f"https://{server.address}/slow"))
        await asyncio.wait_for(app.state.entered.wait(), LIMIT)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        app.state.leave.set()
        assert (await asyncio.wait_for(pending, LIMIT)).json() == "done"
        await asyncio.wait_for(stopping, LIMIT)
    with socket.socket() as probe:
        assert probe.connect_ex((server.host, server.port)) != 0


@pytest.mark.parametrize("code", Code)
def test_every_code_survives_the_way(code):
    status, _, members = to_problem(CounterfoilError(code, "detail"))
    assert status == code.value.http == members["status"]
    assert from_problem(status, json.dumps(members).encode(), "x").code is code


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"code": 5}', b'{"code": "NO_SUCH"}', b"\xff", b"[" * 100_000]
)
def test_an_answer_that_is_not_a_problem_document_is_still_an_error(body):
    assert from_problem(502, body, "the witness").code is Code.UNAVAILABLE
    assert from_problem(404, body, "the witness").code is Code.INTERNAL
