"""What the archive keeps of the parts of chains: the stages' orders before they are sent, then their receipts and proofs."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from execution_layer.client.audit_records import AuditRecords

_PARTS: Final = (
    "SELECT transcript, place, node, bundle, order_statement, order_entry, receipt, receipt_entry, proof, log_index, handed_in,"
    " (SELECT finished FROM transcripts WHERE id = transcript) AS finished FROM parts"
)

_RECEIPTS: Final = (
    "SELECT receipt FROM (SELECT id, receipt FROM transcripts UNION ALL SELECT transcript, receipt FROM parts)"
    " WHERE receipt IS NOT NULL ORDER BY id DESC LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class NewPart:
    """A stage's part of an attempt, before it is ordered."""

    node: str
    """operator/node"""
    bundle: bytes
    """Entry of its key bundle."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's part of an attempt as it is archived."""

    transcript: int
    place: int
    """From 1."""
    node: str
    bundle: bytes
    order_statement: bytes
    order_entry: bytes
    receipt: bytes | None
    """One that passed the checks, as the whole answer did."""
    receipt_entry: bytes | None
    proof: str | None
    log_index: int | None
    handed_in: int | None
    finished: int | None
    """When (ms) the attempt ended."""

    @property
    def evidence(self) -> tuple[bytes, bytes] | None:
        """(statement, entry) of the stage's receipt."""
        if self.receipt is None or self.receipt_entry is None:
            return None
        return self.receipt, self.receipt_entry


class PartRecords(AuditRecords):
    """One client's records of the parts that it ordered, in its archive's file."""

    def part(self, entry: bytes) -> Part | None:
        """Return the part whose order or receipt this is the entry of."""
        found = self._parts("order_entry = ?1 OR receipt_entry = ?1", entry)
        return found[0] if found else None

    def unproved_parts(self) -> list[Part]:
        """Return the parts whose receipts have no proof yet."""
        return self._parts("receipt IS NOT NULL AND proof IS NULL")

    def checked_receipts(self, limit: int) -> list[bytes]:
        """Return the newest receipts, of nodes and of stages, that passed the checks."""
        rows = self._journal.read(lambda db: db.execute(_RECEIPTS, (limit,)).fetchall())
        return [row["receipt"] for row in rows]

    async def attach_part_proof(self, part: Part, proof: str, index: int) -> None:
        """Store the verified tlog-proof of a part's receipt."""
        await self._journal.write(
            lambda db: db.execute(
                "UPDATE parts SET proof = ?, log_index = ? WHERE transcript = ? AND place = ?",
                (proof, index, part.transcript, part.place),
            )
        )

    async def note_part_handed_in(self, part: Part, at: int) -> None:
        """Record that the client itself submitted a part's receipt to the log, and when (ms)."""
        await self._journal.write(
            lambda db: db.execute(
                "UPDATE parts SET handed_in = ? WHERE transcript = ? AND place = ?",
                (at, part.transcript, part.place),
            )
        )

    def _parts(self, where: str, *arguments: int | bytes) -> list[Part]:
        query = f"{_PARTS} WHERE {where} ORDER BY transcript, place"
        return self._journal.read(
            lambda db: [Part(**dict(row)) for row in db.execute(query, arguments).fetchall()]
        )


def parts_in(db: sqlite3.Connection, transcript: int) -> tuple[Part, ...]:
    """Return an attempt's parts in order."""
    rows = db.execute(f"{_PARTS} WHERE transcript = ? ORDER BY place", (transcript,)).fetchall()
    return tuple(Part(**dict(row)) for row in rows)


def note_parts(
    db: sqlite3.Connection,
    transcript: int,
    parts: Sequence[NewPart],
    ordered: Sequence[tuple[bytes, bytes]],
) -> None:
    """Record a new attempt's parts with their orders (statement, entry), in the caller's transaction."""
    db.executemany(
        "INSERT INTO parts (transcript, place, node, bundle, order_statement, order_entry) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (transcript, place, part.node, part.bundle, *order)
            for place, (part, order) in enumerate(zip(parts, ordered, strict=True), start=1)
        ],
    )


def note_part_receipts(
    db: sqlite3.Connection, transcript: int, receipts: Sequence[tuple[bytes, bytes]]
) -> None:
    """Record the receipts (statement, entry) of an attempt's parts, in order, in the caller's transaction."""
    db.executemany(
        "UPDATE parts SET receipt = ?, receipt_entry = ? WHERE transcript = ? AND place = ?",
        [(*receipt, transcript, place) for place, receipt in enumerate(receipts, start=1)],
    )
