"""Statements of the selection that a monitor keeps until their epoch is checked: one table in its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Final

MAX_BYTES: Final = 64 * 2**20
"""Bytes kept per log: a hostile log, whose epochs are never drawn, must not fill the disk."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS selection (
    origin TEXT NOT NULL, place INTEGER NOT NULL, epoch INTEGER NOT NULL, raw BLOB NOT NULL,
    checked INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (origin, place)
) STRICT
"""
"""Run at every start: files of monitors that did not check draws yet stay usable."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A statement of the selection with its log index."""

    epoch: int
    index: int
    raw: bytes
    checked: bool = False
    """Whether its epoch was checked with it."""


def put(db: Connection, origin: str, items: Sequence[Selected]) -> None:
    """Keep statements, as long as there is room."""
    if items and not is_full(db, origin):
        db.executemany(
            "INSERT OR IGNORE INTO selection (origin, place, epoch, raw) VALUES (?, ?, ?, ?)",
            [(origin, item.index, item.epoch, item.raw) for item in items],
        )


def is_full(db: Connection, origin: str) -> bool:
    """Whether there is no more room."""
    (size,) = db.execute(
        "SELECT coalesce(sum(length(raw)), 0) FROM selection WHERE origin = ?", (origin,)
    ).fetchone()
    return bool(size >= MAX_BYTES)


def read(db: Connection, origin: str) -> list[Selected]:
    """Return what is kept, in log order."""
    rows = db.execute(
        "SELECT epoch, place, raw, checked FROM selection WHERE origin = ? ORDER BY place",
        (origin,),
    ).fetchall()
    return [Selected(epoch, place, raw, bool(checked)) for epoch, place, raw, checked in rows]


def forget(db: Connection, origin: str, indexes: Sequence[int]) -> None:
    """Drop statements by their log indexes."""
    rows = [(origin, index) for index in indexes]
    db.executemany("DELETE FROM selection WHERE origin = ? AND place = ?", rows)


def settle(db: Connection, origin: str, epoch: int) -> None:
    """Mark an epoch as checked, and drop the checked ones before it."""
    at = (origin, epoch)
    db.execute("UPDATE selection SET checked = 1 WHERE origin = ? AND epoch = ?", at)
    db.execute("DELETE FROM selection WHERE origin = ? AND epoch < ? AND checked", at)
