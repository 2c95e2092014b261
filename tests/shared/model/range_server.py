"""A web server with files on loopback, over TLS, that answers range requests, and lies when told to."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shared.runtime.tls import LocalCA


@dataclass
class Answer:
    """A status, headers and a body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Served:
    """What is served, and what was sent."""

    files: dict[str, bytes]
    url: str = ""
    ca: Path = Path()
    lie: Callable[[str, Answer], Answer] = lambda _name, answer: answer
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of each file."""

    def answer(self, name: str, asked: str | None) -> Answer:
        if name not in self.files:
            return Answer(404, {}, b"")
        data = self.files[name]
        if asked is None:
            return Answer(200, {}, data)
        start, last = map(int, asked.removeprefix("bytes=").split("-"))
        body = data[start : last + 1]
        if not body:
            return Answer(416, {}, b"")
        shown = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        return Answer(206, {"Content-Range": shown}, body)


@contextmanager
def serving(files: dict[str, bytes], folder: Path) -> Iterator[Served]:
    """Serve until the block ends; `folder` is for certificates."""
    tls = LocalCA.load_or_create(folder / "ca").issue("files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key)
    served = Served(files, ca=tls.ca)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            answer = served.lie(name, served.answer(name, self.headers.get("range")))
            self.send_response(answer.status)
            for header, value in {
                "Content-Length": str(len(answer.body)),
                **answer.headers,
            }.items():
                self.send_header(header, value)
            served.sent[name] = served.sent.get(name, 0) + len(answer.body)
            with suppress(OSError):  # who has enough goes away
                self.end_headers()
                self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
