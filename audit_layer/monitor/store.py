"""What a monitor must never forget, in sqlite: how far each log is verified, and what was found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from audit_layer.monitor import outbox, selected
from audit_layer.monitor.core import Verified, digest
from audit_layer.monitor.findings import Finding
from audit_layer.monitor.orders import Gap, Numbers
from audit_layer.monitor.selected import Selected
from audit_layer.monitor.statements import KnownBundle
from shared.codec import cbor
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.journal import Journal
from shared.runtime.keys import create_private, private_folder
from shared.translog.checkpoint import Checkpoint
from shared.verification.identities import Logged

VERSION: Final = 1
MAX_FINDINGS: Final = 1000
"""Findings of one kind kept per log: a hostile log must not fill the disk."""
_SCHEMA: Final = """
CREATE TABLE logs (
    origin TEXT PRIMARY KEY, since INTEGER NOT NULL, start INTEGER
) STRICT;
CREATE TABLE verified (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL, edge BLOB NOT NULL,
    quorum_time INTEGER NOT NULL, fresh_at INTEGER NOT NULL
) STRICT;
CREATE TABLE progress (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, edge BLOB NOT NULL
) STRICT;
CREATE TABLE findings (
    id INTEGER PRIMARY KEY, origin TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, detail TEXT NOT NULL,
    evidence TEXT, found_at INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0, UNIQUE (origin, kind, key)
) STRICT;
CREATE TABLE streams (
    origin TEXT NOT NULL, name TEXT NOT NULL, after INTEGER NOT NULL, waiting BLOB, waiting_since INTEGER,
    PRIMARY KEY (origin, name)
) STRICT;
CREATE TABLE bundles (
    origin TEXT NOT NULL, entry BLOB NOT NULL, operator TEXT NOT NULL, models BLOB NOT NULL,
    PRIMARY KEY (origin, entry)
) STRICT;
CREATE TABLE numbers (
    origin TEXT NOT NULL, tenant TEXT NOT NULL, until INTEGER NOT NULL, gaps TEXT NOT NULL,
    PRIMARY KEY (origin, tenant)
) STRICT
"""
_IDENTITIES: Final = """
CREATE TABLE IF NOT EXISTS identities (
    origin TEXT NOT NULL, place INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (origin, place)
) STRICT
"""
"""Run at every start, as for `selected.SCHEMA`."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one list of statements has been checked; `waiting` is an entry that no checkpoint covers yet."""

    after: int
    waiting: bytes | None = None
    waiting_since: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finding as it is kept."""

    id: int
    kind: str
    detail: str
    evidence: str | None
    """The file that holds the proof."""
    found_at: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a page of statements adds, kept together with the cursor after it."""

    bundles: Mapping[bytes, KnownBundle] = field(default_factory=dict)
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    selection: Sequence[Selected] = ()
    identities: Sequence[Logged] = ()
    """All statements about pinned operators' keys, known ones included."""
    messages: Sequence[outbox.Message] = ()


class MonitorStore:
    """One file, with a folder of evidence next to it; one monitor at a time (CONFLICT for a second).

    Every write is on disk when it returns, and is atomic.
    """

    def __init__(self, path: Path, origin: str) -> None:
        self._origin = origin
        self._evidence = path.with_name(f"{path.name}.evidence")
        try:
            self._journal = Journal(path, schema=_SCHEMA, version=VERSION, exclusive=True)
        except OSError as error:
            raise CounterfoilError(
                Code.CONFIGURATION, f"the monitor cannot keep its state in {path}: {error.strerror}"
            ) from error
        self._journal.write_now(lambda db: db.execute(selected.SCHEMA))
        self._journal.write_now(lambda db: db.execute(outbox.SCHEMA))
        self._journal.write_now(lambda db: db.execute(_IDENTITIES))

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    # -- the tree ------------------------------------------------------------------------------------

    async def since(self, now_s: int) -> int:
        """Return when this log was first watched: now at the first call."""

        def first(db: Connection) -> int:
            db.execute(
                "INSERT OR IGNORE INTO logs (origin, since) VALUES (?, ?)", (self._origin, now_s)
            )
            row = db.execute("SELECT since FROM logs WHERE origin = ?", (self._origin,)).fetchone()
            return int(row[0])

        return await self._journal.write(first)

    async def start(self, index: int) -> int:
        """Return the index from which statements are followed: `index` at the first call."""

        def first(db: Connection) -> int:
            db.execute(
                "UPDATE logs SET start = ? WHERE origin = ? AND start IS NULL",
                (index, self._origin),
            )
            row = db.execute("SELECT start FROM logs WHERE origin = ?", (self._origin,)).fetchone()
            return int(row[0])

        return await self._journal.write(first)

    def verified(self) -> Verified | None:
        """Return the last verified checkpoint."""
        row = self._journal.read(
            lambda db: db.execute(
                "SELECT size, root, note, edge, quorum_time, fresh_at FROM verified WHERE origin = ?",
                (self._origin,),
            ).fetchone()
        )
        if row is None:
            return None
        checkpoint = Checkpoint(self._origin, row["size"], row["root"])
        return Verified(
            checkpoint, row["note"], _edge(row["edge"]), row["quorum_time"], row["fresh_at"]
        )

    async def advance(self, new: Verified) -> None:
        """Make a checkpoint the last verified one."""
        checkpoint = new.checkpoint
        values = (
            self._origin, checkpoint.size, checkpoint.root, new.note, cbor.encode(dict(new.edge)),
            new.quorum_time, new.fresh_at,
        )  # fmt: skip

        def write(db: Connection) -> None:
            db.execute("INSERT OR REPLACE INTO verified VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            db.execute("DELETE FROM progress WHERE origin = ?", (self._origin,))

        fault_point("monitor.before-verified")
        await self._journal.write(write)
        fault_point("monitor.after-verified")

    def progress(self) -> tuple[int, Mapping[int, bytes]] | None:
        """Return how far entries beyond the verified checkpoint were recomputed, towards a later one."""
        row = self._journal.read(
            lambda db: db.execute(
                "SELECT size, edge FROM progress WHERE origin = ?", (self._origin,)
            ).fetchone()
        )
        return None if row is None else (row["size"], _edge(row["edge"]))

    async def keep_progress(self, size: int, edge: Mapping[int, bytes]) -> None:
        """Keep how far recomputing has come, so that a crash costs one step and not all of them."""
        values = (self._origin, size, cbor.encode(dict(edge)))
        fault_point("monitor.before-progress")
        await self._journal.write(
            lambda db: db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", values)
        )
        fault_point("monitor.after-progress")

    async def drop_progress(self) -> None:
        """Restart from the verified checkpoint."""
        await self._journal.write(
            lambda db: db.execute("DELETE FROM progress WHERE origin = ?", (self._origin,))
        )

    # -- findings ------------------------------------------------------------------------------------

    async def record(self, finding: Finding, now_s: int) -> bool:
        """Keep a finding once, its evidence first; return whether it is new."""
        if self._known(finding):
            return False
        path = self._keep_evidence(finding) if finding.evidence else None
        values = (self._origin, finding.kind.value, finding.key, finding.detail, path, now_s)
        fault_point("monitor.before-finding")
        await self._journal.write(
            lambda db: db.execute(
                "INSERT OR IGNORE INTO findings (origin, kind, key, detail, evidence, found_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
        )
        fault_point("monitor.after-finding")
        return True

    def untold(self) -> list[Recorded]:
        """Return findings not yet reported, including those of a process that died before it could report them."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT id, kind, detail, evidence, found_at FROM findings"
                " WHERE origin = ? AND NOT told ORDER BY id",
                (self._origin,),
            ).fetchall()
        )
        return [Recorded(*row) for row in rows]

    async def told(self, ids: Sequence[int]) -> None:
        """Remember that these were reported."""
        await self._journal.write(
            lambda db: db.executemany(
                "UPDATE findings SET told = 1 WHERE id = ?", [(i,) for i in ids]
            )
        )

    def forked(self) -> bool:
        """Whether there is proof that the log forked; that is permanent."""
        return bool(
            self._journal.read(
                lambda db: db.execute(
                    "SELECT 1 FROM findings WHERE origin = ? AND kind = 'fork'", (self._origin,)
                ).fetchone()
            )
        )

    def _known(self, finding: Finding) -> bool:
        """Whether it is already kept, or its kind has come up too often to keep more."""
        count, same = self._journal.read(
            lambda db: db.execute(
                "SELECT count(*), coalesce(sum(key = ?), 0) FROM findings WHERE origin = ? AND kind = ?",
                (finding.key, self._origin, finding.kind.value),
            ).fetchone()
        )
        return bool(same) or count >= MAX_FINDINGS

    def _keep_evidence(self, finding: Finding) -> str:
        """Write the proof into a file of its own; an existing file is never touched."""
        name = digest(f"{self._origin}\n{finding.kind}\n{finding.key}".encode())
        path = private_folder(self._evidence) / f"{finding.kind}-{name}.json"
        members = {"origin": self._origin, "kind": finding.kind, "detail": finding.detail}
        text = json.dumps({**members, **finding.evidence}, indent=2, ensure_ascii=False)
        fault_point("monitor.before-evidence")
        create_private(path, text.encode("utf-8", "replace") + b"\n")
        fault_point("monitor.after-evidence")
        return str(path)

    # -- statements ----------------------------------------------------------------------------------

    def cursor(self, name: str) -> Cursor | None:
        """Return how far a list has been checked; None before the first time."""
        row = self._journal.read(
            lambda db: db.execute(
                "SELECT after, waiting, waiting_since FROM streams WHERE origin = ? AND name = ?",
                (self._origin, name),
            ).fetchone()
        )
        return None if row is None else Cursor(row[0], row[1], row[2] or 0)

    async def move(self, name: str, cursor: Cursor, learnt: Learnt) -> None:
        """Move past a page, keeping what it added."""
        at = (self._origin, name, cursor.after, cursor.waiting, cursor.waiting_since)
        bundles = [
            (self._origin, entry, bundle.operator, cbor.encode(list(bundle.models)))
            for entry, bundle in learnt.bundles.items()
        ]
        numbers = [
            (self._origin, tenant, known.end, json.dumps([_gap(gap) for gap in known.gaps]))
            for tenant, known in learnt.numbers.items()
        ]

        def write(db: Connection) -> None:
            db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?)", at)
            db.executemany("INSERT OR REPLACE INTO bundles VALUES (?, ?, ?, ?)", bundles)
            db.executemany("INSERT OR REPLACE INTO numbers VALUES (?, ?, ?, ?)", numbers)
            selected.put(db, self._origin, learnt.selection)
            outbox.put(db, self._origin, learnt.messages)
            db.executemany(
                "INSERT OR IGNORE INTO identities VALUES (?, ?, ?)",
                [(self._origin, item.index, item.statement) for item in learnt.identities],
            )

        fault_point("monitor.before-stream")
        await self._journal.write(write)
        fault_point("monitor.after-stream")

    # -- messages ------------------------------------------------------------------------------------

    def due(self, now_s: int) -> outbox.Waiting | None:
        """Return the message that is to be sent first, if its time has come."""
        return self._journal.read(lambda db: outbox.due(db, self._origin, now_s))

    def messages_waiting(self) -> int:
        """Return how many messages were not accepted yet."""
        return self._journal.read(lambda db: outbox.count(db, self._origin))

    async def accepted(self, number: int) -> None:
        """Drop a message that was accepted."""
        fault_point("monitor.before-accepted")
        await self._journal.write(lambda db: outbox.accepted(db, number))

    async def postpone(self, number: int, due_s: int) -> None:
        """Count an attempt that failed, and set the time of the next."""
        await self._journal.write(lambda db: outbox.postpone(db, number, due_s))

    # -- what statements add -------------------------------------------------------------------------

    def bundles(self) -> dict[bytes, KnownBundle]:
        """Return the watched key bundles met so far, by entry."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT entry, operator, models FROM bundles WHERE origin = ?", (self._origin,)
            ).fetchall()
        )
        return {entry: KnownBundle(operator, _models(models)) for entry, operator, models in rows}

    def identities(self) -> list[Logged]:
        """Return the statements about pinned operators' keys met so far."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT place, raw FROM identities WHERE origin = ?", (self._origin,)
            ).fetchall()
        )
        return [Logged(place, raw) for place, raw in rows]

    def numbers(self) -> dict[str, Numbers]:
        """Return what is known about order numbers, by tenant."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT tenant, until, gaps FROM numbers WHERE origin = ?", (self._origin,)
            ).fetchall()
        )
        return {
            tenant: Numbers(until, tuple(Gap(*gap) for gap in json.loads(gaps)))
            for tenant, until, gaps in rows
        }

    def selection(self) -> list[Selected]:
        """Return the kept statements of the selection, in log order."""
        return self._journal.read(lambda db: selected.read(db, self._origin))

    def selection_is_full(self) -> bool:
        """Whether statements of the selection are no longer kept, because too many await a draw."""
        return self._journal.read(lambda db: selected.is_full(db, self._origin))

    async def forget(self, indexes: Sequence[int]) -> None:
        """Drop statements of the selection by their log indexes."""
        await self._journal.write(lambda db: selected.forget(db, self._origin, indexes))

    async def settle(self, epoch: int) -> None:
        """Record that an epoch was checked, and drop the checked ones before it: the next one begins where it ends."""
        fault_point("monitor.before-settle")
        await self._journal.write(lambda db: selected.settle(db, self._origin, epoch))
        fault_point("monitor.after-settle")


def _edge(data: bytes) -> dict[int, bytes]:
    found = cbor.decode(data)
    if not isinstance(found, dict):
        raise CounterfoilError(Code.CORRUPT, "the monitor's state holds no valid tree edge")
    return {
        level: hashes
        for level, hashes in found.items()
        if isinstance(level, int) and isinstance(hashes, bytes)
    }


def _models(data: bytes) -> tuple[bytes, ...]:
    found = cbor.decode(data)
    items = found if isinstance(found, list) else []
    return tuple(item for item in items if isinstance(item, bytes))


def _gap(gap: Gap) -> list[int]:
    return [gap.first, gap.last, gap.since]
