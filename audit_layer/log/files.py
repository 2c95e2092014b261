"""The published log: immutable files in one place, and the checkpoint next to them.

Layout and names are those of C2SP tlog-tiles, so the place (see `store`) can be served as it is. A partial
tile is a prefix of the full one, so it may be removed once the full tile, which still serves it, is there.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from audit_layer.log.store import IMMUTABLE, NEWEST, Headers, Store
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.translog.tiles import Tile, parse_tile_path

CHECKPOINT = "checkpoint"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A file of the log as HTTP should answer with it."""

    body: bytes
    headers: Headers


class PublishedFiles:
    """The files of a log in their place. Reading is safe from any process; one publisher writes.

    Every method raises UNAVAILABLE for what the place cannot do right now.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def checkpoint(self) -> str | None:
        """Return the newest published checkpoint with its cosignatures, None before the first."""
        data = self._store.read(CHECKPOINT)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as e:
            raise CounterfoilError(Code.CORRUPT, "the checkpoint file is not text") from e

    def write_checkpoint(self, note: str) -> None:
        """Replace the checkpoint file."""
        fault_point("log.publish.before-checkpoint-file")
        self._store.replace(CHECKPOINT, note.encode())
        fault_point("log.publish.after-checkpoint-file")

    def read(self, tile: Tile) -> bytes:
        """Return a tile's or entry bundle's exact bytes; NOT_FOUND when it is not published."""
        for candidate in dict.fromkeys((tile, tile.full())):
            data = self.stored(candidate)
            if data is None:
                continue
            if len(data) != candidate.byte_length:
                raise CounterfoilError(
                    Code.CORRUPT,
                    f"{candidate.path} is {len(data)} bytes long",
                    remedy="Run log fsck.",
                )
            return data[: tile.byte_length]
        raise CounterfoilError(Code.NOT_FOUND, f"{tile.path} is not published")

    def stored(self, tile: Tile) -> bytes | None:
        """Return what is stored under this exact name, whatever it is; None when nothing is."""
        return self._store.read(tile.path)

    def names(self) -> Iterator[str]:
        """Yield the path of every file below `tile/`, including those that do not belong there."""
        return self._store.names("tile")

    def write(self, tile: Tile, data: bytes) -> None:
        """Publish a file; idempotent. CORRUPT for other bytes under its name: files never change."""
        fault_point("log.publish.before-tile")
        if not self._store.create(tile.path, data) and self.stored(tile) != data:
            raise CounterfoilError(
                Code.CORRUPT,
                f"{tile.path} is published with other bytes than the database holds",
                remedy="Run `counterfoil log fsck` before anything else is published.",
            )
        fault_point("log.publish.after-tile")

    def write_all(self, files: Iterable[tuple[Tile, bytes]]) -> None:
        """Publish files, several at once where that helps their place; all are there on return."""
        with ThreadPoolExecutor(self._store.writers) as pool:
            waiting: deque[Future[None]] = deque()
            for tile, data in files:
                waiting.append(pool.submit(self.write, tile, data))
                if len(waiting) > self._store.writers:
                    waiting.popleft().result()
            for write in waiting:
                write.result()

    def drop_partials(self, tiles: Iterable[Tile]) -> None:
        """Remove the partial files of tiles that are now full and published.

        They do no harm if they stay, so a place that does not answer is not asked again.
        """
        try:
            for tile in tiles:
                if not tile.is_partial:
                    self._store.drop(f"{tile.path}.p")
        except CounterfoilError as e:
            _log.warning("partial tiles stay next to full ones: %s", e)

    def serve(self, path: str) -> Served:
        """Answer `GET <prefix>/<path>` for `checkpoint` and tile paths; NOT_FOUND for the rest."""
        if path == CHECKPOINT:
            note = self.checkpoint()
            if note is None:
                raise CounterfoilError(Code.NOT_FOUND, "the log has published no checkpoint yet")
            return Served(note.encode(), NEWEST)
        return Served(self.read(parse_tile_path(path)), IMMUTABLE)
