"""What the archive keeps of the log: key bundles, accepted checkpoints, revocations, standings, and evidence against the log."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Journal
from shared.statements.keys import Revocation
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import Witnessed


@dataclass(frozen=True, slots=True)
class Suspect:
    """A witnessed checkpoint that contradicts an accepted one."""

    origin: str
    size: int
    root: bytes
    note: str
    kept: str | None
    """The note of the accepted checkpoint."""
    reason: str
    seen: int
    """When (ms)."""
    nodes: Mapping[str, str]
    """Subtrees ("level/index" → hash in hex) that prove it; empty where the notes alone do, or nothing does."""


class LogRecords:
    """One client's records of its log, in its archive's file."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def remember_bundle(
        self, entry: bytes, statement: bytes, proof: str, not_after: int
    ) -> None:
        """Store a key bundle for which requests may be sealed, with its newest proof and its expiry (ms)."""
        await self._journal.write(
            lambda db: db.execute(
                "INSERT INTO bundles VALUES (?, ?, ?, ?) ON CONFLICT (entry) DO UPDATE"
                " SET proof = excluded.proof, not_after = excluded.not_after",
                (entry, statement, proof, not_after),
            )
        )

    def largest_checkpoint(self, origin: str) -> Checkpoint | None:
        """Return the largest accepted checkpoint of a log."""
        query = "SELECT size, root FROM checkpoints WHERE origin = ? ORDER BY size DESC LIMIT 1"
        row = self._journal.read(lambda db: db.execute(query, (origin,)).fetchone())
        return None if row is None else Checkpoint(origin, row["size"], row["root"])

    async def remember_checkpoint(self, seen: Witnessed, beside: Checkpoint) -> None:
        """Store a checkpoint that was proved consistent with `beside`, the largest one stored.
        CONFLICT if another process has accepted a larger one meanwhile.
        """
        item = seen.checkpoint

        def write(db: sqlite3.Connection) -> None:
            query = "SELECT size, root FROM checkpoints WHERE origin = ? ORDER BY size DESC LIMIT 1"
            kept = db.execute(query, (item.origin,)).fetchone()
            if kept is not None and (kept["size"], kept["root"]) != (beside.size, beside.root):
                raise CounterfoilError(
                    Code.CONFLICT, "another process has seen more of the log meanwhile; try again"
                )
            db.execute(
                "INSERT INTO checkpoints VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (item.origin, item.size, item.root, seen.note.encode()),
            )

        await self._journal.write(write)

    def checkpoints(self, limit: int) -> list[str]:
        """Return the notes of the largest accepted checkpoints, the largest first."""
        query = "SELECT note FROM checkpoints ORDER BY size DESC LIMIT ?"
        rows = self._journal.read(lambda db: db.execute(query, (limit,)).fetchall())
        return [row["note"] for row in rows]

    def checkpoint_at(self, origin: str, size: int) -> Checkpoint | None:
        """Return the accepted checkpoint of a size."""
        query = "SELECT root FROM checkpoints WHERE origin = ? AND size = ?"
        row = self._journal.read(lambda db: db.execute(query, (origin, size)).fetchone())
        return None if row is None else Checkpoint(origin, size, row["root"])

    def kept_note(self, item: Checkpoint) -> str:
        """Return the note of an accepted checkpoint; NOT_FOUND for any other."""
        query = "SELECT note FROM checkpoints WHERE origin = ? AND size = ? AND root = ?"
        key = (item.origin, item.size, item.root)
        row = self._journal.read(lambda db: db.execute(query, key).fetchone())
        if row is None:
            raise CounterfoilError(Code.NOT_FOUND, "the archive has no such checkpoint")
        return str(row["note"])

    async def keep_suspect(
        self, seen: Witnessed, beside: Checkpoint, reason: str, nodes: Mapping[str, str]
    ) -> None:
        """Store a witnessed checkpoint that contradicts an accepted one: together they are evidence.
        `nodes` are the subtrees that prove it, if the two notes alone do not.
        """
        item, proof = seen.checkpoint, json.dumps(dict(nodes)) if nodes else None
        row = (item.origin, item.size, item.root, seen.note.encode(), reason, now_ms())
        await self._journal.write(
            lambda db: db.execute(
                "INSERT INTO suspects VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET nodes = excluded.nodes, beside = excluded.beside, reason = excluded.reason"
                " WHERE suspects.nodes IS NULL AND excluded.nodes IS NOT NULL",
                (*row, beside.size, proof),
            )
        )

    def suspects(self) -> list[Suspect]:
        """Return the checkpoints that contradict the accepted ones, each with the one that it contradicts."""
        query = (
            "SELECT suspects.*, checkpoints.note AS kept FROM suspects LEFT JOIN checkpoints ON"
            " checkpoints.origin = suspects.origin AND checkpoints.size = coalesce(suspects.beside,"
            " (SELECT max(size) FROM checkpoints WHERE origin = suspects.origin))"
            " ORDER BY suspects.origin, suspects.size"
        )
        rows = self._journal.read(lambda db: db.execute(query).fetchall())
        return [
            Suspect(
                *(row["origin"], row["size"], row["root"], row["note"], row["kept"]),
                *(row["reason"], row["seen"], json.loads(row["nodes"] or "{}")),
            )
            for row in rows
        ]

    async def remember_standings(self, told: Mapping[str, str]) -> None:
        """Store what the audit server says of nodes' standing, by operator/node."""
        await self._journal.write(
            lambda db: db.executemany(
                "INSERT INTO standings VALUES (?, ?) ON CONFLICT (node) DO UPDATE"
                " SET standing = excluded.standing",
                list(told.items()),
            )
        )

    def standings(self) -> dict[str, str]:
        """Return what the audit server last said of each node's standing."""
        query = "SELECT node, standing FROM standings"
        rows = self._journal.read(lambda db: db.execute(query).fetchall())
        return {row["node"]: row["standing"] for row in rows}

    def live_bundles(self, now: int, limit: int) -> list[tuple[bytes, str]]:
        """Return (statement, proof) of the stored key bundles that expire after `now` (ms), the latest expiry first."""
        query = "SELECT statement, proof FROM bundles WHERE not_after > ? ORDER BY not_after DESC LIMIT ?"
        rows = self._journal.read(lambda db: db.execute(query, (now, limit)).fetchall())
        return [(row["statement"], row["proof"]) for row in rows]

    async def remember_revocation(
        self, value: Revocation, operator: str, statement: bytes, proof: str
    ) -> None:
        """Store an operator's revocation that was proved to be in the log, forever: no listing can undo it."""
        await self._journal.write(
            lambda db: db.execute(
                "INSERT INTO revocations VALUES (?, ?, ?, ?, ?) ON CONFLICT (bundle, operator) DO UPDATE"
                " SET at = excluded.at, statement = excluded.statement, proof = excluded.proof"
                " WHERE excluded.at < revocations.at",
                (value.bundle, operator, value.at, statement, proof),
            )
        )

    def revoked_at(self) -> dict[tuple[bytes, str], int]:
        """Return the known revocations: key bundle and revoking operator, and the time (ms) from which it is revoked."""
        query = "SELECT bundle, operator, at FROM revocations"
        rows = self._journal.read(lambda db: db.execute(query).fetchall())
        return {(row["bundle"], row["operator"]): row["at"] for row in rows}

    def bundle(self, entry: bytes) -> tuple[bytes, str]:
        """Return (statement, proof) of a key bundle that was used."""
        query = "SELECT statement, proof FROM bundles WHERE entry = ?"
        row = self._journal.read(lambda db: db.execute(query, (entry,)).fetchone())
        if row is None:
            raise CounterfoilError(Code.NOT_FOUND, "the archive has no such key bundle")
        return row["statement"], row["proof"]
