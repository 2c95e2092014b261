"""The observer: a relay between client and node that sees what a network sees, TLS records with their sizes and times."""

import asyncio
import contextlib
import struct
import time
from dataclasses import dataclass, field
from typing import Final, Self

APPLICATION_DATA: Final = 23
HEAD: Final = struct.Struct(">BHH")
"""A TLS record's type, version and length (RFC 8446 §5.1)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of application data."""

    at: float
    """Seconds by time.monotonic(), when its head was seen."""
    size: int
    """Bytes, without its head."""
    down: bool
    """From the node to the client."""


class Records:
    """Finds the records in one direction of a connection, however its bytes are cut."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        """Bytes of the present record that are still to come."""

    def feed(self, data: bytes) -> list[int]:
        """Take bytes; return the sizes of application-data records that begin in them."""
        found, place = [], 0
        while place < len(data):
            if self._left:
                step = min(self._left, len(data) - place)
                self._left -= step
                place += step
                continue
            taken = data[place : place + HEAD.size - len(self._head)]
            self._head += taken
            place += len(taken)
            if len(self._head) == HEAD.size:
                kind, _, size = HEAD.unpack(self._head)
                self._head, self._left = b"", size
                if kind == APPLICATION_DATA:
                    found.append(size)
        return found


@dataclass(slots=True)
class Relay:
    """Passes on every connection to one address, and notes its records."""

    target: str
    """host:port."""
    records: list[Record] = field(default_factory=list)
    address: str = ""
    _server: asyncio.Server | None = None
    _pumps: list[asyncio.Task[None]] = field(default_factory=list)
    _sinks: list[asyncio.StreamWriter] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for sink in self._sinks:
            sink.close()
            with contextlib.suppress(OSError):
                await sink.wait_closed()

    def cut(self) -> list[Record]:
        """Return what was seen since the last cut."""
        found, self.records = self.records, []
        return found

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        node_reader, node_writer = await asyncio.open_connection(host, int(port))
        for source, sink, down in ((reader, node_writer, False), (node_reader, writer, True)):
            self._sinks.append(sink)
            self._pumps.append(asyncio.create_task(self._pump(source, sink, down)))

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, down: bool
    ) -> None:
        records = Records()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(2**16):
                at = time.monotonic()
                self.records += [Record(at, size, down) for size in records.feed(data)]
                sink.write(data)
                await sink.drain()
        sink.close()
