"""Doubles of the monitor's tests: a log that can lie, and a server that can garble. Both announce themselves."""

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from audit_layer.log.files import PublishedFiles
from shared.runtime.errors import CounterfoilError
from shared.runtime.http import HttpsServer, install_problem_handlers, serve_https
from shared.runtime.tls import LocalCA
from shared.statements.cose import entry_of, parse_statement
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.signed_checkpoint import sign
from shared.translog.tiles import Tile, TreeEdge, encode_bundle, files_grown
from shared.translog.tree import leaf_hash
from tests.audit_layer.log.world import LOG_SIGNERS, ORIGIN, entry, policy_of, witness_signers

ANNOUNCEMENT = {"x-test-double": "this server changes answers on purpose"}
NAMES = ("w1.example", "w2.example")
POLICY = policy_of(NAMES, 2)
TIME = 1_800_000_000


def some_entries(count: int, salt: str = "honest") -> list[bytes]:
    return [entry((salt, i)) for i in range(count)]


class LyingLog:
    """A double that signs, and gets cosigned, whatever a test asks for, under the test log's keys."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = list(entries)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        tree = TreeEdge()
        leaves = [leaf_hash(e) for e in self.entries[:size]]
        tree.extend(leaves)
        return Checkpoint(ORIGIN, len(leaves), tree.root())

    def note(
        self, size: int | None = None, *, time_s: int = TIME, names: Sequence[str] = NAMES
    ) -> bytes:
        checkpoint = self.checkpoint(size)
        note = sign(checkpoint, LOG_SIGNERS, time_s=time_s)
        lines = [
            cosign(s, checkpoint, time_s=time_s) for name in names for s in witness_signers(name)
        ]
        return note.with_signatures(tuple(lines)).encode().encode()

    def files(self, size: int | None = None) -> dict[str, bytes]:
        """Every tile and entry bundle of one size."""
        entries = self.entries[:size]
        held = dict(TreeEdge().extend([leaf_hash(e) for e in entries]))
        for tile in list(held):
            if tile.level == 0:
                first = tile.index * 256
                held[Tile(-1, tile.index, tile.width)] = encode_bundle(
                    entries[first : first + tile.width]
                )
        assert set(held) == set(files_grown(0, len(entries)))
        return {tile.path: data for tile, data in held.items()}


Answer = Callable[[Request], Response] | Response


class TamperingServer:
    """A double: serves what it is given, changed as a test says; says so in every answer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folder: PublishedFiles | None = None
        self.answers: dict[str, Answer] = {}
        """Path → the answer to give instead."""
        self.asked: list[str] = []

    def show(self, log: LyingLog, size: int | None = None, **options: Any) -> None:
        """Serve a lying log at one size; narrower files stay, as a log keeps them."""
        self.files |= log.files(size)
        self.files["checkpoint"] = log.note(size, **options)

    def statements(self, path: str, items: Sequence[tuple[int, bytes]], **changes: Any) -> None:
        """Answer a list of statements (index, raw) below /v1, and each statement by its entry."""
        views = []
        for index, raw in items:
            encoded = base64.b64encode(raw).decode()
            view = {
                "entry": entry_of(raw).hex(),
                "log_index": index,
                "type": parse_statement(raw).type,
                "raw": encoded,
            }
            views.append({**view, **changes})
            self.answers[f"v1/statements/{view['entry']}"] = JSONResponse({"raw": encoded})

        def page(request: Request) -> Response:
            after = int(request.query_params["after"])
            limit = int(request.query_params["limit"])
            found = [view for view in views if view["log_index"] > after][:limit]
            following = found[-1]["log_index"] if len(found) == limit else None
            return JSONResponse({"items": found, "next": following})

        self.answers[path] = page

    async def answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.asked.append(path)
        response = self._answer(path, request)
        response.headers.update(ANNOUNCEMENT)
        return response

    def _answer(self, path: str, request: Request) -> Response:
        changed = self.answers.get(path)
        if changed is not None:
            return changed if isinstance(changed, Response) else changed(request)
        if path in self.files:
            return Response(self.files[path])
        if self.folder is not None:
            try:
                return Response(self.folder.serve(path).body)
            except CounterfoilError:
                pass
        return JSONResponse({"code": "NOT_FOUND"}, status_code=404)

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[tuple[HttpsServer, Path]]:
        """Serve over TLS on loopback; yield the server and the authority's file."""
        authority = LocalCA.load_or_create(folder / "ca")
        app = Starlette(routes=[Route("/{path:path}", self.answer)])
        install_problem_handlers(app)
        server = await serve_https(app, authority.issue("server"), "127.0.0.1:0", grace_s=1.0)
        try:
            yield server, authority.ca_file
        finally:
            await server.stop()


def kept(path: str) -> dict[str, Any]:
    """Read a file of evidence."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


class Heard:
    """Keeps a monitor's output."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def write(self, event: str, text: str, facts: dict[str, Any]) -> None:
        json.dumps(facts)  # what cannot be JSON must not be said
        self.events.append((event, {**facts, "text": text}))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == event]

    def kinds(self) -> list[str]:
        return [facts["kind"] for facts in self.of("finding")]
