"""HTTPS servers on FastAPI or Starlette, served within a running loop: every error is a problem document, or what the server's own
API has in its place.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.runtime.connection import MAX_HEAD_BYTES, Connection
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.logs import incident
from shared.runtime.net import bind, is_loopback, join_address
from shared.runtime.problems import MEDIA_TYPE, to_problem
from shared.runtime.tls import TlsFiles, server_context
from shared.runtime.traffic import HANDSHAKE_S, Gate, Traffic, peer_of

MAX_BODY_BYTES: Final = 4 * 2**20
MAX_ANY_BODY_BYTES: Final = 8 * 2**20
"""More than any of our routes accepts; routes have bounds of their own."""
PIECE_BYTES: Final = 64 * 2**10
KEEP_ALIVE_S: Final = 20
"""How long a connection may stay without a request; its client must have read the last response by then."""
_FROM_STATUS: Final = {
    401: Code.UNAUTHENTICATED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    409: Code.CONFLICT,
    429: Code.OVERLOADED,
    503: Code.UNAVAILABLE,
}
_log = logging.getLogger(__name__)


class AnswerError(Protocol):
    """Makes the response that carries an error, with its code's status unless one is given."""

    def __call__(self, error: CounterfoilError, *, http_status: int | None = None) -> Response:
        """Return the response."""


def problem_response(error: CounterfoilError, *, http_status: int | None = None) -> JSONResponse:
    """Return the response that carries `error` (RFC 9457), with its code's status unless one is given."""
    status, headers, members = to_problem(error)
    if http_status is not None:
        status = members["status"] = http_status
    if error.code.value.opaque and "incident" not in error.metadata:
        _log.info("refused: %s", error)
    return JSONResponse(members, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def install_problem_handlers(
    app: FastAPI | Starlette, answer: AnswerError = problem_response
) -> None:
    """Turn every error of `app` into a problem document, or into what `answer` makes of it: ours, validation, routing, and
    unexpected ones.
    """

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, CounterfoilError)
        return answer(error)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        places = (
            f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
            for found in error.errors()[:10]
        )
        return answer(CounterfoilError(Code.INVALID_ARGUMENT, "; ".join(places)))

    async def routed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _FROM_STATUS.get(error.status_code, Code.INVALID_ARGUMENT)
        failure = CounterfoilError(code, str(error.detail))
        response = answer(failure, http_status=error.status_code)  # 405 has no code
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(CounterfoilError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routed)
    app.add_middleware(_IncidentMiddleware, answer=answer)


async def limited_body(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the request's body; MALFORMED as soon as it is known to exceed `max_bytes`."""
    body = bytearray()
    if (announced := _announced(request.scope)) is not None and announced > max_bytes:
        raise CounterfoilError(
            Code.MALFORMED, f"the body is {announced} bytes long, more than {max_bytes}"
        )
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise CounterfoilError(Code.MALFORMED, f"the body is longer than {max_bytes} bytes")
    return bytes(body)


def _announced(scope: Scope) -> int | None:
    """Return the length of a request's body: 0 without one, None if it is sent in chunks."""
    headers = dict(scope["headers"])
    if (length := headers.get(b"content-length")) is not None:
        return int(length)  # digits only: the parser has checked that
    return None if b"transfer-encoding" in headers else 0


def in_pieces(send: Send) -> Send:
    """Return a `send` that passes long bodies on in pieces, each once the client has read the previous ones.
    A body sent in one piece counts as sent immediately, and the connection would be closed as idle while a slow client reads.
    """

    async def sending(message: Message) -> None:
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= PIECE_BYTES:
            await send(message)
            return
        for at in range(0, len(body), PIECE_BYTES):
            end = at + PIECE_BYTES
            more = message.get("more_body", False) or end < len(body)
            await send({**message, "body": body[at:end], "more_body": more})

    return sending


class _GateMiddleware:
    """Passes requests through their server's gate."""

    def __init__(self, app: ASGIApp, gate: Gate, answer: AnswerError) -> None:
        self._app = app
        self._gate = gate
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["gate"] = self._gate
        with contextlib.ExitStack() as passing:
            try:
                self._enter(scope, passing)
            except CounterfoilError as refused:
                await self._answer(refused)(scope, receive, send)
                return
            await self._app(scope, receive, in_pieces(send))

    def _enter(self, scope: Scope, passing: contextlib.ExitStack) -> None:
        peer = peer_of(scope["client"][0] if scope["client"] else "")
        passing.enter_context(self._gate.call(peer, "HTTP"))
        for name, value in scope["headers"]:
            if name == b"authorization":
                self._gate.credential(value)
        announced = _announced(scope)
        size = MAX_ANY_BODY_BYTES if announced is None else announced
        if size > MAX_ANY_BODY_BYTES:
            raise CounterfoilError(
                Code.MALFORMED, f"no body here is longer than {MAX_ANY_BODY_BYTES} bytes"
            )
        if size:
            passing.enter_context(self._gate.body(peer, size))


class _IncidentMiddleware:
    """Answers an unexpected exception with an incident id, and logs it under that id."""

    def __init__(self, app: ASGIApp, answer: AnswerError) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            _log.debug("a client went away before its request was read")
        except Exception as error:  # the boundary: nothing else may reach the peer
            if scope["type"] != "http":
                raise
            failure = incident(_log, error, f"{scope['method']} {scope['path']}")
            if not started:
                await self._answer(failure)(scope, receive, send)


@dataclass(slots=True)
class HttpsServer:
    """A server that runs until `stop` is awaited."""

    host: str
    port: int
    """The bound port, even if port 0 was requested."""
    _server: "_Server"
    _task: asyncio.Task[None]

    @property
    def address(self) -> str:
        """`host:port` as clients reach it."""
        return join_address(self.host, self.port)

    async def stop(self) -> None:
        """Refuse new connections and return when requests in flight are answered, or the grace period is over."""
        self._server.should_exit = True
        await self._task


async def serve_https(
    app: ASGIApp,
    tls: TlsFiles,
    address: str,
    *,
    traffic: Traffic | None = None,
    callers_ca: Path | None = None,
    grace_s: float = 5.0,
) -> HttpsServer:
    """Serve `app` in the running loop over TLS 1.3; return once connections are accepted.

    `traffic` bounds the rate of calls, and how long a request may take to arrive. With `callers_ca`, callers are asked for
    a certificate of these authorities; who has shown one is `request.state.party`, and health checks need none.
    Raises CONFIGURATION if the address cannot be bound or the certificate cannot be used.
    """
    context = server_context(tls, callers_ca)
    return await _serve(app, context, bind(address), traffic, grace_s, problem_response)


async def serve_near(
    app: ASGIApp,
    tls: TlsFiles | None,
    address: str,
    *,
    answer: AnswerError,
    traffic: Traffic | None = None,
    grace_s: float = 5.0,
) -> HttpsServer:
    """Serve `app` as `serve_https` does; without `tls` in the clear, to this machine alone.

    `answer` makes what the server itself refuses. Raises CONFIGURATION for an address without TLS that others can reach.
    """
    context = None if tls is None else server_context(tls)
    listener = bind(address)
    host = listener.getsockname()[0]
    if context is None and not is_loopback(host):
        listener.close()
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"other machines can reach {address}, and there is no certificate",
            remedy="Serve on 127.0.0.1, or configure [tls].",
        )
    return await _serve(app, context, listener, traffic, grace_s, answer)


async def _serve(
    app: ASGIApp,
    context: ssl.SSLContext | None,
    listener: socket.socket,
    traffic: Traffic | None,
    grace_s: float,
    answer: AnswerError,
) -> HttpsServer:
    gate = Gate(traffic or Traffic())
    config = uvicorn.Config(
        _GateMiddleware(app, gate, answer),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    server = _Server(config, context, gate)
    host, port = listener.getsockname()[:2]
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"https {host}:{port}")
    waiting = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        listener.close()
        await task
    return HttpsServer(host, port, server, task)


class _Server(uvicorn.Server):
    """uvicorn within our loop: signals are left to the process, readiness can be awaited, failures are raised."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext | None, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate
        self.ready = asyncio.Event()
        self._context = context

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_service`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections; idle peers cannot delay the end by more than a second."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise CounterfoilError(Code.CONFIGURATION, "the HTTP application did not start")
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return Connection(
                gate=self._gate,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )

        self.servers = [
            await loop.create_server(
                protocol,
                sock=listener,
                ssl=self._context,
                ssl_handshake_timeout=None if self._context is None else HANDSHAKE_S,
                ssl_shutdown_timeout=None if self._context is None else 1.0,
            )
            for listener in sockets or []
        ]
        self.started = True
        self.ready.set()
