"""A double for a bad network: a Unix socket in front of Postgres' own that forwards bytes until it is told to cut."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from audit_layer.storage.dsn import make_dsn, parse_dsn
from audit_layer.storage.embedded import PORT

_NAME = f".s.PGSQL.{PORT}"


class CutLink:
    """Forwards connections. Use `dsn` instead of the server's own."""

    def __init__(self, dsn: str, folder: Path) -> None:
        parts = parse_dsn(dsn)
        self._target = str(Path(str(parts["host"])) / _NAME)
        self._path = str(folder / _NAME)
        self.dsn = make_dsn(
            str(parts["user"]),
            str(parts["password"]),
            str(parts["dbname"]),
            host=str(folder),
            port=PORT,
        )
        self._open: set[asyncio.StreamWriter] = set()
        self._mute = False
        self.cuts = 0
        """Connections that were cut."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_unix_connection(self._target)
        self._open |= {writer, server}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, server, answers=False))
                group.create_task(self._forward(upstream, writer, answers=True))
        finally:
            self._open -= {writer, server}
            for end in (writer, server):
                end.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if answers and self._mute:
                    self.cuts += 1
                    break
                target.write(data)
                await target.drain()
        target.transport.abort()

    def cut(self) -> None:
        """End all connections now, wherever they are."""
        self.cuts += len(self._open) // 2
        for end in list(self._open):
            end.transport.abort()

    @contextlib.contextmanager
    def losing_answers(self) -> Iterator[None]:
        """During the block, clients' requests reach the server, but each answer ends its connection instead."""
        self._mute = True
        try:
            yield
        finally:
            self._mute = False


@contextlib.asynccontextmanager
async def cut_link(dsn: str) -> AsyncIterator[CutLink]:
    """Listen in a folder with a short name, since socket paths must be short."""
    with tempfile.TemporaryDirectory(prefix="cut-", dir="/tmp") as folder:
        link = CutLink(dsn, Path(folder))
        server = await asyncio.start_unix_server(link._serve, link._path)
        try:
            yield link
        finally:
            server.close()
            link.cut()
            await asyncio.sleep(0)
