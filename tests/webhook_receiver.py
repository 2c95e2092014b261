"""A receiver of webhooks over HTTPS, in a thread of the test."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shared.runtime.tls import LocalCA


@dataclass
class Received:
    """What came, and what is answered to it."""

    url: str
    ca: Path
    status: int = 204
    slow: threading.Event | None = None
    """Until it is set, a byte of the answer comes now and then."""
    endless: bool = False
    """The answer's body goes on until the connection ends."""
    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, headers by lower-case name, body."""


@contextmanager
def https_receiver(folder: Path) -> Iterator[Received]:
    """Serve until the block ends."""
    files = LocalCA.load_or_create(folder / "ca").issue("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    received = Received("", files.ca)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            headers = {name.lower(): value for name, value in self.headers.items()}
            received.came.append((self.command, headers, self.rfile.read(length)))
            while received.slow is not None and not received.slow.wait(0.05):
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.send_response(received.status)
            self.send_header("location", f"{received.url}/elsewhere")
            if received.endless:
                self.end_headers()
                with suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1 << 16))
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815  # the library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    received.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
