"""The published log as a reader fetches it: C2SP tlog-tiles below one address, or in a folder.

How a file is fetched is its caller's business; what is fetched is nobody's word: every reader computes with it and compares
with a witnessed root.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import MAX_NOTE_BYTES
from shared.translog.tiles import Tile

T = TypeVar("T")
FetchTile = Callable[[Tile], Awaitable[bytes]]


class Files(Protocol):
    """Fetches files."""

    async def get(self, path: str, limit: int) -> bytes:
        """Return a file of at most `limit` bytes; NOT_FOUND if there is none, MALFORMED if it is longer."""
        ...


class PublishedLog:
    """The published log: C2SP tlog-tiles below one address."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def checkpoint(self) -> bytes:
        """Return the newest checkpoint note, unverified."""
        return await self._files.get("checkpoint", MAX_NOTE_BYTES)

    async def tile(self, tile: Tile) -> bytes:
        """Return a tile's or entry bundle's bytes, exactly as many as it must have.

        A partial one may be gone once the full one, which begins with it, is there.
        """
        try:
            return await self._exactly(tile)
        except CounterfoilError as error:
            if error.code is not Code.NOT_FOUND or not tile.is_partial:
                raise
        return (await self._exactly(tile.full()))[: tile.byte_length]

    async def _exactly(self, tile: Tile) -> bytes:
        data = await self._files.get(tile.path, tile.byte_length)
        if len(data) != tile.byte_length:
            raise CounterfoilError(
                Code.MALFORMED, f"it is {len(data)} bytes long instead of {tile.byte_length}"
            )
        return data


class OnDemand:
    """Runs pure functions over tiles that are fetched on demand."""

    def __init__(self, fetch: FetchTile) -> None:
        self._fetch = fetch
        self._held: dict[Tile, bytes] = {}

    async def compute(self, function: Callable[[Callable[[Tile], bytes]], T]) -> T:
        """Return `function(fetch)`; it restarts for each tile that it lacks, so it must be small."""
        while True:
            try:
                return function(self._have)
            except _AbsentError as absent:
                tile = absent.tile
            self._held[tile] = await self._fetch(tile)

    def _have(self, tile: Tile) -> bytes:
        try:
            return self._held[tile]
        except KeyError:
            raise _AbsentError(tile) from None


class _AbsentError(Exception):
    def __init__(self, tile: Tile) -> None:
        super().__init__(tile)
        self.tile = tile
