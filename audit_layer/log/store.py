"""Where the published log lives: what `PublishedFiles` asks of a folder or of an object store.

A store knows paths and bytes, not tiles. Reading is safe from any process; one publisher writes. What a
store cannot do right now is UNAVAILABLE and may be retried; it has then done either all of it or none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from shared.translog.notes import MAX_NOTE_BYTES

MAX_BYTES: Final = MAX_NOTE_BYTES
"""A log's largest file: a checkpoint with many cosignatures. Tiles are far smaller."""


@dataclass(frozen=True, slots=True)
class Headers:
    """HTTP headers of a file (C2SP tlog-tiles, "Parameters" to "Tiles")."""

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
        """How many files are worth writing at once."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None when there is no such file; CORRUPT above `MAX_BYTES`."""

    def create(self, path: str, data: bytes) -> bool:
        """Create an immutable file, atomically and durably; False, and no change, if one exists."""

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, atomically and durably, replacing any that exists."""

    def drop(self, folder: str) -> None:
        """Remove every file below a folder."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder."""
