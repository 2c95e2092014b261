"""`fsck`: recompute everything that can be recomputed from the entries, and name what differs.

It checks the entries (dense, unique, of the right length), every tile, the state row, every
checkpoint with its signatures, the published files byte by byte, the second place, and times as
far as signed ones bound them. A caller who holds the signed statements passes `identify`, so
that the columns that come from them are compared too.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection, Engine, text

from audit_layer.log.files import PublishedFiles
from audit_layer.log.fsck_outside import (
    Outside,
    check_checkpoint_file,
    check_files,
    check_second_place,
)
from audit_layer.log.fsck_report import Difference, SavedCheckpoint
from audit_layer.log.fsck_times import (
    CheckpointTimes,
    Window,
    check_checkpoint_times,
    recording_windows,
)
from audit_layer.log.second_place import SecondPlace
from audit_layer.storage.engine import unavailable_when_down
from shared.runtime.errors import CounterfoilError
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.signed_checkpoint import parse_and_verify, signature_time
from shared.translog.tiles import (
    TILE_WIDTH,
    Tile,
    TreeEdge,
    split_hashes,
    width_at,
)
from shared.translog.tree import EMPTY_ROOT, complete_root, leaf_hash

_CHUNK = 4096

Identify = Callable[[int, bytes], tuple[bytes, int | None] | None]
"""(index, entry) -> the (issuer, number) in the signed statement; None when it is erased."""


def fsck(
    engine: Engine,
    *,
    policy: LogPolicy,
    files: PublishedFiles | None = None,
    second_place: SecondPlace | None = None,
    identify: Identify | None = None,
) -> list[Difference]:
    """Check a whole log in one snapshot of the database; return the differences, none when it is clean.

    Entries are read once, in order, in bounded memory. A publisher may run meanwhile: what lies outside
    the database is read before the snapshot, when it must not be ahead of it, and again afterwards, when
    it must not be behind.
    """
    before = Outside.look(files, second_place)
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    with unavailable_when_down(), snapshot.connect() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large log takes its time
        return check(
            connection,
            policy=policy,
            files=files,
            second_place=second_place,
            identify=identify,
            before=before,
        )


def check(
    connection: Connection,
    *,
    policy: LogPolicy,
    files: PublishedFiles | None = None,
    second_place: SecondPlace | None = None,
    identify: Identify | None = None,
    before: Outside | None = None,
) -> list[Difference]:
    """Run `fsck` on an open connection that sees one snapshot throughout; `before` was read ahead of it."""
    before = before or Outside.look(files, second_place)
    rows = _checkpoint_rows(connection)
    kept = before.kept[0].size if isinstance(before.kept, tuple) else 0
    tree = _Tree({*(row.size for row in rows), kept})
    now = time.time_ns() // 1_000_000
    times = [_times(row, policy) for row in rows]
    windows = recording_windows(times, now)
    differences = list(_check_entries(connection, tree, identify, windows))
    differences += _check_keys(connection)
    differences += _check_tile_rows(connection, tree)
    differences += _check_state(connection, tree, rows)
    for row in rows:
        differences += _check_checkpoint(row, tree, policy, newest=row is rows[-1])
    differences += [
        Difference(f"log_checkpoints[size={size}].{column}", problem)
        for size, column, problem in check_checkpoint_times(times, now)
    ]
    if files is not None:
        differences += check_files(connection, files, rows, before)
        differences += check_checkpoint_file(files, rows, before, policy)
    if second_place is not None:
        differences += check_second_place(second_place, rows, before, tree.roots)
    return differences


class _Tree:
    """The tree as the entries say it is."""

    def __init__(self, stops: set[int]) -> None:
        self.edge = TreeEdge()
        self.roots = {0: EMPTY_ROOT}
        self._stops = stops
        self._waiting: list[bytes] = []

    def add(self, entry: bytes) -> Iterator[tuple[Tile, bytes]]:
        """Append an entry; yield the tiles that it completes."""
        self._waiting.append(leaf_hash(entry))
        size = self.edge.size + len(self._waiting)
        if size % TILE_WIDTH == 0 or size in self._stops:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[Tile, bytes]]:
        """Take in what `add` has held back."""
        for tile, data in self.edge.extend(self._waiting):
            if not tile.is_partial:
                yield tile, data
        self._waiting = []
        if self.edge.size in self._stops:
            self.roots[self.edge.size] = self.edge.root()


def _check_entries(
    connection: Connection, tree: _Tree, identify: Identify | None, windows: Sequence[Window]
) -> Iterator[Difference]:
    """Walk the entries in order and compare every tile that they complete."""
    waiting = list(reversed(windows))
    for expected, (index, entry, issuer, number, recorded_at) in enumerate(_entries(connection)):
        place = f"log_entries[index={index}]"
        if index != expected:
            yield Difference(place, f"log_entries.index is not dense: {expected} should be here")
            break
        while waiting[-1].end is not None and index >= waiting[-1].end:
            waiting.pop()
        if not waiting[-1].holds(recorded_at):
            yield Difference(f"{place}.recorded_at", "is not between the signed times around it")
        said = identify(index, entry) if identify else None
        if said is not None and said[0] != issuer:
            yield Difference(f"{place}.issuer", "is not the statement's")
        if said is not None and said[1] != number:
            yield Difference(f"{place}.issuer_seq", "is not the statement's")
        for tile, data in tree.add(entry):
            yield from _compare_tile(connection, tile, data)
    for tile, data in tree.flush():
        yield from _compare_tile(connection, tile, data)


def _entries(connection: Connection) -> Iterator[tuple[int, bytes, bytes, int | None, int]]:
    """Yield (index, entry, issuer, number, time) in order of the index, a page at a time."""
    after = -1
    while True:
        page = connection.execute(
            text(
                "SELECT index, entry, issuer, issuer_seq, recorded_at FROM log_entries"
                " WHERE index > :after ORDER BY index LIMIT :limit"
            ),
            {"after": after, "limit": _CHUNK},
        ).all()
        for index, entry, issuer, number, recorded_at in page:
            yield index, bytes(entry), bytes(issuer), number, recorded_at
        if len(page) < _CHUNK:
            return
        after = page[-1][0]


def _check_keys(connection: Connection) -> Iterator[Difference]:
    """Check that every key occurs once, and that the issuers' counts are those of the entries."""
    twice = text(
        "SELECT min(index), max(index) FROM log_entries GROUP BY entry HAVING count(*) > 1"
        " UNION SELECT min(index), max(index) FROM log_entries WHERE issuer_seq IS NOT NULL"
        " GROUP BY issuer, issuer_seq HAVING count(*) > 1 ORDER BY 1"
    )
    for first, second in connection.execute(twice):
        yield Difference(f"log_entries[index={second}]", f"has the entry or the number of {first}")
    counts = text(
        "SELECT coalesce(i.issuer, e.issuer), i.issuer IS NULL OR e.issuer IS NULL, i.highest, e.highest, i.held, e.held"
        " FROM log_issuers i FULL JOIN"
        " (SELECT issuer, max(issuer_seq) AS highest, count(*) AS held FROM log_entries"
        " WHERE issuer_seq IS NOT NULL GROUP BY issuer) e ON i.issuer = e.issuer"
        " WHERE i.highest IS DISTINCT FROM e.highest OR i.held IS DISTINCT FROM e.held"
    )
    for issuer, alone, highest, real_highest, held, real_held in connection.execute(counts):
        place = f"log_issuers[issuer={bytes(issuer).hex()}]"
        if alone:
            yield Difference(f"{place}.issuer", "is missing, or is that of no numbered entry")
            continue
        if highest != real_highest:
            yield Difference(f"{place}.highest", f"is {highest}, the entries say {real_highest}")
        if held != real_held:
            yield Difference(f"{place}.held", f"is {held}, the entries say {real_held}")


def _compare_tile(connection: Connection, tile: Tile, data: bytes) -> Iterator[Difference]:
    """Compare a full tile's row."""
    place = f"log_tiles[level={tile.level}, index={tile.index}]"
    root = connection.execute(
        text("SELECT root FROM log_tiles WHERE level = :level AND index = :index"),
        {"level": tile.level, "index": tile.index},
    ).scalar_one_or_none()
    if root is None:
        yield Difference(place, "missing")
    elif bytes(root) != complete_root(split_hashes(data)):
        yield Difference(f"{place}.root", "is not the root of the entries below it")


def _check_tile_rows(connection: Connection, tree: _Tree) -> Iterator[Difference]:
    """Find tiles beyond the tree."""
    for level, index in connection.execute(text("SELECT level, index FROM log_tiles")):
        if width_at(level, index, tree.edge.size) < TILE_WIDTH:
            yield Difference(
                f"log_tiles[level={level}, index={index}]",
                "no full tile of the tree has this log_tiles.level and log_tiles.index",
            )


def _check_state(
    connection: Connection, tree: _Tree, rows: Sequence[SavedCheckpoint]
) -> Iterator[Difference]:
    states = connection.execute(text("SELECT id, size, root FROM log_state")).all()
    state = next((row for row in states if row[0] == 1), None)
    if len(states) > (state is not None):
        yield Difference("log_state.id", "is not 1")
    if state is None:
        if tree.edge.size or rows:
            yield Difference("log_state", "the row is missing")
        return
    _, size, root = state
    if size != tree.edge.size:
        yield Difference("log_state.size", f"is {size}, but there are {tree.edge.size} entries")
    if bytes(root) != tree.edge.root():
        yield Difference("log_state.root", "is not the root of the entries")


def _checkpoint_rows(connection: Connection) -> list[SavedCheckpoint]:
    rows = connection.execute(
        text(
            "SELECT size, root, intent_at, note, cosigned_note, published_at"
            " FROM log_checkpoints ORDER BY size"
        )
    )
    return [SavedCheckpoint(size, bytes(root), *rest) for size, root, *rest in rows]


def _times(row: SavedCheckpoint, policy: LogPolicy) -> CheckpointTimes:
    """Return a checkpoint's times; a note that does not verify, which is reported elsewhere, gives none."""
    signed_at = witnessed_at = None
    with contextlib.suppress(CounterfoilError):
        if row.note is not None:
            checkpoint, note = parse_and_verify(row.note, policy.logs)
            times = (signature_time(checkpoint, note.signatures, key) for key in policy.logs)
            signed_at = max(filter(None, times), default=None)
        if row.cosigned is not None:
            witnessed_at = max(verify_witnessed(row.cosigned, policy).times.values())
    return CheckpointTimes(
        row.size,
        row.intent_at,
        None if signed_at is None else signed_at * 1000,
        None if witnessed_at is None else witnessed_at * 1000,
        row.published_at,
    )


def _check_checkpoint(
    row: SavedCheckpoint, tree: _Tree, policy: LogPolicy, *, newest: bool
) -> Iterator[Difference]:
    expected = tree.roots.get(row.size)
    if expected is None:
        yield Difference(row.place, "is larger than the tree")
    elif row.root != expected:
        yield Difference(f"{row.place}.root", "is not the root of the entries at its size")
    if row.published_at is None and not newest:
        yield Difference(f"{row.place}.published_at", "is missing, though a larger one follows")
    for column, note in (("note", row.note), ("cosigned_note", row.cosigned)):
        if note is None:
            continue
        try:
            if column == "note":
                checkpoint, _ = parse_and_verify(note, policy.logs)
            else:
                checkpoint = verify_witnessed(note, policy).checkpoint
        except CounterfoilError as e:
            yield Difference(f"{row.place}.{column}", e.detail)
            continue
        if checkpoint.size != row.size:
            yield Difference(f"{row.place}.size", f"is not that of {row.place}.{column}")
        if checkpoint.root != row.root:
            yield Difference(f"{row.place}.root", f"is not that of {row.place}.{column}")
    if row.note and row.cosigned and not row.cosigned.startswith(row.note):
        yield Difference(
            f"{row.place}.cosigned_note", "does not begin with the note that was signed"
        )
