"""A hub on loopback that speaks as much of Hugging Face's protocol as its client asks for, and lies when told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "owner/small"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """The files of the one repository, and what is wrong with it."""

    files: dict[str, bytes]
    endpoint: str = ""
    sha: str = COMMIT
    sent: dict[str, bytes] = field(default_factory=dict)
    """Contents that are sent in place of those listed."""
    cut: set[str] = field(default_factory=set)
    """Files whose connection breaks in the middle."""
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For a part of a path: HTTP status and the hub's X-Error-Code."""
    raw: dict[str, bytes] = field(default_factory=dict)
    """For a part of a path: an answer sent as it is."""
    requests: list[str] = field(default_factory=list)

    def tree(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "oid": "0" * 40}]
        for path, content in self.files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = git_hash(content)
            if path.endswith(".safetensors"):
                digest = sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            listed.append(entry)
        return listed


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        failing = [answer for part, answer in hub.fail.items() if part in path]
        raw = [content for part, content in hub.raw.items() if part in path]
        if failing:
            status, code = failing[0]
            self.answer(status, b"{}", X_Error_Code=code)
        elif raw:
            self.answer(200, raw[0], Content_Type="application/json")
        elif path.startswith("/api/"):
            self.describe(hub, path.removeprefix(f"/api/models/{REPOSITORY}"))
        elif path.startswith("/cdn/"):
            self.send_file(hub, path.removeprefix("/cdn/"))
        else:
            self.resolve(hub, path.removeprefix(f"/{REPOSITORY}/resolve/{hub.sha}/"))

    def describe(self, hub: Hub, path: str) -> None:
        if path in {"", "/revision/v1", f"/revision/{hub.sha}"}:
            found: object = {"id": REPOSITORY, "_id": "1", "sha": hub.sha, "siblings": []}
        elif path.startswith(f"/tree/{hub.sha}"):
            found = hub.tree()
        else:
            return self.answer(404, X_Error_Code="RepoNotFound")
        return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def resolve(self, hub: Hub, name: str) -> None:
        if name not in hub.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        if not name.endswith(".safetensors"):
            return self.send_file(hub, name)
        content = hub.files[name]
        tag = f'"{sha256(content).hexdigest()}"'
        return self.answer(
            302,
            Location=f"{hub.endpoint}/cdn/{name}",
            ETag=tag,
            X_Repo_Commit=hub.sha,
            X_Linked_Size=str(len(content)),
            X_Linked_ETag=tag,
        )

    def send_file(self, hub: Hub, name: str) -> None:
        content = hub.sent.get(name, hub.files[name])
        sent = content[: len(content) // 2] if name in hub.cut else content
        tag = f'"{git_hash(hub.files[name])}"'
        self.answer(200, sent, length=len(content), ETag=tag, X_Repo_Commit=hub.sha)

    def answer(
        self, status: int, content: bytes = b"", *, length: int | None = None, **headers: str
    ) -> None:
        """Send `content`, promising `length` bytes; the connection ends if not all are sent."""
        promised = len(content) if length is None else length
        self.send_response(status)
        self.send_header("Content-Length", str(promised))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            self.close_connection = promised != len(content)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = Server(("127.0.0.1", 0), Handler)
    server.hub = hub
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
