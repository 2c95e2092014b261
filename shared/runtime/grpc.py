"""gRPC as every server and client of ours speaks it: TLS always, deadlines always, rich errors.

Servicers hold no try/except: they raise CounterfoilError, and the interceptor here turns it into a
`google.rpc.Status` with ErrorInfo {reason: code, domain: "counterfoil", metadata} and RetryInfo;
`error_from_rpc` turns that back on the other side. Any other exception is logged here under an
incident id, which is all that the peer learns.
"""

import contextlib
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the core's own lines repeat what is raised

import grpc  # reads GRPC_VERBOSITY when it is imported
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # no stubs

from shared.runtime.channels import AioChannel, BlockingChannel
from shared.runtime.clocks import compared
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.logs import incident
from shared.runtime.net import is_loopback, join_address, split_address
from shared.runtime.tls import TlsFiles, loaded_context, served

DOMAIN: Final = "counterfoil"
MAX_MESSAGE_BYTES: Final = 16 * 2**20
MAX_DETAIL: Final = 1000
LONGEST_BACKOFF_MS: Final = 5000
"""Between attempts to reach a server that is away; the library's own two minutes would outlast most outages."""
_DETAILS_KEY: Final = "grpc-status-details-bin"
_WITHOUT_DEADLINE: Final = ("/grpc.health.", "/grpc.reflection.")
"""Health Watch and reflection are open-ended by their nature, and cost next to nothing."""

_FROM_STATUS: Final[Mapping[grpc.StatusCode, Code]] = {
    grpc.StatusCode.CANCELLED: Code.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.DEADLINE,
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND: Code.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: Code.FORBIDDEN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.OVERLOADED,
    grpc.StatusCode.UNAUTHENTICATED: Code.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE: Code.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: Code.UNSUPPORTED,
}
"""For peers, and parts of gRPC itself, that attach no ErrorInfo."""

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a server: its full name, the generated `add_…_to_server`, and the servicer."""

    name: str
    add: Callable[[Any, Any], None]
    servicer: object


@dataclass(slots=True)
class RpcServer:
    """A server that is bound but not yet started."""

    server: grpc.aio.Server
    host: str
    port: int
    """The port that was bound, also when port 0 was asked for."""
    _services: tuple[str, ...]
    _health: Any = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """`host:port` as clients reach it."""
        return join_address(self.host, self.port)

    async def start(self) -> None:
        """Accept calls and report every service as serving."""
        await self.server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks whether to send work here; draining says no before it stops."""
        if self._health is None:
            return
        from grpc_health.v1 import health_pb2  # noqa: PLC0415  # an extra that clients lack

        answer = health_pb2.HealthCheckResponse
        for name in ("", *self._services):
            await self._health.set(name, answer.SERVING if serving else answer.NOT_SERVING)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Report not serving, refuse new calls, and let calls in flight end within `grace_s` seconds."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)


def build_server(
    *,
    tls: TlsFiles,
    address: str,
    services: Sequence[Service],
    health: bool = True,
    reflection: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> RpcServer:
    """Bind an asyncio server to `address` (host:port); call within the running loop, then `start()`.

    `interceptors` run inside ours, so what they raise is mapped too. Raises CONFIGURATION when the
    address cannot be bound.
    """
    host, port = split_address(address)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), *interceptors],
        options=[
            ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unseen
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
        ],
    )
    for service in services:
        service.add(service.servicer, server)
    names = tuple(service.name for service in services)
    servicer = _add_health(server) if health else None
    if reflection:
        from grpc_reflection.v1alpha import reflection as reflecting  # noqa: PLC0415  # an extra

        extra = ["grpc.health.v1.Health"] if health else []
        reflecting.enable_server_reflection(
            [*names, *extra, reflecting.SERVICE_NAME],
            server,
        )
    try:
        bound = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the address {address} is in use or not this machine's",
            remedy="Stop what listens there, or choose another port (0 takes any free one).",
        ) from error
    return RpcServer(server, host, bound or port, names, servicer)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials from a server's certificate and key; the core speaks TLS 1.2 and 1.3 only.

    Each handshake uses what the files hold at its time. CONFIGURATION when they do not fit each other.
    """

    def make() -> grpc.ServerCertificateConfiguration:
        loaded_context(
            files
        )  # the core would take a pair that does not fit, and fail at every handshake
        try:
            pair = (files.key.read_bytes(), files.cert.read_bytes())
        except OSError as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"{error.filename} cannot be read: {error.strerror}"
            ) from error
        return grpc.ssl_server_certificate_configuration([pair])

    current = served(files, make)
    return grpc.dynamic_ssl_server_credentials(current(), current)


def secure_channel(
    target: str, ca_file: Path, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.Channel:
    """Return a blocking channel to host:port that trusts the authority in `ca_file` only."""
    return BlockingChannel(target, ca_file, _channel_options(target, max_message_bytes))


def secure_aio_channel(
    target: str, ca_file: Path, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Channel:
    """Return an asyncio channel to host:port that trusts the authority in `ca_file` only."""
    return AioChannel(target, ca_file, _channel_options(target, max_message_bytes))


def error_from_rpc(error: grpc.RpcError) -> CounterfoilError:
    """Return the error that a peer raised, or what the state of the call amounts to.

    The text is the peer's: it is cut to a length and stripped of control characters.
    """
    status = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    text = _printable(error.details() or "") if status is not None else type(error).__name__
    info, retry_after_s = _attached(error)
    code = Code.__members__.get(info.reason) if info is not None else None
    if code is None:
        fallback = _FROM_STATUS.get(status, Code.INTERNAL) if status is not None else Code.INTERNAL
        return CounterfoilError(fallback, text or "the peer gave no reason")
    detail = text.removeprefix(code.value.message).strip() or text
    metadata = dict(info.metadata) if info is not None else {}
    told = CounterfoilError(code, detail, metadata=metadata, retry_after_s=retry_after_s)
    return compared(told, time.time_ns() // 1_000_000)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Requires a deadline of every call, and turns what handlers raise into rich statuses."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the method's handler; also what inner interceptors raise is mapped."""
        name = handler_call_details.method
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:  # noqa: BLE001  # re-raised in the handler, where it is mapped
            return _refusing(error, name)
        if handler is None or name.startswith(_WITHOUT_DEADLINE):
            return handler  # None: there is no such method
        return _wrap(handler, name)


def _wrap(handler: Handler, method: str) -> Handler:
    """Return the handler with its behaviour under `_mapped`; the four shapes of a call are kept."""
    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _mapped(method, context):
                responses: Any = _required(inner)(request, context)
                if inspect.isawaitable(responses):  # writes through the context
                    await responses
                else:
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            yield response

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)
    single = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def unary(request: Any, context: Context) -> Any:
        async with _mapped(method, context):
            response: Any = _required(single)(request, context)
            return await response if inspect.isawaitable(response) else response

    make_unary = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make_unary(unary, handler.request_deserializer, handler.response_serializer)


def _refusing(error: Exception, method: str) -> Handler:
    async def refuse(_request: Any, context: Context) -> Any:
        await _abort(context, error, method)

    return grpc.unary_unary_rpc_method_handler(refuse)


def _required(behaviour: Callable[..., Any] | None) -> Callable[..., Any]:
    if behaviour is None:
        raise CounterfoilError(Code.INTERNAL, "a method has no behaviour")
    return behaviour


@contextlib.asynccontextmanager
async def _mapped(method: str, context: Context) -> AsyncIterator[None]:
    """Run a handler: check the deadline first, map what it raises. Cancellation passes through."""
    if context.time_remaining() is None:
        error = CounterfoilError(
            Code.DEADLINE_REQUIRED, f"{method} was called without one", remedy="Set a timeout."
        )
        await _abort(context, error, method)
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary: nothing else may reach the peer
        await _abort(context, error, method)


async def _abort(context: Context, error: Exception, method: str) -> NoReturn:
    status = status_of(error, method)
    trailing = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_STATUS_BY_NUMBER[status.code], status.message, trailing)
    raise error  # not reached: abort raises


_STATUS_BY_NUMBER: Final = {status.value[0]: status for status in grpc.StatusCode}


def status_of(error: Exception, where: str) -> status_pb2.Status:
    """Return what a peer learns of `error`; what it must not learn is logged."""
    if not isinstance(error, CounterfoilError):
        error = incident(_log, error, where)
    elif error.code.value.opaque:
        _log.info("%s refused: %s", where, error)
    meaning = error.code.value
    info = error_details_pb2.ErrorInfo(reason=error.code.name, domain=DOMAIN)
    if not meaning.opaque or "incident" in error.metadata:
        info.metadata.update(error.metadata)
    status = status_pb2.Status(
        code=grpc.StatusCode[meaning.grpc].value[0], message=error.public_detail()[:MAX_DETAIL]
    )
    status.details.append(_packed(info))
    if error.retry_after_s is not None and not meaning.opaque:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.append(_packed(retry))
    return status


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _attached(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """Return our ErrorInfo and the retry delay in seconds, where the peer sent them."""
    info: error_details_pb2.ErrorInfo | None = None
    delay: float | None = None
    for packed in _status_details(error):
        found = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        with contextlib.suppress(DecodeError):  # a hostile peer's details say nothing
            if packed.Unpack(found) and found.domain == DOMAIN:
                info = found
            if packed.Unpack(retry):
                delay = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9)
    return info, delay


def _status_details(error: grpc.RpcError) -> Sequence[AnyMessage]:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return []
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return []


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_DETAIL])


def _add_health(server: grpc.aio.Server) -> Any:
    from grpc_health.v1 import health_pb2_grpc  # noqa: PLC0415  # an extra that clients lack
    from grpc_health.v1.health import aio  # noqa: PLC0415  # likewise

    servicer = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _channel_options(target: str, max_message_bytes: int) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_MS),
    ]
    if is_loopback(split_address(target)[0]):
        options.append(("grpc.enable_http_proxy", 0))
    return options
