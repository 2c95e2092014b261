"""The published log: immutable files below one folder, and the checkpoint beside them.

Layout and names are C2SP tlog-tiles', so any static file server can serve the folder. Every file is
written whole, synced and renamed into place; the checkpoint is replaced last. A partial tile is a
prefix of the full one, so it may go once the full tile is there and is still served from it.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.keys import write_atomic
from shared.translog.tiles import Tile, parse_tile_path

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Served:
    """A file of the log as HTTP should answer with it."""

    body: bytes
    content_type: str
    cache_control: str


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path` whole, on disk with its name and its folders when this returns."""
    _make_folder(path.parent)
    write_atomic(path, data)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, each made durable in the one above."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PublishedFiles:
    """The folder. Reading is safe from any process; one publisher writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def checkpoint(self) -> str | None:
        """Return the newest published checkpoint with its cosignatures, None before the first."""
        try:
            return (self.root / CHECKPOINT).read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as e:
            raise CounterfoilError(Code.CORRUPT, "the checkpoint file is not text") from e

    def write_checkpoint(self, note: str) -> None:
        """Replace the checkpoint file."""
        fault_point("log.publish.before-checkpoint-file")
        write_durably(self.root / CHECKPOINT, note.encode())
        fault_point("log.publish.after-checkpoint-file")

    def read(self, tile: Tile) -> bytes:
        """Return a tile's or bundle's exact bytes; NOT_FOUND when it is not published."""
        for candidate in dict.fromkeys((tile, tile.full())):
            try:
                data = (self.root / candidate.path).read_bytes()
            except FileNotFoundError:
                continue
            if len(data) != candidate.byte_length:
                raise CounterfoilError(
                    Code.CORRUPT, f"{candidate.path} has {len(data)} bytes", remedy="Run log fsck."
                )
            return data[: tile.byte_length]
        raise CounterfoilError(Code.NOT_FOUND, f"{tile.path} is not published")

    def write(self, tile: Tile, data: bytes) -> None:
        """Publish a file; repeating it is welcome. Other bytes are CORRUPT: files never change."""
        try:
            present = self.read(tile)
        except CounterfoilError as e:
            if e.code is not Code.NOT_FOUND:
                raise
        else:
            if present != data:
                raise CounterfoilError(
                    Code.CORRUPT,
                    f"{tile.path} is published with other bytes than the database holds",
                    remedy="Run `counterfoil log fsck` before anything else is published.",
                )
            return
        fault_point("log.publish.before-tile")
        write_durably(self.root / tile.path, data)
        fault_point("log.publish.after-tile")

    def drop_partials(self, tiles: Iterable[Tile]) -> None:
        """Remove the partial files of tiles that are now full and published."""
        for tile in tiles:
            if not tile.is_partial:
                path = self.root / tile.path
                shutil.rmtree(path.with_name(f"{path.name}.p"), ignore_errors=True)

    def serve(self, path: str) -> Served:
        """Answer `GET <prefix>/<path>` for `checkpoint` and tile paths; NOT_FOUND for the rest."""
        if path == CHECKPOINT:
            note = self.checkpoint()
            if note is None:
                raise CounterfoilError(Code.NOT_FOUND, "the log has published no checkpoint yet")
            return Served(note.encode(), "text/plain; charset=utf-8", "no-cache, max-age=0")
        data = self.read(parse_tile_path(path))
        return Served(data, "application/octet-stream", "public, max-age=31536000, immutable")
