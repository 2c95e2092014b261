"""A checkpoint's path through the database: intent → signed → cosigned → published."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from audit_layer.log.tile_table import fetch_from, read_state
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.proofs import root_at
from shared.translog.tiles import TileReader


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One row of log_checkpoints."""

    size: int
    root: bytes
    note: str | None
    cosigned_note: str | None
    published_at: int | None


def newest(connection: Connection) -> CheckpointRow | None:
    """Return the row of the largest size."""
    return _one(
        connection.execute(
            text(
                "SELECT size, root, note, cosigned_note, published_at FROM log_checkpoints"
                " ORDER BY size DESC LIMIT 1"
            )
        ).one_or_none()
    )


def at_size(connection: Connection, size: int) -> CheckpointRow | None:
    """Return the row of one size."""
    return _one(
        connection.execute(
            text(
                "SELECT size, root, note, cosigned_note, published_at FROM log_checkpoints"
                " WHERE size = :size"
            ),
            {"size": size},
        ).one_or_none()
    )


def published_size(connection: Connection) -> int:
    """Return the largest published size, 0 for none."""
    return int(
        connection.execute(
            text(
                "SELECT coalesce(max(size), 0) FROM log_checkpoints WHERE published_at IS NOT NULL"
            )
        ).scalar_one()
    )


class History:
    """The tree as the tables hold it now, for one transaction; it can give any earlier root."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.size, self.root = read_state(connection)
        self._reader = TileReader(self.size, fetch_from(connection))

    def root_at(self, size: int) -> bytes:
        """Return the root of the first `size` entries, recomputed from the tables."""
        return root_at(size, self._reader)


def record_intent(history: History) -> CheckpointRow | None:
    """Decide to publish the current size, if it is larger than any before; return the new row.

    Refuses (FORK) when the tree does not extend the last checkpoint, and (CORRUPT) when the tables
    do not lead to the recorded root. The row's key ensures that no size is decided twice.
    """
    size, root = history.size, history.root
    last = newest(history.connection)
    if size == (last.size if last else 0):
        return None
    if last is not None and (last.size > size or history.root_at(last.size) != last.root):
        raise CounterfoilError(
            Code.FORK, f"the tree at size {size} does not extend the checkpoint at {last.size}"
        )
    if history.root_at(size) != root:
        raise CounterfoilError(Code.CORRUPT, f"the entries do not lead to the root at size {size}")
    history.connection.execute(
        text("INSERT INTO log_checkpoints (size, root, intent_at) VALUES (:size, :root, :now)"),
        {"size": size, "root": root, "now": time.time_ns() // 1_000_000},
    )
    return CheckpointRow(size, root, None, None, None)


def store_note(connection: Connection, size: int, note: str) -> str:
    """Store the signed note unless one is stored; return the one that is."""
    connection.execute(
        text("UPDATE log_checkpoints SET note = :note WHERE size = :size AND note IS NULL"),
        {"size": size, "note": note},
    )
    row = at_size(connection, size)
    if row is None or row.note is None:
        raise CounterfoilError(Code.CORRUPT, f"the intent for size {size} is gone")
    return row.note


def store_cosigned(connection: Connection, size: int, note: str) -> str:
    """Store the note with the quorum's cosignatures unless one is stored; return the one that is.

    Another may be: a commit whose answer was lost can still take effect.
    """
    connection.execute(
        text(
            "UPDATE log_checkpoints SET cosigned_note = :note"
            " WHERE size = :size AND cosigned_note IS NULL"
        ),
        {"size": size, "note": note},
    )
    row = at_size(connection, size)
    if row is None or row.cosigned_note is None:
        raise CounterfoilError(Code.CORRUPT, f"the checkpoint of size {size} is gone")
    return row.cosigned_note


def mark_published(connection: Connection, size: int) -> None:
    """Record that a checkpoint's files are published."""
    connection.execute(
        text(
            "UPDATE log_checkpoints SET published_at = :now"
            " WHERE size = :size AND published_at IS NULL"
        ),
        {"size": size, "now": time.time_ns() // 1_000_000},
    )


def _one(
    row: Row[*tuple[Any, ...]] | None,
) -> CheckpointRow | None:
    if row is None:
        return None
    size, root, note, cosigned, published_at = row
    return CheckpointRow(size, bytes(root), note, cosigned, published_at)
