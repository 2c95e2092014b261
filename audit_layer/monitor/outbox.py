"""Messages that a monitor still has to send: one table in its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Final

MAX_WAITING: Final = 10_000
"""Messages kept per log: a receiver that takes none must not fill the disk."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY, origin TEXT NOT NULL, delivery TEXT NOT NULL, body BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL DEFAULT 0, UNIQUE (origin, delivery)
) STRICT
"""
"""Run at every start: files of monitors that had nobody to tell stay usable."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent, under an id that is the same in every attempt."""

    delivery: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that was not accepted yet."""

    number: int
    message: Message
    attempts: int


def put(db: Connection, origin: str, messages: Sequence[Message]) -> None:
    """Keep messages, as long as there is room."""
    room = MAX_WAITING - count(db, origin)
    db.executemany(
        "INSERT OR IGNORE INTO outbox (origin, delivery, body) VALUES (?, ?, ?)",
        [(origin, one.delivery, one.body) for one in messages[: max(0, room)]],
    )


def count(db: Connection, origin: str) -> int:
    """Return how many wait."""
    row = db.execute("SELECT count(*) FROM outbox WHERE origin = ?", (origin,)).fetchone()
    return int(row[0])


def due(db: Connection, origin: str, now_s: int) -> Waiting | None:
    """Return the oldest message whose time has come."""
    row = db.execute(
        "SELECT number, delivery, body, attempts FROM outbox WHERE origin = ? AND due <= ? ORDER BY due, number LIMIT 1",
        (origin, now_s),
    ).fetchone()
    return None if row is None else Waiting(row[0], Message(row[1], row[2]), row[3])


def accepted(db: Connection, number: int) -> None:
    """Drop a message that was accepted."""
    db.execute("DELETE FROM outbox WHERE number = ?", (number,))


def postpone(db: Connection, number: int, due_s: int) -> None:
    """Count an attempt that failed, and set the time of the next."""
    db.execute(
        "UPDATE outbox SET attempts = attempts + 1, due = ? WHERE number = ?", (due_s, number)
    )
