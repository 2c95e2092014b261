"""The sequencer assigns indexes to entries, one batch per transaction.

An advisory lock keeps sequencers out of each other's way (speed); the compare-and-set on (size,
root) in the same transaction, together with the primary key on the index, makes a fork impossible
(safety). A crash at any point rolls the whole batch back.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from audit_layer.log.models import PARTITION_BITS, LogEntry
from audit_layer.log.tile_table import add_tiles, fetch_from, read_state
from audit_layer.storage.copying import copy_tuples
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.translog.tiles import Tile, TileReader, TreeEdge, split_hashes
from shared.translog.tree import HASH_BYTES, MAX_SIZE, complete_root, leaf_hash

SEQUENCE_LOCK = 0x636F756E_74657201
"""Key of the advisory lock ("counter", 1)."""
MAX_BATCH = 4096
_RACES = 8


_COLUMNS = ("index", "entry", "issuer", "issuer_seq", "recorded_at")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """An entry to be sequenced, under its idempotency key.

    `issuer` is the 32-byte name of the number domain; a statement without a number of its own has
    `issuer_seq` None and is identified by its entry. The key must be a function of the entry (the
    statement's bytes determine it), so that one entry never has two. `attachment` is passed to the
    `in_transaction` hook and never looked at here.
    """

    entry: bytes
    issuer: bytes
    issuer_seq: int | None
    attachment: object = None
    awaited: bool = False
    """Whether somebody waits for it to be witnessed: it does not wait for the next regular publication."""

    def __post_init__(self) -> None:
        if len(self.entry) != HASH_BYTES or len(self.issuer) != HASH_BYTES:
            raise CounterfoilError(Code.MALFORMED, "an entry and an issuer are 32 bytes long each")
        if self.issuer_seq is not None and not 0 <= self.issuer_seq <= MAX_SIZE:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "an issuer's number is between 0 and 2^63-1"
            )

    @property
    def key(self) -> "Key":
        """The idempotency key."""
        return self.entry if self.issuer_seq is None else (self.issuer, self.issuer_seq)


Key = bytes | tuple[bytes, int]
"""An entry, or (issuer, number)."""


@dataclass(frozen=True, slots=True)
class Sequenced:
    """An entry's permanent place. `duplicate`: it had it before this submission."""

    entry: bytes
    index: int
    duplicate: bool
    receipt: bytes | None = None
    """A COSE Receipt (RFC 9942) of grade *sequenced*, if one was asked for."""


Result = Sequenced | CounterfoilError
"""Outcome for one submission; an error concerns that submission only."""
Hook = Callable[[Connection, Sequence[tuple[Submission, Sequenced]]], None]
"""Runs in the appending transaction; what it raises rolls the batch back."""
Guard = Callable[[Connection], None]
"""Examines a tree that another process may have changed; what it raises stops the append."""


class _LostRaceError(Exception):
    """Another sequencer moved the state between our read and our write."""


@dataclass(frozen=True, slots=True)
class Head:
    """The tree as an append left it, with the nodes that proofs under it need."""

    size: int
    root: bytes
    node: TileReader


class Sequencer:
    """Appends batches. Safe to call from several threads and to run in several processes."""

    def __init__(
        self, engine: Engine, *, advisory_lock: bool = True, guard: Guard | None = None
    ) -> None:
        """`advisory_lock=False` leaves only the safety net, for drills."""
        self._engine = engine
        self._advisory_lock = advisory_lock
        self._guard = guard
        self._mutex = threading.Lock()
        self._tree: _Tree | None = None
        self._reach = 0

    def append(
        self, batch: Sequence[Submission], *, in_transaction: Hook | None = None
    ) -> list[Result]:
        """Sequence a batch durably; one result per submission, in its order.

        The same key with the same entry always gets the same index; with another entry it is
        EQUIVOCATION for that submission alone (`metadata["index"]` and `["entry"]`
        name what is held). The hook sees the submissions that have an index, duplicates included.
        Raises UNAVAILABLE when the database cannot be reached; the outcome is then unknown, and
        repeating is safe.
        """
        if len(batch) > MAX_BATCH:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a batch has at most {MAX_BATCH} entries"
            )
        if not batch:
            return []
        with self._mutex:
            for _ in range(_RACES):
                tree, self._tree = self._tree, None
                self._extend(tree)
                try:
                    with transaction(self._engine) as connection:
                        results, tree = self._append(connection, batch, tree, in_transaction)
                        fault_point("log.sequence.before-commit")
                except _LostRaceError:
                    continue
                fault_point("log.sequence.after-commit")
                self._tree = tree
                return results
        raise CounterfoilError(
            Code.UNAVAILABLE, "other sequencers won every attempt", retry_after_s=0.5
        )

    def head(self) -> Head:
        """Return the tree as the last `append` left it. UNAVAILABLE when that append failed."""
        with self._mutex:
            if self._tree is None:
                raise CounterfoilError(
                    Code.UNAVAILABLE, "the last append left no tree", retry_after_s=0.1
                )
            return self._tree.head(self._fetch)

    def _fetch(self, tile: Tile) -> bytes:
        with transaction(self._engine) as connection:
            return fetch_from(connection)(tile)

    def _extend(self, tree: "_Tree | None") -> None:
        """Create partitions well ahead; failing to is harmless while the next indexes have theirs."""
        size = 0 if tree is None else tree.edge.size
        if size + (1 << PARTITION_BITS) < self._reach:
            return
        try:
            with transaction(self._engine) as connection:
                self._reach = connection.execute(text("SELECT log_extend()")).scalar_one()
        except CounterfoilError as e:
            if size + MAX_BATCH >= self._reach:
                raise
            _log.warning("no partition could be added to log_entries yet: %s", e)

    def _append(
        self,
        connection: Connection,
        batch: Sequence[Submission],
        cached: "_Tree | None",
        in_transaction: Hook | None,
    ) -> tuple[list[Result], "_Tree"]:
        if self._advisory_lock:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SEQUENCE_LOCK})
        size, root = read_state(connection)
        tree = cached
        if tree is None or (tree.edge.size, tree.root) != (size, root):
            tree = _Tree.load(connection, size, root)
            if self._guard is not None:
                self._guard(connection)
        results, fresh = _assign(batch, _held(connection, batch), size)
        if fresh:
            _write(connection, fresh, tree, size, root)
        if in_transaction is not None:
            placed = [
                (item, result)
                for item, result in zip(batch, results, strict=True)
                if isinstance(result, Sequenced)
            ]
            in_transaction(connection, placed)
        return results, tree


class _Tree:
    """The right edge of the tree, its root, and the tiles that the last append touched."""

    def __init__(self, edge: TreeEdge, root: bytes) -> None:
        self.edge = edge
        self.root = root
        self._recent: dict[tuple[int, int], bytes] = {}

    @classmethod
    def load(cls, connection: Connection, size: int, root: bytes) -> "_Tree":
        """Read the edge from the tables; CORRUPT when it does not lead to the recorded root."""
        edge = TreeEdge.load(size, fetch_from(connection))
        if edge.root() != root:
            raise CounterfoilError(
                Code.CORRUPT,
                f"the entries do not lead to the log's root at size {size}",
                remedy="Run `counterfoil log fsck`; nothing is appended until they are restored.",
            )
        return cls(edge, root)

    def extend(self, entries: Iterable[bytes]) -> list[tuple[Tile, bytes]]:
        """Append entries; return the tiles that they complete, with their roots."""
        touched = self.edge.extend([leaf_hash(entry) for entry in entries])
        self.root = self.edge.root()
        self._recent = {(tile.level, tile.index): data for tile, data in touched}
        return [
            (tile, complete_root(split_hashes(data)))
            for tile, data in touched
            if not tile.is_partial
        ]

    def head(self, fetch: Callable[[Tile], bytes]) -> Head:
        """Return the tree with its nodes: the newest from memory, older ones by `fetch`."""
        recent, edge = self._recent, self.edge
        rows = [edge.partial(level) for level in range(edge.height)]

        def from_memory(tile: Tile) -> bytes:
            data = recent.get((tile.level, tile.index))
            if data is None and tile.is_partial:
                data = b"".join(rows[tile.level])
            return fetch(tile) if data is None else data

        return Head(edge.size, self.root, TileReader(edge.size, from_memory))


def _held(connection: Connection, batch: Sequence[Submission]) -> dict[Key, tuple[bytes, int]]:
    """Return (entry, index) of what the log holds under the batch's keys.

    A number above its issuer's highest is new, so the usual batch costs one query of the issuers.
    """
    issuers = {item.issuer for item in batch if item.issuer_seq is not None}
    highest: dict[bytes, int] = {}
    if issuers:
        rows = connection.execute(
            text("SELECT issuer, highest FROM log_issuers WHERE issuer = ANY(:issuers)"),
            {"issuers": list(issuers)},
        )
        highest = {bytes(issuer): number for issuer, number in rows}
    held: dict[Key, tuple[bytes, int]] = {}
    numbered = [
        (item.issuer, item.issuer_seq)
        for item in batch
        if item.issuer_seq is not None and item.issuer_seq <= highest.get(item.issuer, -1)
    ]
    if numbered:
        rows = connection.execute(
            text(
                "SELECT e.issuer, e.issuer_seq, e.entry, e.index"
                " FROM unnest(CAST(:issuers AS bytea[]), CAST(:seqs AS bigint[])) AS k(issuer, seq)"
                " JOIN log_entries e ON e.issuer = k.issuer AND e.issuer_seq = k.seq"
            ),
            {
                "issuers": [issuer for issuer, _ in numbered],
                "seqs": [number for _, number in numbered],
            },
        )
        held |= {(bytes(issuer), seq): (bytes(entry), at) for issuer, seq, entry, at in rows}
    unnumbered = [item.entry for item in batch if item.issuer_seq is None]
    if unnumbered:
        rows = connection.execute(
            text(
                "SELECT entry, index FROM log_entries"
                " WHERE entry = ANY(:entries) AND issuer_seq IS NULL"
            ),
            {"entries": unnumbered},
        )
        held |= {bytes(entry): (bytes(entry), at) for entry, at in rows}
    return held


def _assign(
    batch: Sequence[Submission], held: dict[Key, tuple[bytes, int]], size: int
) -> tuple[list[Result], list[Submission]]:
    """Decide each submission's outcome; also return the new ones, whose indexes begin at `size`."""
    results: list[Result] = []
    fresh: list[Submission] = []
    for item in batch:
        known = held.get(item.key)
        if known is None:
            index = size + len(fresh)
            held[item.key] = (item.entry, index)
            fresh.append(item)
            results.append(Sequenced(item.entry, index, duplicate=False))
        elif known[0] == item.entry:
            results.append(Sequenced(item.entry, known[1], duplicate=True))
        else:
            results.append(_equivocation(item, *known))
    return results, fresh


def _equivocation(item: Submission, entry: bytes, index: int) -> CounterfoilError:
    return CounterfoilError(
        Code.EQUIVOCATION,
        f"number {item.issuer_seq} of this issuer belongs to another entry, at index {index}",
        metadata={"index": str(index), "entry": entry.hex()},
    )


def _write(
    connection: Connection, fresh: Sequence[Submission], tree: _Tree, size: int, root: bytes
) -> None:
    """Write entries, tiles, issuers and state. `tree` moves to the new size."""
    if size + len(fresh) > MAX_SIZE:
        raise CounterfoilError(Code.INTERNAL, "the log is full")
    now_ms = time.time_ns() // 1_000_000
    rows = (
        (index, item.entry, item.issuer, item.issuer_seq, now_ms)
        for index, item in enumerate(fresh, start=size)
    )
    try:
        fault_point("log.sequence.before-entries")
        copy_tuples(connection, LogEntry, _COLUMNS, rows)
        fault_point("log.sequence.after-entries")
        add_tiles(connection, tree.extend(item.entry for item in fresh))
        fault_point("log.sequence.after-tiles")
    except (IntegrityError, psycopg.errors.UniqueViolation) as e:
        raise _LostRaceError from e
    moved = connection.execute(
        text(
            "UPDATE log_state SET size = :size, root = :root"
            " WHERE id = 1 AND size = :old_size AND root = :old_root"
        ),
        {"size": tree.edge.size, "root": tree.root, "old_size": size, "old_root": root},
    )
    if moved.rowcount != 1:
        raise _LostRaceError
    _count_numbers(connection, fresh)


def _count_numbers(connection: Connection, fresh: Sequence[Submission]) -> None:
    """Update the issuers' highest numbers."""
    numbers: dict[bytes, list[int]] = {}
    for item in fresh:
        if item.issuer_seq is not None:
            numbers.setdefault(item.issuer, []).append(item.issuer_seq)
    if numbers:
        connection.execute(
            text(
                "INSERT INTO log_issuers AS i (issuer, highest, held)"
                " SELECT * FROM unnest(CAST(:issuers AS bytea[]), CAST(:highest AS bigint[]),"
                " CAST(:held AS bigint[]))"
                " ON CONFLICT (issuer) DO UPDATE"
                " SET highest = greatest(i.highest, excluded.highest), held = i.held + excluded.held"
            ),
            {
                "issuers": list(numbers),
                "highest": [max(found) for found in numbers.values()],
                "held": [len(found) for found in numbers.values()],
            },
        )
