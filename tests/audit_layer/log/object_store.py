"""An S3 server of its own process (moto), and a double in front of it that fails as networks and stores do."""

import contextlib
import http.client
import itertools
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

BUCKET = "counterfoil-test"
REGION = "eu-central-1"
CREDENTIALS = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's S3 server; yield its address, host:port."""
    output = folder / "moto.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        found = None
        pause = threading.Event()
        for _ in range(600):
            found = re.search(r"Running on http://(127\.0\.0\.1:\d+)", output.read_text())
            if found or process.poll() is not None:
                break
            pause.wait(0.05)
        assert found, output.read_text()
        yield found[1]
    finally:
        process.kill()
        process.wait()


def plain_client(address: str) -> Any:
    """Return a client that goes past the double, as a reader of the bucket does."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://{address}",
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass
class Request:
    """One request that reached the double."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int
    """1 for the first request since `fault` was set."""


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class UnreliableStore:
    """A DOUBLE of an unreliable network and store before a real S3 server, over TLS.

    `fault(request)` says what happens to a request: None (it is answered), `refuse` (status 503, nothing
    done), `reset` (the connection breaks, nothing done), `lost` (done, and the connection breaks before the
    answer), `half` (done, half of the body arrives), or an answer of its own.
    """

    backend: str
    fault: Callable[[Request], str | Answer | None] = lambda _: None
    rewrite: Callable[[Request], None] = lambda _: None
    after: Callable[[Request], None] = lambda _: None
    """Called when a request has been done and before it is answered."""
    seen: list[Request] = field(default_factory=list)
    turn: threading.Lock = field(default_factory=threading.Lock)
    """The server behind it is made for tests, not for concurrent requests."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    address: str = ""

    def fail(self, fault: Callable[[Request], str | Answer | None]) -> None:
        """Set `fault`; requests are counted anew."""
        self.numbers = itertools.count(1)
        self.fault = fault

    def forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.backend, timeout=10)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in {"connection", "transfer-encoding", "server", "date"}
            }
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    @contextlib.contextmanager
    def serving(self, tls: ssl.SSLContext) -> Iterator["UnreliableStore"]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in {"connection", "expect"}
                }
                body = self.rfile.read(length)
                request = Request(self.command, self.path, headers, body, next(double.numbers))
                double.seen.append(request)
                double.rewrite(request)
                fault = double.fault(request)
                if fault == "reset":
                    self.close_connection = True
                    return
                if fault == "refuse":
                    fault = (503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
                with double.turn:
                    answer = fault if isinstance(fault, tuple) else double.forward(request)
                    double.after(request)
                if fault == "lost":
                    self.close_connection = True
                    return
                self._send(*answer, half=fault == "half")

            def _send(self, status: int, headers: dict[str, str], body: bytes, half: bool) -> None:
                self.send_response(status)
                length = headers.pop("Content-Length", "0")
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" else str(len(body))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if half else body)
                self.close_connection = self.close_connection or half

            do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                with contextlib.suppress(OSError), tls.wrap_socket(request, server_side=True) as s:
                    super().finish_request(s, client_address)

        with Server(("127.0.0.1", 0), Handler) as server:
            self.address = f"127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
