"""`GET /metrics` of one process, on an address of its own: in threads, so that any process can have it, and bounded.

It is off unless the process's configuration has a table `[metrics]`. Without certificates it listens on this machine's own
addresses only.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from pydantic import model_validator

from shared.runtime.config import Settings
from shared.runtime.errors import CounterfoilError
from shared.runtime.metrics import CONTENT_TYPE, Exposition
from shared.runtime.net import bind, is_loopback, join_address, split_address
from shared.runtime.tls import TlsFiles, server_context

MOST_SCRAPES: Final = 8
"""Connections at once; one more is closed unanswered."""
SCRAPE_S: Final = 10.0
"""How long one connection may last, from its beginning to the last byte, whatever its peer does."""
MOST_HEAD: Final = 8192
"""Bytes of a request's head."""
_log = logging.getLogger(__name__)


class MetricsSettings(Settings):
    """Where a process answers `GET /metrics`."""

    address: str = "127.0.0.1:0"
    """host:port; port 0 takes any free one, and the ready file says which."""
    tls: TlsFiles | None = None
    """Certificate and key. Needed for addresses other than this machine's own."""
    callers_ca: Path | None = None
    """Authorities (PEM) of the certificates that whoever scrapes must show. Needed for addresses other than this machine's own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            host, _ = split_address(self.address)
        except CounterfoilError as error:
            raise ValueError(error.detail) from None
        if self.callers_ca is not None and self.tls is None:
            raise ValueError("callers_ca needs a table tls: certificates are shown over TLS")
        if not is_loopback(host) and self.callers_ca is None:
            raise ValueError(
                f"metrics on {host} need tls and callers_ca: they tell how busy the process is, for anybody who asks"
            )
        return self


class MetricsServer:
    """Answers scrapes until `stop`."""

    def __init__(
        self, settings: MetricsSettings, exposition: Exposition, *, scrape_s: float = SCRAPE_S
    ) -> None:
        """Bind; CONFIGURATION if the address cannot be bound or the certificate cannot be used."""
        self._context: ssl.SSLContext | None = None
        if settings.tls is not None:
            self._context = server_context(settings.tls, settings.callers_ca)
        self._demand = settings.callers_ca is not None
        self._exposition, self._scrape_s = exposition, scrape_s
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)
        self._stopped = False
        self._listener = bind(settings.address)
        self._listener.setblocking(True)
        self._listener.listen(MOST_SCRAPES)
        self._thread = threading.Thread(target=self._accept, name="metrics", daemon=True)

    @property
    def address(self) -> str:
        """`host:port` as bound."""
        host, port = self._listener.getsockname()[:2]
        return join_address(host, port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        _log.info("metrics are served", extra={"address": self.address})

    def stop(self) -> None:
        """Accept no more connections; those that are open end by themselves."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if not self._stopped:
                    time.sleep(0.1)  # no descriptors are left, say
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            scrape = threading.Thread(
                target=self._serve, args=(connection,), name="scrape", daemon=True
            )
            try:
                scrape.start()
            except RuntimeError:  # the system gives no more threads
                connection.close()
                self._places.release()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one request. Its peer can end the connection earlier than in time, and nothing else."""
        until = time.monotonic() + self._scrape_s
        try:
            with contextlib.suppress(OSError), connection:
                self._answer(connection, until)
        except Exception:  # noqa: BLE001  # a scrape harms nothing else
            _log.exception("a scrape failed")
        finally:
            self._places.release()

    def _answer(self, connection: socket.socket, until: float) -> None:
        connection.settimeout(_left(until))
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            head = _head(
                connection, until
            )  # in any case: closing before it is read would lose the answer
            if self._demand and not _certificate(connection):
                answer = _response("403 Forbidden", "a certificate is needed\n")
            else:
                answer = self._response(head)
            connection.settimeout(_left(until))
            connection.sendall(answer)  # within that time in all

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if b"\r\n\r\n" not in head:
            return _response("400 Bad Request", "a request's head is needed\n")
        if path != b"/metrics":
            return _response("404 Not Found", "there is /metrics here\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", "GET it\n", ("allow: GET",))
        return _response("200 OK", self._exposition.text())


@contextlib.contextmanager
def metrics(
    settings: MetricsSettings | None, make: Callable[[], Exposition]
) -> Iterator[dict[str, str]]:
    """Serve metrics within the block, if there are settings; yield what the ready file says of them."""
    if settings is None:
        yield {}
        return
    server = MetricsServer(settings, make())
    server.start()
    try:
        yield {"metrics": server.address}
    finally:
        server.stop()


def _left(until: float) -> float:
    """Return the seconds until then; TimeoutError if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _head(connection: socket.socket, until: float) -> bytes:
    """Return what has arrived once a request's head is complete, its peer has ended, or it is too long."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < MOST_HEAD:
        connection.settimeout(_left(until))
        more = connection.recv(MOST_HEAD)
        if not more:
            break
        head += more
    return head


def _certificate(connection: socket.socket) -> bool:
    """Return whether the peer has shown one; the handshake has verified it."""
    assert isinstance(connection, ssl.SSLSocket)
    return connection.getpeercert(binary_form=True) is not None


def _response(status: str, body: bytes | str, headers: tuple[str, ...] = ()) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = (
        f"HTTP/1.1 {status}",
        f"content-type: {CONTENT_TYPE}",
        f"content-length: {len(data)}",
        "connection: close",
        "cache-control: no-store",
        *headers,
    )
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + data
