"""Where the published log lives: what `PublishedFiles` asks of a folder or of an object store.

A store knows paths and bytes, nothing of tiles. Reading is safe from any process; one publisher writes.
Whatever a store cannot do right now is UNAVAILABLE and may be tried again; it has then either done the
whole of it or nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from shared.translog.notes import MAX_NOTE_BYTES

MAX_BYTES: Final = MAX_NOTE_BYTES
"""Largest file that a log has: a checkpoint with many cosignatures. Tiles are far smaller."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What HTTP says about a file beside its bytes (C2SP tlog-tiles, "Parameters" to "Tiles")."""

    content_type: str
    cache_control: str


IMMUTABLE: Final = Headers("application/octet-stream", "public, max-age=31536000, immutable")
"""Tiles and entry bundles."""
NEWEST: Final = Headers("text/plain; charset=utf-8", "no-cache, max-age=0")
"""The checkpoint."""


class Store(Protocol):
    """One published log's place. Paths are those of C2SP tlog-tiles, below the log's prefix."""

    @property
    def writers(self) -> int:
        """How many files it pays to write at once."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is none; CORRUPT above `MAX_BYTES`."""

    def create(self, path: str, data: bytes) -> bool:
        """Put an immutable file there, whole and durably; False, and no change, if one is there."""

    def replace(self, path: str, data: bytes) -> None:
        """Put a file there, whole and durably, in place of the one that may be there."""

    def drop(self, folder: str) -> None:
        """Remove every file below a folder."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder."""
