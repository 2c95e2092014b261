"""A double of a mirror: a web server with static files, which a test may change, stop, or have answer without end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shared.runtime.http import serve_https
from shared.statements.cose import entry_of, parse_statement
from shared.translog.proofs import inclusion_proof, lookup_in
from shared.translog.tiles import TreeEdge
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.directory_file import DirectoryFile, Placed


class FakeMirror:
    """A double of a web server that has a copy of a `FakeAudit`'s log."""

    def __init__(self):
        self.files = {}
        self.asked = []
        self.bearers = []
        """What came as authorisation."""
        self.answers = {}
        """Path → a function that returns the answer to give instead."""

    def copy(self, audit, *, omits=()):
        """Take over tiles, checkpoint and directory of the log as it is now, without statements of the types in `omits`."""
        leaves = audit.leaves()
        self.files |= {tile.path: data for tile, data in TreeEdge().extend(leaves)}
        note = parse_tlog_proof(audit.proof(0)).note
        placed = [
            Placed(raw, index, tuple(inclusion_proof(index, len(leaves), lookup_in(leaves))))
            for index, raw in enumerate(audit.statements)
            if parse_statement(raw).type in {"key-bundle", "revocation"} - set(omits)
        ]
        assert all(entry_of(item.statement) for item in placed)
        self.files["checkpoint"] = note.encode()
        self.files["directory.json"] = DirectoryFile(note, tuple(placed)).encode()

    async def answer(self, request):
        path = request.path_params["path"]
        self.asked.append(path)
        self.bearers.append(request.headers.get("authorization"))
        if path in self.answers:
            return self.answers[path]()
        if path in self.files:
            return Response(self.files[path])
        return Response(status_code=404)

    @contextlib.asynccontextmanager
    async def serving(self, world, name="mirror") -> AsyncIterator[str]:
        """Serve over TLS on loopback; yield the address."""
        app = Starlette(routes=[Route("/{path:path}", self.answer)])
        server = await serve_https(
            app, world.ca.issue(name, folder=world.folder / name), "127.0.0.1:0", grace_s=1.0
        )
        try:
            yield f"https://{server.address}"
        finally:
            await server.stop()


def endless():
    """Return an answer that is longer than anybody may read."""

    async def pieces():
        for _ in range(320):
            yield b"x" * 65536

    return StreamingResponse(pieces())


def slow():
    """Return an answer that arrives a byte at a time."""

    async def pieces():
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(pieces())
