"""The spool: receipts on their way to the log. Delivery always goes through it, even when nothing is wrong."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from execution_layer.node.request_records import PendingReceipt, SpoolCounts
from shared.codec.moment import now_ms
from shared.runtime.journal import Journal
from shared.statements.cose import read_as
from shared.statements.receipts import Receipt


@dataclass(frozen=True, slots=True)
class Backlog:
    """Receipts that were signed, and those of them that wait for the log."""

    receipts: int
    pending: int
    oldest_ended: int | None
    """When the oldest that waits ended (ms since 1970)."""


class Spool:
    """Receipts in order, each until the audit server has answered with an index.
    Nothing is ever removed: a receipt that the server refuses permanently is kept with the reason, and retried
    when the node restarts.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.refused = 0
        """Receipts that the log has refused for good in this process."""

    def pending(self, limit: int, *, after: int = -1) -> list[PendingReceipt]:
        """Return the oldest receipts, of those numbered above `after`, that are neither acknowledged nor refused."""
        query = (
            "SELECT sequence, statement, order_statement FROM receipts JOIN requests"
            " ON requests.id = receipts.request WHERE log_index IS NULL AND rejected IS NULL"
            " AND sequence > ? ORDER BY sequence LIMIT ?"
        )
        rows = self._journal.read(lambda db: db.execute(query, (after, limit)).fetchall())
        return [PendingReceipt(*row) for row in rows]

    async def settle(
        self, delivered: Sequence[tuple[int, int]], rejected: Sequence[tuple[int, str]]
    ) -> None:
        """Record (sequence, log index) of acknowledged receipts and (sequence, reason) of refused ones."""
        at = now_ms()
        await self._journal.write(
            lambda db: (
                db.executemany(
                    "UPDATE receipts SET log_index = ?, delivered_at = ? WHERE sequence = ?",
                    [(index, at, sequence) for sequence, index in delivered],
                ),
                db.executemany(
                    "UPDATE receipts SET rejected = ? WHERE sequence = ?",
                    [(reason, sequence) for sequence, reason in rejected],
                ),
            )
        )
        self.refused += len(rejected)

    def backlog(self) -> Backlog:
        """Return how far delivery is behind; costs little however many receipts there are."""
        return self._journal.read(_backlog)

    async def retry_rejected(self) -> int:
        """Put refused receipts back into the queue; return how many."""
        return await self._journal.write(
            lambda db: (
                db.execute(
                    "UPDATE receipts SET rejected = NULL WHERE rejected IS NOT NULL"
                ).rowcount
            )
        )

    def counts(self) -> SpoolCounts:
        """Return the number of receipts in each state."""
        return self._journal.read(spool_counts)


def _backlog(db: sqlite3.Connection) -> Backlog:
    pending = "log_index IS NULL AND rejected IS NULL"
    (made,) = db.execute("SELECT coalesce(max(sequence) + 1, 0) FROM receipts").fetchone()
    (waiting,) = db.execute(f"SELECT count(*) FROM receipts WHERE {pending}").fetchone()  # noqa: S608  # a constant
    oldest = db.execute(
        f"SELECT statement FROM receipts WHERE {pending} ORDER BY sequence LIMIT 1"  # noqa: S608  # likewise
    ).fetchone()
    ended = None if oldest is None else read_as(Receipt, oldest[0]).ended
    return Backlog(made, waiting, ended)


def spool_counts(db: sqlite3.Connection) -> SpoolCounts:
    """Return the number of receipts in each state."""
    query = (
        "SELECT count(*), count(*) FILTER (WHERE log_index IS NULL AND rejected IS NULL),"
        " count(log_index), count(rejected) FROM receipts"
    )
    return SpoolCounts(*db.execute(query).fetchone())


def unfinished_requests(db: sqlite3.Connection) -> int:
    """Return how many accepted requests have no receipt yet."""
    query = "SELECT count(*) FROM requests WHERE id NOT IN (SELECT request FROM receipts)"
    (count,) = db.execute(query).fetchone()
    return int(count)
