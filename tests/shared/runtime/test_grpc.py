"""The server builder, its interceptor and the client side, on real servers with TLS."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import (  # type: ignore[import-untyped]  # googleapis ships no stubs
    error_details_pb2,
    status_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import (
    RpcServer,
    Service,
    build_server,
    error_from_rpc,
    secure_aio_channel,
    secure_channel,
)
from shared.runtime.tls import LocalCA, TlsFiles
from shared.runtime.traffic import Traffic

NAME = "test.v1.Behaviour"
LIMIT = 10.0


class Behaviour:
    """Handlers of all shapes; the request names what to do. Messages are raw bytes."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.released = asyncio.Event()

    async def unary(self, request: bytes, context: Any) -> bytes:
        return await self._act(request)

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self._act(request)

    async def writes(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await context.write(await self._act(request))

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self._act(b"".join([part async for part in requests]))

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for part in requests:
            yield await self._act(part)

    async def _act(self, request: bytes) -> bytes:
        if request == b"wait":
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.released.set()
        if request == b"crash":
            raise RuntimeError("secret inner state")
        if request.decode() in Code.__members__:
            raise CounterfoilError(
                Code[request.decode()],
                "what was wrong",
                remedy="What to do.",
                metadata={"field": "ctx"},
                retry_after_s=1.5,
            )
        return b"done " + request


def add(servicer: Behaviour, server: grpc.aio.Server) -> None:
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(servicer.unary),
        "Stream": grpc.unary_stream_rpc_method_handler(servicer.stream),
        "Writes": grpc.unary_stream_rpc_method_handler(servicer.writes),
        "Collect": grpc.stream_unary_rpc_method_handler(servicer.collect),
        "Both": grpc.stream_stream_rpc_method_handler(servicer.both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class FakeGate(grpc.aio.ServerInterceptor):
    """A stand-in for an authenticating interceptor: refuses what carries `x-refuse`."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if "x-refuse" in dict(handler_call_details.invocation_metadata):
            raise CounterfoilError(Code.UNAUTHENTICATED, "no token")
        return await continuation(handler_call_details)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return LocalCA.load_or_create(tmp_path_factory.mktemp("ca")).issue("server")


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
async def server(tls: TlsFiles, behaviour: Behaviour) -> AsyncIterator[RpcServer]:
    built = build_server(
        tls=tls,
        address="127.0.0.1:0",
        services=[Service(NAME, add, behaviour)],
        reflection=True,
        max_message_bytes=1 << 16,
        interceptors=[FakeGate()],
    )
    await built.start()
    yield built
    await built.stop(0)


@pytest.fixture
async def channel(server: RpcServer, tls: TlsFiles) -> AsyncIterator[grpc.aio.Channel]:
    async with secure_aio_channel(server.address, tls.ca) as opened:
        yield opened


async def call(channel: Any, shape: str, request: bytes, **options: Any) -> list[bytes]:
    options.setdefault("timeout", LIMIT)
    path = f"/{NAME}/{shape}"
    if shape == "Unary":
        return [await channel.unary_unary(path)(request, **options)]
    if shape == "Collect":
        return [await channel.stream_unary(path)(iter([request]), **options)]
    if shape == "Both":
        return [part async for part in channel.stream_stream(path)(iter([request]), **options)]
    return [part async for part in channel.unary_stream(path)(request, **options)]


SHAPES = ["Unary", "Stream", "Writes", "Collect", "Both"]


async def failure(channel: Any, shape: str, request: bytes, **options: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, shape, request, **options)
    return caught.value


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape_of_call_passes_through(channel, shape):
    assert (await call(channel, shape, b"x"))[-1] == b"done x"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_without_deadline_is_refused(channel, shape):
    error = await failure(channel, shape, b"x", timeout=None)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_from_rpc(error).code is Code.DEADLINE_REQUIRED


@pytest.mark.parametrize("shape", SHAPES)
async def test_our_errors_come_back_as_they_were(channel, shape):
    error = await failure(channel, shape, b"QUOTA")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found = error_from_rpc(error)
    assert found.code is Code.QUOTA
    assert found.detail == "what was wrong. What to do."
    assert found.metadata == {"field": "ctx"}
    assert found.retry_after_s == 1.5


@pytest.mark.parametrize("code", Code)
async def test_every_code_survives_the_way(channel, code):
    error = await failure(channel, "Unary", code.name.encode())
    assert error.code().name == code.value.grpc
    assert error_from_rpc(error).code is code
    assert ("what was wrong" in error.details()) != code.value.opaque


async def test_an_opaque_error_carries_nothing_of_the_occurrence(channel):
    error = await failure(channel, "Unary", b"UNREADABLE")
    assert error.details() == Code.UNREADABLE.value.message
    found = error_from_rpc(error)
    assert (found.metadata, found.retry_after_s) == ({}, None)


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_unforeseen_exception_stays_in_our_log(channel, shape, caplog):
    error = await failure(channel, shape, b"crash")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.trailing_metadata()) + error.details()
    number = error_from_rpc(error).metadata["incident"]
    record = next(r for r in caplog.records if getattr(r, "incident", "") == number)
    assert record.levelno == logging.ERROR
    assert "RuntimeError" in str(record.exc_info)


async def test_what_an_inner_interceptor_raises_is_mapped_too(channel):
    error = await failure(channel, "Unary", b"x", metadata=(("x-refuse", "1"),))
    assert error_from_rpc(error).code is Code.UNAUTHENTICATED


@pytest.mark.parametrize("shape", ["Unary", "Stream", "Writes", "Both"])
async def test_cancelling_a_call_releases_its_handler_and_logs_nothing(
    channel, behaviour, shape, caplog
):
    task = asyncio.create_task(call(channel, shape, b"wait"))
    await asyncio.wait_for(behaviour.started.wait(), LIMIT)
    task.cancel()
    await asyncio.wait_for(behaviour.released.wait(), LIMIT)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_core_writes_no_lines_of_its_own_whoever_imports_it_first():
    code = (
        "import os, sys\n"
        "from shared.runtime import cli\n"
        "assert 'grpc' not in sys.modules\n"
        "print(os.environ['GRPC_VERBOSITY'])\n"
    )
    unset = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, env=unset, check=True)
    assert said.stdout == b"NONE\n"


async def test_a_passed_deadline_releases_the_handler_and_is_reported(channel, behaviour):
    error = await failure(channel, "Stream", b"wait", timeout=0.2)
    assert error_from_rpc(error).code is Code.DEADLINE
    told = error_from_rpc(error, "the audit server")
    assert told.detail.startswith("the audit server does not answer: ")
    assert told.remedy
    await asyncio.wait_for(behaviour.released.wait(), LIMIT)


async def test_unknown_methods_and_long_messages_are_refused(channel):
    unknown = await failure_of(channel.unary_unary(f"/{NAME}/Absent")(b"", timeout=LIMIT))
    assert error_from_rpc(unknown).code is Code.UNSUPPORTED
    error = await failure(channel, "Unary", b"x" * (1 << 17))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def failure_of(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_health_check_and_watch_need_no_deadline(server, channel):
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=NAME)
    assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


@contextlib.asynccontextmanager
async def limited(tls: TlsFiles, behaviour: Behaviour, **traffic: Any) -> AsyncIterator[RpcServer]:
    """A server with limits."""
    built = build_server(
        tls=tls,
        address="127.0.0.1:0",
        services=[Service(NAME, add, behaviour)],
        traffic=Traffic(**traffic),
    )
    await built.start()
    try:
        yield built
    finally:
        await built.stop(0)


@contextlib.asynccontextmanager
async def serving(tls: TlsFiles, behaviour: Behaviour, **traffic: Any) -> AsyncIterator[Any]:
    """A channel to a server with limits."""
    async with (
        limited(tls, behaviour, **traffic) as built,
        secure_aio_channel(built.address, tls.ca) as opened,
    ):
        yield opened


async def test_a_peer_that_calls_a_method_too_often_is_told_when_to_come_back(tls, behaviour):
    async with serving(tls, behaviour, method_calls_per_s={"Stream": 0.001}) as channel:
        assert len(await call(channel, "Stream", b"x")) == 2
        error = error_from_rpc(await failure(channel, "Stream", b"x"))
        assert error.code is Code.OVERLOADED
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 1000
        assert await call(channel, "Unary", b"x") == [b"done x"]


async def test_a_peer_with_too_many_calls_in_flight_is_refused_and_let_in_again(tls, behaviour):
    async with serving(tls, behaviour, calls_in_flight_per_peer=1) as channel:
        waiting = asyncio.create_task(call(channel, "Unary", b"wait"))
        await asyncio.wait_for(behaviour.started.wait(), LIMIT)
        refused = error_from_rpc(await failure(channel, "Unary", b"x"))
        assert refused.code is Code.OVERLOADED
        assert refused.retry_after_s is not None
        waiting.cancel()
        await asyncio.wait_for(behaviour.released.wait(), LIMIT)
        assert await call(channel, "Unary", b"x") == [b"done x"]


async def test_all_calls_in_flight_together_are_bounded(tls, behaviour):
    async with serving(tls, behaviour, calls_in_flight=1) as channel:
        waiting = asyncio.create_task(call(channel, "Unary", b"wait"))
        await asyncio.wait_for(behaviour.started.wait(), LIMIT)
        assert error_from_rpc(await failure(channel, "Unary", b"x")).code is Code.OVERLOADED
        waiting.cancel()


async def test_streams_without_a_deadline_are_few_for_one_peer(tls, behaviour):
    async with serving(tls, behaviour, watches_per_peer=2) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        refused = await failure_of(stub.Watch(health_pb2.HealthCheckRequest()).read())
        assert error_from_rpc(refused).code is Code.OVERLOADED
        assert await call(channel, "Unary", b"x") == [b"done x"]
        for watch in watches:
            watch.cancel()


async def test_a_stream_without_a_deadline_ends_with_a_reason_and_may_begin_again(tls, behaviour):
    async with serving(tls, behaviour, watch_s=1, watches_per_peer=1) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(2):
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            ended = error_from_rpc(await asyncio.wait_for(failure_of(watch.read()), LIMIT))
            assert ended.code is Code.DEADLINE
            assert "1 seconds" in ended.detail


async def test_a_watcher_that_does_not_read_holds_up_neither_draining_nor_the_stop(
    server, monkeypatch, caplog
):
    async def forever(*_args: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("shared.runtime.grpc.TELL_S", 0.01)
    monkeypatch.setattr(server._health, "set", forever)
    monkeypatch.setattr(server._health, "enter_graceful_shutdown", forever)
    await asyncio.wait_for(server.set_serving(False), LIMIT)
    await asyncio.wait_for(server.stop(0), LIMIT)
    assert "does not read" in caplog.text


async def test_connections_are_bounded(tls, behaviour):
    credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes())
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with (
        limited(tls, behaviour, connections=1) as built,
        secure_aio_channel(built.address, tls.ca) as channel,
    ):
        assert await call(channel, "Unary", b"x") == [b"done x"]
        async with grpc.aio.secure_channel(built.address, credentials, options=own) as second:
            error = await failure(second, "Unary", b"x", timeout=2.0)
        assert error_from_rpc(error).code in {Code.UNAVAILABLE, Code.DEADLINE}
        assert await call(channel, "Unary", b"x") == [b"done x"]


async def test_reflection_lists_the_services(server, channel):
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in stub.ServerReflectionInfo(iter([request])):
        names = {service.name for service in response.list_services_response.service}
        assert {NAME, "grpc.health.v1.Health"} <= names


async def test_a_port_in_use_is_a_configuration_error(server, tls, behaviour):
    with pytest.raises(CounterfoilError) as caught:
        build_server(tls=tls, address=server.address, services=[Service(NAME, add, behaviour)])
    assert caught.value.code is Code.CONFIGURATION
    assert f"{server.address} is in use" in caught.value.detail
    assert "another port" in str(caught.value.remedy)


@pytest.mark.parametrize("address", ["", "localhost", ":1", "h:", "h:x", "h:70000", "h:-1"])
async def test_what_is_not_an_address_is_refused(tls, address):
    with pytest.raises(CounterfoilError, match="is not an address"):
        build_server(tls=tls, address=address, services=[])


async def test_a_server_of_another_authority_is_not_believed(server, tmp_path):
    stranger = LocalCA.load_or_create(tmp_path)
    async with secure_aio_channel(server.address, stranger.ca_file) as channel:
        error = await failure(channel, "Unary", b"x")
    assert error_from_rpc(error).code is Code.UNAVAILABLE


async def test_the_blocking_channel_speaks_the_same(server, tls):
    def blocking() -> CounterfoilError:
        with secure_channel(server.address, tls.ca) as channel:
            method: Any = channel.unary_unary(f"/{NAME}/Unary")
            assert method(b"x", timeout=LIMIT) == b"done x"
            with pytest.raises(grpc.RpcError) as caught:
                method(b"REPLAYED", timeout=LIMIT)
            return error_from_rpc(caught.value)

    assert (await asyncio.to_thread(blocking)).code is Code.REPLAYED


async def test_a_peer_that_is_gone_is_unavailable(tls, server):
    await server.stop(0)
    async with secure_aio_channel(server.address, tls.ca) as channel:
        error = await failure(channel, "Unary", b"x")
    assert error_from_rpc(error).code is Code.UNAVAILABLE


def rpc_error(details: bytes, text: str = "text") -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, details=text
    )


def packed(reason: str, domain: str) -> bytes:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    return bytes(status.SerializeToString())


@pytest.mark.parametrize(
    "details",
    [b"", b"\xff\xff", packed("NO_SUCH_CODE", "counterfoil"), packed("QUOTA", "elsewhere")],
)
def test_details_that_say_nothing_leave_the_status_alone(details):
    assert error_from_rpc(rpc_error(details)).code is Code.NOT_FOUND


def test_a_peer_s_text_cannot_reach_the_terminal_raw():
    found = error_from_rpc(rpc_error(b"", "\x1b[2J" + "x" * 5000))
    assert "\x1b" not in found.detail
    assert len(found.detail) <= 1000


def test_a_missing_authority_file_is_a_configuration_error(tmp_path: Path):
    with pytest.raises(CounterfoilError, match="cannot be read"):
        secure_channel("127.0.0.1:1", tmp_path / "absent.pem")
