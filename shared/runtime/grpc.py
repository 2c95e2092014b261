"""gRPC as all our servers and clients speak it: TLS always, deadlines always, rich errors.
`shared.runtime.interceptor` turns what servicers raise into a rich status; `error_from_rpc` turns that
back into the error on the other side.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # no stubs

from shared.runtime.access import Rules
from shared.runtime.channels import AioChannel, BlockingChannel
from shared.runtime.clocks import compared
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc_access import AccessInterceptor
from shared.runtime.interceptor import DETAILS_KEY, DOMAIN, MAX_DETAIL, ErrorInterceptor
from shared.runtime.metrics import Counter
from shared.runtime.net import is_loopback, join_address, split_address
from shared.runtime.party import PartyFiles, PartyListener
from shared.runtime.printable import printable
from shared.runtime.tls import TlsFiles, loaded_context, served
from shared.runtime.traffic import HANDSHAKE_S, Gate, Traffic

MAX_MESSAGE_BYTES: Final = 16 * 2**20
LONGEST_BACKOFF_MS: Final = 5000
"""Time between attempts to reach an absent server; the library's own two minutes would outlast most outages."""
TELL_S: Final = 2.0
"""How long reporting a server's health may take."""
_METADATA_BYTES: Final = 8192
_IDLE_MS, _AGE_MS = 15 * 60_000, 60 * 60_000
"""Ages at which an idle connection, and any connection, is closed; calls in flight finish first, and clients reconnect."""
_KEEPALIVE_MS, _KEEPALIVE_ANSWER_MS, _PING_EVERY_MS = 120_000, 20_000, 10_000
"""How we detect that a peer is gone; and how often a client may ping before it is told to calm down."""

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


Served = tuple[bytes, bytes, bytes | None]
"""A server's key and certificate, and the authorities of its callers' certificates if it asks for any."""

_log = logging.getLogger(__name__)


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
    """The bound port, even if port 0 was requested."""
    _services: tuple[str, ...]
    _health: Any = field(default=None, repr=False)
    party_address: str | None = None
    """`host:port` where parties call with their certificates; None if they are not asked for any."""
    calls: Counter = field(default_factory=Counter, repr=False)
    """Calls by method and code, as the interceptor counts them."""

    @property
    def address(self) -> str:
        """`host:port` as clients reach it."""
        return join_address(self.host, self.port)

    async def start(self) -> None:
        """Accept calls and report every service as serving."""
        await self.server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """Set what health checks report; a draining server reports no before it stops."""
        if self._health is None:
            return
        from grpc_health.v1 import health_pb2  # noqa: PLC0415  # an extra that clients lack

        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if serving else answer.NOT_SERVING

        async def tell() -> None:
            for name in ("", *self._services):
                await self._health.set(name, status)

        await _told(tell())

    async def stop(self, grace_s: float = 5.0) -> None:
        """Report not serving, refuse new calls, and let calls in flight finish for up to `grace_s` seconds."""
        if self._health is not None:
            await _told(self._health.enter_graceful_shutdown())
        await self.server.stop(grace_s)


async def _told(telling: Coroutine[Any, Any, None]) -> None:
    """Wait until all watchers were notified, except those that do not read: draining and stopping must go on."""
    try:
        await asyncio.wait_for(telling, TELL_S)
    except TimeoutError:
        _log.warning("a client that watches this server's health does not read its messages")


def build_server(
    *,
    tls: TlsFiles,
    address: str,
    services: Sequence[Service],
    health: bool = True,
    reflection: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    traffic: Traffic | None = None,
    rules: Rules | None = None,
    parties: PartyListener | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> RpcServer:
    """Bind an asyncio server to `address` (host:port); call within the running loop, then `start()`.

    `max_message_bytes` bounds received messages, `traffic` the rate of calls. `rules` say who may call what; without them
    everybody may call everything. At the address of `parties` the same methods are served to those who show a party's
    certificate: the library asks everybody at one address for a certificate, or nobody. `interceptors` run inside ours, so
    what they raise is mapped too. Raises CONFIGURATION if an address cannot be bound.
    """
    host, port = split_address(address)
    traffic = traffic or Traffic()
    gate = Gate(traffic)
    checks = [] if rules is None else [AccessInterceptor(rules, gate)]
    errors = ErrorInterceptor(gate)
    server = grpc.aio.server(
        interceptors=[errors, *checks, *interceptors],
        options=[
            ("grpc.so_reuseport", 0),  # two servers on one port would silently share its calls
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            *_server_options(traffic),
        ],
        maximum_concurrent_rpcs=traffic.calls_in_flight,
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
    bound = _bind(server, address, server_credentials(tls))
    built = RpcServer(server, host, bound or port, names, servicer, calls=errors.calls)
    if parties is not None:
        own_host, own_port = split_address(parties.address)
        port = _bind(server, parties.address, server_credentials(tls, parties.ca))
        built.party_address = join_address(own_host, port or own_port)
    return built


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Return the bound port; CONFIGURATION if the address cannot be bound."""
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the address {address} is in use or does not belong to this machine",
            remedy="Stop what listens there, or choose another port (0 takes any free one).",
        ) from error


def _server_options(traffic: Traffic) -> list[tuple[str, int]]:
    """Return the limits that the core enforces before a handler sees a call."""
    return [
        ("grpc.max_allowed_incoming_connections", traffic.connections),
        ("grpc.max_concurrent_streams", traffic.streams_per_connection),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.max_connection_age_ms", _AGE_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MS),
    ]


def server_credentials(files: TlsFiles, callers_ca: Path | None = None) -> grpc.ServerCredentials:
    """Return credentials from a server's certificate and key; the core speaks TLS 1.2 and 1.3 only.

    Each handshake uses the files as they are at that time. With `callers_ca`, everybody must show a certificate of these
    authorities. CONFIGURATION if the files do not match.
    """

    def make() -> Served:
        loaded_context(  # the core would accept a mismatched pair, and fail at every handshake
            files, callers_ca
        )
        try:
            roots = None if callers_ca is None else callers_ca.read_bytes()
            return files.key.read_bytes(), files.cert.read_bytes(), roots
        except OSError as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"{error.filename} cannot be read: {error.strerror}"
            ) from error

    current = served(files, make, callers_ca)
    replaced = Replaced(current)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(replaced.first),
        replaced,  # type: ignore[arg-type]  # None means "no change", according to its documentation
        require_client_authentication=callers_ca is not None,
    )


class Replaced:
    """Called by the core at every handshake: returns a configuration if the files were replaced, None if they are being served.
    The core takes ownership of what it is given and frees it, so nothing may be given to it twice.
    """

    def __init__(self, current: Callable[[], Served]) -> None:
        self._current = current
        self.first = self._given = current()
        self._lock = threading.Lock()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration to serve from now on, or None."""
        now = self._current()
        with self._lock:
            if now == self._given:
                return None
            self._given = now
        return _configuration(now)


def _configuration(now: Served) -> grpc.ServerCertificateConfiguration:
    key, certificate, roots = now
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=roots)


def secure_channel(
    target: str,
    ca_file: Path,
    party: PartyFiles | None = None,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.Channel:
    """Return a blocking channel to host:port that trusts only the authority in `ca_file`, and shows the party's certificate."""
    return BlockingChannel(target, ca_file, _channel_options(target, max_message_bytes), party)


def secure_aio_channel(
    target: str,
    ca_file: Path,
    party: PartyFiles | None = None,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    """Return an asyncio channel to host:port that trusts only the authority in `ca_file`, and shows the party's certificate."""
    return AioChannel(target, ca_file, _channel_options(target, max_message_bytes), party)


def serves(
    target: str, ca_file: Path, party: PartyFiles | None = None, timeout_s: float = 3.0
) -> bool | None:
    """Ask a server's health service whether it accepts work; None if it does not answer. Blocks."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415  # an extra that clients lack
    except ImportError:
        return None
    with secure_channel(target, ca_file, party) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return None
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def error_from_rpc(error: grpc.RpcError, who: str | None = None) -> CounterfoilError:
    """Return the error that a peer raised, or the one that the call's status amounts to; it names `who` if given.
    The text is the peer's: it is truncated and stripped of control characters.
    """
    status = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    text = _printable(error.details() or "") if status is not None else type(error).__name__
    info, retry_after_s, statement = _attached(error)
    code = Code.__members__.get(info.reason) if info is not None else None
    if code is None:
        fallback = _FROM_STATUS.get(status, Code.INTERNAL) if status is not None else Code.INTERNAL
        text = text or "the peer gave no reason"
        if who is None:
            return CounterfoilError(fallback, text)
        if fallback not in {Code.UNAVAILABLE, Code.DEADLINE}:
            return CounterfoilError(fallback, f"{who}: {text}")
        return CounterfoilError(
            fallback,
            f"{who} does not answer: {text}",
            remedy="Check that it is running, and the address.",
        )
    detail = text.removeprefix(code.value.message).strip() or text
    detail = detail if who is None else f"{who}: {detail}"
    metadata = dict(info.metadata) if info is not None else {}
    told = CounterfoilError(code, detail, metadata=metadata, retry_after_s=retry_after_s)
    told = compared(told, time.time_ns() // 1_000_000)
    told.statement = statement
    return told


def _attached(
    error: grpc.RpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, float | None, bytes | None]:
    """Return our ErrorInfo, the retry delay in seconds and a signed statement, if the peer sent them."""
    info: error_details_pb2.ErrorInfo | None = None
    delay: float | None = None
    statement: bytes | None = None
    for packed in _status_details(error):
        found = error_details_pb2.ErrorInfo()
        retry, signed = error_details_pb2.RetryInfo(), BytesValue()
        with contextlib.suppress(DecodeError):  # a hostile peer's details say nothing
            if packed.Unpack(found) and found.domain == DOMAIN:
                info = found
            if packed.Unpack(retry):
                delay = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9)
            if packed.Unpack(signed):
                statement = signed.value
    return info, delay, statement


def _status_details(error: grpc.RpcError) -> Sequence[AnyMessage]:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return []
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return []


def _printable(text: str) -> str:
    return printable(text, MAX_DETAIL, " ")


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
