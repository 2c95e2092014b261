"""The order numbers of an archive: none in use twice at a time, and none left out.

A number under which nothing was accepted is closed by the node's signed refusal, or goes to the next request.
"""

import sqlite3
from typing import Final

FORGOTTEN_MS: Final = 2 * 86_400_000
"""After this time no order is valid and no request is in flight any more, so the number of a dead process is free."""
FORGOTTEN: Final = (
    "SELECT number FROM transcripts AS one WHERE state IN ('ordered', 'refused') AND number NOT IN (SELECT number FROM"
    " free_numbers) GROUP BY number HAVING max(created) < ? AND NOT EXISTS (SELECT 1 FROM transcripts AS other WHERE"
    " other.number = one.number AND (other.state NOT IN ('ordered', 'refused') OR other.refusal IS NOT NULL"
    " AND other.rejected IS NULL AND NOT EXISTS (SELECT 1 FROM transcripts AS later WHERE later.number = one.number"
    " AND later.attempt > other.attempt)))"
)
"""Numbers that are free since nobody can accept their last orders any more."""
CLOSING: Final = (
    "SELECT * FROM transcripts AS one WHERE refusal IS NOT NULL AND handed_in IS NULL AND rejected IS NULL"
    " AND (state != 'refused' OR NOT EXISTS (SELECT 1 FROM transcripts AS later WHERE later.number = one.number"
    " AND later.attempt > one.attempt)) AND finished <= ? ORDER BY id LIMIT ?"
)
"""Attempts whose refusals the log is to have."""


def give_back(db: sqlite3.Connection, number: int) -> None:
    """Free a number if no attempt under it was, or may yet be, accepted, and the last one was not refused with a signature."""
    rows = db.execute(
        "SELECT state, refusal, rejected FROM transcripts WHERE number = ? ORDER BY attempt",
        (number,),
    ).fetchall()
    open_ended = all(row["state"] == "refused" for row in rows)
    last = rows[-1] if rows else None
    if open_ended and (last is None or last["refusal"] is None or last["rejected"] is not None):
        db.execute("INSERT OR IGNORE INTO free_numbers VALUES (?)", (number,))


def next_number(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the number and attempt of a new request: one that was given back before a new one."""
    (free,) = db.execute("SELECT min(number) FROM free_numbers").fetchone()
    if free is not None:
        db.execute("DELETE FROM free_numbers WHERE number = ?", (free,))
        return next_attempt(db, free)
    (last,) = db.execute("SELECT max(number) FROM transcripts").fetchone()
    return (0 if last is None else last + 1), 0


def next_attempt(db: sqlite3.Connection, number: int) -> tuple[int, int]:
    """Return a number with its next attempt."""
    query = "SELECT max(attempt) FROM transcripts WHERE number = ?"
    (last,) = db.execute(query, (number,)).fetchone()
    return number, (0 if last is None else last + 1)
