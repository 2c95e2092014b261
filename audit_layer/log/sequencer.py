"""The sequencer: gives entries their indexes, one batch per transaction.

An advisory lock keeps sequencers out of each other's way (speed); what makes a fork impossible is
the compare-and-set on (size, root) in the same transaction, together with the primary key on the
index (safety). A crash at any point rolls the whole batch back.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from audit_layer.log.tile_table import fetch_from, read_state, upsert_tiles
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.translog.tiles import TreeEdge
from shared.translog.tree import HASH_BYTES, MAX_SIZE, leaf_hash

SEQUENCE_LOCK = 0x636F756E_74657201
"""Key of the advisory lock ("counter", 1)."""
MAX_BATCH = 4096
_RACES = 8


@dataclass(frozen=True, slots=True)
class Submission:
    """An entry to be sequenced, under its idempotency key.

    `issuer` is the 32-byte name of the number domain; a statement without a number of its own has
    `issuer_seq` None and is known by its entry. `attachment` is carried to the `in_transaction`
    hook and never looked at here.
    """

    entry: bytes
    issuer: bytes
    issuer_seq: int | None
    attachment: object = None

    def __post_init__(self) -> None:
        if len(self.entry) != HASH_BYTES or len(self.issuer) != HASH_BYTES:
            raise CounterfoilError(Code.MALFORMED, "an entry and an issuer have 32 bytes each")
        if self.issuer_seq is not None and not 0 <= self.issuer_seq <= MAX_SIZE:
            raise CounterfoilError(Code.INVALID_ARGUMENT, "an issuer's number is 0 … 2^63-1")


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's place, for ever. `duplicate`: it had it before this submission."""

    entry: bytes
    index: int
    duplicate: bool


Result = Sequenced | CounterfoilError
"""Outcome for one submission; an error concerns that submission only."""
Hook = Callable[[Connection, Sequence[tuple[Submission, Sequenced]]], None]
"""Runs in the appending transaction; what it raises rolls the batch back."""


class _LostRaceError(Exception):
    """Another sequencer moved the state between our read and our write."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What the log, or an earlier item of this batch, holds."""

    index: int
    entry: bytes
    issuer: bytes
    issuer_seq: int | None
    duplicate: bool


class Sequencer:
    """Appends batches. Safe to call from several threads and to run in several processes."""

    def __init__(self, engine: Engine, *, advisory_lock: bool = True) -> None:
        """Take the engine. `advisory_lock=False` leaves only the safety net, for drills."""
        self._engine = engine
        self._advisory_lock = advisory_lock
        self._mutex = threading.Lock()
        self._edge: tuple[TreeEdge, bytes] | None = None

    def append(
        self, batch: Sequence[Submission], *, in_transaction: Hook | None = None
    ) -> list[Result]:
        """Sequence a batch durably; one result per submission, in its order.

        The same key with the same entry is answered with the same index, for ever; with another
        entry it is EQUIVOCATION for that submission alone (`metadata["index"]` and `["entry"]`
        name what is held). The hook sees the submissions that have an index, duplicates included.
        Raises UNAVAILABLE when the database is away; nothing may be assumed then, and repeating
        is safe.
        """
        if len(batch) > MAX_BATCH:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a batch has at most {MAX_BATCH} entries"
            )
        if not batch:
            return []
        with self._mutex:
            for _ in range(_RACES):
                edge, self._edge = self._edge, None
                try:
                    with transaction(self._engine) as connection:
                        results, edge = self._append(connection, batch, edge, in_transaction)
                        fault_point("log.sequence.before-commit")
                except _LostRaceError:
                    continue
                fault_point("log.sequence.after-commit")
                self._edge = edge
                return results
        raise CounterfoilError(
            Code.UNAVAILABLE, "other sequencers were faster each time", retry_after_s=0.5
        )

    def _append(
        self,
        connection: Connection,
        batch: Sequence[Submission],
        cached: tuple[TreeEdge, bytes] | None,
        in_transaction: Hook | None,
    ) -> tuple[list[Result], tuple[TreeEdge, bytes]]:
        if self._advisory_lock:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SEQUENCE_LOCK})
        size, root, _ = read_state(connection)
        edge = _edge_at(connection, size, root, cached)
        results, fresh = _assign(batch, _held(connection, batch), size)
        if fresh:
            _write(connection, fresh, edge, size, root)
        if in_transaction is not None:
            placed = [
                (item, result)
                for item, result in zip(batch, results, strict=True)
                if isinstance(result, Sequenced)
            ]
            in_transaction(connection, placed)
        return results, (edge, edge.root())


def _edge_at(
    connection: Connection, size: int, root: bytes, cached: tuple[TreeEdge, bytes] | None
) -> TreeEdge:
    """Return the tree's edge at the present state: from memory if it is that, else from tiles."""
    if cached is not None and cached[0].size == size and cached[1] == root:
        return cached[0]
    edge = TreeEdge.load(size, fetch_from(connection))
    if edge.root() != root:
        raise CounterfoilError(
            Code.CORRUPT,
            f"the tiles do not lead to the log's root at size {size}",
            remedy="Run `counterfoil log fsck`; nothing is appended until the tiles are restored.",
        )
    return edge


def _held(connection: Connection, batch: Sequence[Submission]) -> list[_Held]:
    """Look up what the log already holds under the batch's keys or entries."""
    numbered = [item for item in batch if item.issuer_seq is not None]
    rows = connection.execute(
        text(
            "SELECT e.index, e.entry, e.issuer, e.issuer_seq FROM log_entries e"
            " WHERE e.entry = ANY(CAST(:entries AS bytea[]))"
            " UNION"
            " SELECT e.index, e.entry, e.issuer, e.issuer_seq"
            " FROM unnest(CAST(:issuers AS bytea[]), CAST(:seqs AS bigint[])) AS k(issuer, seq)"
            " JOIN log_entries e ON e.issuer = k.issuer AND e.issuer_seq = k.seq"
        ),
        {
            "entries": [item.entry for item in batch],
            "issuers": [item.issuer for item in numbered],
            "seqs": [item.issuer_seq for item in numbered],
        },
    )
    return [
        _Held(index, bytes(entry), bytes(issuer), seq, duplicate=True)
        for index, entry, issuer, seq in rows
    ]


def _assign(
    batch: Sequence[Submission], held: Sequence[_Held], size: int
) -> tuple[list[Result], list[Submission]]:
    """Decide each submission's outcome; return also the new ones, whose indexes begin at `size`."""
    by_entry = {row.entry: row for row in held}
    by_key: dict[tuple[bytes, int | None], _Held] = {
        (row.issuer, row.issuer_seq): row for row in held if row.issuer_seq is not None
    }
    results: list[Result] = []
    fresh: list[Submission] = []
    for item in batch:
        key = (item.issuer, item.issuer_seq)
        same_key = by_key.get(key) if item.issuer_seq is not None else None
        same_entry = by_entry.get(item.entry)
        if same_key is not None and same_key.entry != item.entry:
            results.append(_equivocation(item, same_key))
        elif same_entry is not None and (same_entry.issuer, same_entry.issuer_seq) != key:
            results.append(
                CounterfoilError(
                    Code.CONFLICT,
                    f"the entry is in the log at {same_entry.index} under another key",
                    metadata={"index": str(same_entry.index)},
                )
            )
        elif same_entry is not None:
            results.append(Sequenced(item.entry, same_entry.index, duplicate=True))
        else:
            index = size + len(fresh)
            row = _Held(index, item.entry, item.issuer, item.issuer_seq, duplicate=False)
            by_entry[item.entry] = row
            if item.issuer_seq is not None:
                by_key[key] = row
            fresh.append(item)
            results.append(Sequenced(item.entry, index, duplicate=False))
    return results, fresh


def _equivocation(item: Submission, held: _Held) -> CounterfoilError:
    return CounterfoilError(
        Code.EQUIVOCATION,
        f"number {item.issuer_seq} of this issuer is another entry, at index {held.index}",
        metadata={"index": str(held.index), "entry": held.entry.hex()},
    )


def _write(
    connection: Connection, fresh: Sequence[Submission], edge: TreeEdge, size: int, root: bytes
) -> None:
    """Write entries, tiles and state. `edge` moves to the new size."""
    if size + len(fresh) > MAX_SIZE:
        raise CounterfoilError(Code.INTERNAL, "the log is full")
    try:
        fault_point("log.sequence.before-entries")
        _copy_entries(connection, fresh, size)
        fault_point("log.sequence.after-entries")
        upsert_tiles(connection, edge.extend([leaf_hash(item.entry) for item in fresh]))
        fault_point("log.sequence.after-tiles")
    except (IntegrityError, psycopg.errors.UniqueViolation) as e:
        raise _LostRaceError from e
    moved = connection.execute(
        text(
            "UPDATE log_state SET size = :size, root = :root"
            " WHERE id = 1 AND size = :old_size AND root = :old_root"
        ),
        {"size": edge.size, "root": edge.root(), "old_size": size, "old_root": root},
    )
    if moved.rowcount != 1:
        raise _LostRaceError


def _copy_entries(connection: Connection, fresh: Sequence[Submission], size: int) -> None:
    """Bring the entries in by binary COPY, on the transaction's own connection."""
    driver = connection.connection.driver_connection
    now_ms = time.time_ns() // 1_000_000
    if not isinstance(driver, psycopg.Connection):
        raise CounterfoilError(Code.CONFIGURATION, "the log needs the psycopg driver")
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(
                "COPY log_entries (index, entry, issuer, issuer_seq, recorded_at)"
                " FROM STDIN (FORMAT BINARY)"
            ) as copy,
        ):
            copy.set_types(["int8", "bytea", "bytea", "int8", "int8"])
            for index, item in enumerate(fresh, start=size):
                copy.write_row((index, item.entry, item.issuer, item.issuer_seq, now_ms))
    except (psycopg.OperationalError, psycopg.InterfaceError) as e:  # SQLAlchemy does not see these
        raise CounterfoilError(
            Code.UNAVAILABLE, "The database went away.", retry_after_s=1.0
        ) from e
