"""What the archive keeps of audits: which attempts their tenant wants audited, what the log answered, and which are canaries."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from execution_layer.client.log_records import LogRecords

_WAITING: Final = (
    "SELECT * FROM (SELECT transcript, 0 AS place, receipt_entry, statement FROM audits JOIN transcripts ON transcripts.id ="
    " transcript WHERE receipt_entry IS NOT NULL AND audits.log_index IS NULL AND audits.rejected IS NULL"
    " UNION ALL SELECT transcript, place, receipt_entry, audit FROM parts JOIN audits USING (transcript)"
    " WHERE receipt_entry IS NOT NULL AND audit_index IS NULL AND audit_rejected IS NULL)"
    " WHERE (transcript, place) > (?, ?) ORDER BY transcript, place LIMIT ?"
)
_LISTED: Final = (
    "SELECT number, attempt, node, receipt_entry, entry, log_index, rejected FROM (SELECT transcript, 0 AS place, number, attempt,"
    " node, receipt_entry, audits.entry AS entry, audits.log_index AS log_index, audits.rejected AS rejected FROM audits"
    " JOIN transcripts ON transcripts.id = transcript UNION ALL SELECT transcript, place, number, attempt, parts.node,"
    " parts.receipt_entry, audit_entry, audit_index, audit_rejected FROM parts JOIN audits USING (transcript)"
    " JOIN transcripts ON transcripts.id = transcript) ORDER BY transcript DESC, place LIMIT ?"
)


_ROWS: Final = (
    (
        "SELECT statement FROM audits WHERE transcript = ?",
        "UPDATE audits SET statement = ?, entry = ? WHERE transcript = ?",
        "UPDATE audits SET log_index = ?, rejected = ? WHERE transcript = ?",
    ),
    (
        "SELECT audit FROM parts WHERE transcript = ? AND place = ?",
        "UPDATE parts SET audit = ?, audit_entry = ? WHERE transcript = ? AND place = ?",
        "UPDATE parts SET audit_index = ?, audit_rejected = ? WHERE transcript = ? AND place = ?",
    ),
)
"""How an audit request is read, kept and noted as answered: that about an answer, and that about a stage's part."""


_SENT: Final = (
    "SELECT created, attempt, secret, envelope, order_statement, tags, receipt_entry, state, id IN (SELECT transcript FROM"
    " canaries) AS canary FROM transcripts ORDER BY id DESC LIMIT ?"
)


_PLAIN: Final = ("created", "attempt", "secret", "envelope", "order_statement", "state")


@dataclass(frozen=True, slots=True, repr=False)
class SentRequest:
    """An attempt as its node saw it, and whether it was a canary."""

    created: int
    """ms"""
    attempt: int
    secret: bytes
    envelope: bytes
    order_statement: bytes
    tags: Mapping[str, str] | None
    receipt: bytes | None
    """Entry."""
    state: str
    canary: bool


@dataclass(frozen=True, slots=True)
class WantedAudit:
    """An attempt, or a stage's part of one, with a receipt whose audit request the log has not answered yet."""

    transcript: int
    place: int
    """The stage's; 0 for the attempt's own node."""
    receipt: bytes
    """Entry."""
    statement: bytes | None
    """The audit request, if it was signed already."""


@dataclass(frozen=True, slots=True)
class AskedAudit:
    """An attempt whose audit is wanted, or a stage's part of it, and how far that got."""

    number: int
    attempt: int
    node: str
    receipt: bytes | None
    """Entry; None before there is a receipt."""
    audit_request: bytes | None
    """Entry of the audit request, once it is signed."""
    log_index: int | None
    """Where the log has it."""
    rejected: str | None
    """Why the log does not take it."""


class AuditRecords(LogRecords):
    """One client's records of the audits that it wants, in its archive's file."""

    async def want_audit(self, transcript: int) -> None:
        """Record that an attempt is to be audited; what was recorded of it before stays, but a rejection is tried again."""

        def write(db: sqlite3.Connection) -> None:
            want(db, transcript)
            db.execute(
                "UPDATE audits SET statement = NULL, entry = NULL, rejected = NULL"
                " WHERE transcript = ? AND rejected IS NOT NULL",
                (transcript,),
            )
            db.execute(
                "UPDATE parts SET audit = NULL, audit_entry = NULL, audit_rejected = NULL"
                " WHERE transcript = ? AND audit_rejected IS NOT NULL",
                (transcript,),
            )

        await self._journal.write(write)

    def wanted_audits(self, *, after: tuple[int, int], limit: int) -> list[WantedAudit]:
        """Return what is to be asked for, or asked for again, behind a (transcript, place), in their order."""
        rows = self._journal.read(lambda db: db.execute(_WAITING, (*after, limit)).fetchall())
        return [WantedAudit(*row) for row in rows]

    async def keep_audit_request(
        self, wanted: WantedAudit, sign: Callable[[], tuple[bytes, bytes]]
    ) -> bytes:
        """Record the audit request (statement, entry) that is wanted, unless there is one; return the one that counts."""
        read, kept_in, _ = _ROWS[wanted.place > 0]
        row = (wanted.transcript, *((wanted.place,) if wanted.place else ()))

        def write(db: sqlite3.Connection) -> bytes:
            (kept,) = db.execute(read, row).fetchone()
            if kept is not None:
                return bytes(kept)
            statement, entry = sign()
            db.execute(kept_in, (statement, entry, *row))
            return statement

        return await self._journal.write(write)

    async def note_audit(
        self, wanted: WantedAudit, *, index: int | None = None, rejected: str | None = None
    ) -> None:
        """Record the log's answer: the index at which it has the audit request, or why it does not take it."""
        *_, answered = _ROWS[wanted.place > 0]
        row = (wanted.transcript, *((wanted.place,) if wanted.place else ()))
        await self._journal.write(lambda db: db.execute(answered, (index, rejected, *row)))

    def sent(self, limit: int) -> list[SentRequest]:
        """Return the newest attempts, newest first."""
        rows = self._journal.read(lambda db: db.execute(_SENT, (limit,)).fetchall())
        return [
            SentRequest(
                **{
                    **{name: row[name] for name in _PLAIN},
                    "tags": None if row["tags"] is None else json.loads(row["tags"]),
                    "receipt": row["receipt_entry"],
                    "canary": bool(row["canary"]),
                }
            )
            for row in rows
        ]

    def audits(self, limit: int) -> list[AskedAudit]:
        """Return the newest attempts whose audit is wanted, newest first."""
        rows = self._journal.read(lambda db: db.execute(_LISTED, (limit,)).fetchall())
        return [AskedAudit(*row) for row in rows]


def note_new(db: sqlite3.Connection, transcript: int, *, audited: bool, canary: bool) -> None:
    """Record that a new attempt is to be audited, or is a canary, in the caller's transaction."""
    if audited:
        want(db, transcript)
    if canary:
        db.execute("INSERT INTO canaries VALUES (?)", (transcript,))


def want(db: sqlite3.Connection, transcript: int) -> None:
    """Record that an attempt is to be audited, in the caller's transaction."""
    db.execute("INSERT OR IGNORE INTO audits (transcript) VALUES (?)", (transcript,))
