"""`fsck`: recompute everything that can be recomputed from the entries, and name what differs.

Checked are the entries (dense, unique, each as long as it must be), every tile, the state row,
every checkpoint with its signatures, the published files byte by byte, and the second place. A
caller who holds the signed statements passes `identify`, so that the columns that come from them
are compared too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from sqlalchemy import Connection, Engine, text

from audit_layer.log.files import CHECKPOINT, PublishedFiles
from audit_layer.log.second_place import Kept, SecondPlace
from audit_layer.log.tile_table import read_file
from audit_layer.storage.engine import unavailable_when_down
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import Policy, verify_witnessed
from shared.translog.signed_checkpoint import parse_and_verify
from shared.translog.tiles import (
    TILE_WIDTH,
    Tile,
    TreeEdge,
    files_grown,
    parse_tile_path,
    split_hashes,
    width_at,
)
from shared.translog.tree import EMPTY_ROOT, complete_root, leaf_hash

_CHUNK = 4096

Identify = Callable[[int, bytes], tuple[bytes, int | None] | None]
"""(index, entry) -> the (issuer, number) that the signed statement says; None when it is erased."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    place: str
    """Where: a table with its key, or a file."""
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of log_checkpoints."""

    size: int
    root: bytes
    intent_at: int
    note: str | None
    cosigned: str | None
    published_at: int | None

    @property
    def place(self) -> str:
        return f"log_checkpoints[size={self.size}]"


def fsck(
    engine: Engine,
    *,
    policy: Policy,
    files: PublishedFiles | None = None,
    second_place: SecondPlace | None = None,
    identify: Identify | None = None,
) -> list[Finding]:
    """Check a whole log in one snapshot of the database; return the findings, none when it is clean.

    Entries are read once, in order, in bounded memory. A publisher may run meanwhile: what lies outside
    the database is read before the snapshot, when it must not be ahead of it, and again afterwards, when
    it must not be behind.
    """
    before = Outside.look(files, second_place)
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    with unavailable_when_down(), snapshot.connect() as connection:
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
    policy: Policy,
    files: PublishedFiles | None = None,
    second_place: SecondPlace | None = None,
    identify: Identify | None = None,
    before: "Outside | None" = None,
) -> list[Finding]:
    """Run `fsck` on an open connection that sees one snapshot throughout; `before` was read ahead of it."""
    before = before or Outside.look(files, second_place)
    rows = _checkpoint_rows(connection)
    kept = before.kept[0].size if isinstance(before.kept, tuple) else 0
    tree = _Tree({*(row.size for row in rows), kept})
    findings = list(_check_entries(connection, tree, identify))
    findings += _check_keys(connection)
    findings += _check_tile_rows(connection, tree)
    findings += _check_state(connection, tree, rows)
    for row in rows:
        findings += _check_checkpoint(row, tree, policy, newest=row is rows[-1])
    findings += [
        Finding(later.place, "its intent is older than that of a smaller size")
        for earlier, later in pairwise(rows)
        if later.intent_at < earlier.intent_at
    ]
    if files is not None:
        findings += _check_files(connection, files, rows, before)
        findings += _check_checkpoint_file(files, rows, before, policy)
    if second_place is not None:
        findings += _check_second_place(second_place, rows, before, tree)
    return findings


@dataclass(frozen=True, slots=True)
class Outside:
    """What lay outside the database before the snapshot was taken."""

    names: tuple[str, ...] = ()
    """Published files below `tile/`."""
    checkpoint: str | None = None
    kept: Kept | CounterfoilError | None = None
    """What the second place held, or why it could not be read."""

    @classmethod
    def look(cls, files: PublishedFiles | None, second_place: SecondPlace | None) -> Self:
        """Read everything once."""
        return cls(
            names=() if files is None else tuple(files.names()),
            checkpoint=None if files is None else files.checkpoint(),
            kept=None if second_place is None else _kept(second_place),
        )


def _kept(second_place: SecondPlace) -> Kept | CounterfoilError | None:
    try:
        second_place.check_running()
        return second_place.read()
    except CounterfoilError as error:
        return error


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
    connection: Connection, tree: _Tree, identify: Identify | None
) -> Iterator[Finding]:
    """Walk the entries in order and compare every tile that they complete."""
    for expected, (index, entry, issuer, number) in enumerate(_entries(connection)):
        if index != expected:
            yield Finding(f"log_entries[index={index}]", f"stands where {expected} should")
            break
        said = identify(index, entry) if identify else None
        if said is not None and said != (issuer, number):
            yield Finding(
                f"log_entries[index={index}]", "issuer and issuer_seq are not the statement's"
            )
        for tile, data in tree.add(entry):
            yield from _compare_tile(connection, tile, data)
    for tile, data in tree.flush():
        yield from _compare_tile(connection, tile, data)


def _entries(connection: Connection) -> Iterator[tuple[int, bytes, bytes, int | None]]:
    """Yield (index, entry, issuer, number) in order of the index, a page at a time."""
    after = -1
    while True:
        page = connection.execute(
            text(
                "SELECT index, entry, issuer, issuer_seq FROM log_entries"
                " WHERE index > :after ORDER BY index LIMIT :limit"
            ),
            {"after": after, "limit": _CHUNK},
        ).all()
        for index, entry, issuer, number in page:
            yield index, bytes(entry), bytes(issuer), number
        if len(page) < _CHUNK:
            return
        after = page[-1][0]


def _check_keys(connection: Connection) -> Iterator[Finding]:
    """Check that every key is there once, and that the issuers' counts are those of the entries."""
    twice = text(
        "SELECT min(index), max(index) FROM log_entries GROUP BY entry HAVING count(*) > 1"
        " UNION SELECT min(index), max(index) FROM log_entries WHERE issuer_seq IS NOT NULL"
        " GROUP BY issuer, issuer_seq HAVING count(*) > 1 ORDER BY 1"
    )
    for first, second in connection.execute(twice):
        yield Finding(f"log_entries[index={second}]", f"has the entry or the number of {first}")
    counts = text(
        "SELECT coalesce(i.issuer, e.issuer), i.highest, e.highest, i.held, e.held"
        " FROM log_issuers i FULL JOIN"
        " (SELECT issuer, max(issuer_seq) AS highest, count(*) AS held FROM log_entries"
        " WHERE issuer_seq IS NOT NULL GROUP BY issuer) e ON i.issuer = e.issuer"
        " WHERE i.highest IS DISTINCT FROM e.highest OR i.held IS DISTINCT FROM e.held"
    )
    for issuer, highest, real_highest, held, real_held in connection.execute(counts):
        place = f"log_issuers[issuer={bytes(issuer).hex()}]"
        if highest != real_highest:
            yield Finding(f"{place}.highest", f"is {highest}, the entries say {real_highest}")
        if held != real_held:
            yield Finding(f"{place}.held", f"is {held}, the entries say {real_held}")


def _compare_tile(connection: Connection, tile: Tile, data: bytes) -> Iterator[Finding]:
    """Compare a full tile's row."""
    place = f"log_tiles[level={tile.level}, index={tile.index}]"
    root = connection.execute(
        text("SELECT root FROM log_tiles WHERE level = :level AND index = :index"),
        {"level": tile.level, "index": tile.index},
    ).scalar_one_or_none()
    if root is None:
        yield Finding(place, "missing")
    elif bytes(root) != complete_root(split_hashes(data)):
        yield Finding(f"{place}.root", "is not the root of the entries below it")


def _check_tile_rows(connection: Connection, tree: _Tree) -> Iterator[Finding]:
    """Find tiles beyond the tree."""
    for level, index in connection.execute(text("SELECT level, index FROM log_tiles")):
        if width_at(level, index, tree.edge.size) < TILE_WIDTH:
            yield Finding(f"log_tiles[level={level}, index={index}]", "is not full in the tree")


def _check_state(connection: Connection, tree: _Tree, rows: Sequence[_Row]) -> Iterator[Finding]:
    state = connection.execute(text("SELECT size, root FROM log_state")).one_or_none()
    if state is None:
        if tree.edge.size or rows:
            yield Finding("log_state", "the row is missing")
        return
    size, root = state
    if size != tree.edge.size:
        yield Finding("log_state.size", f"is {size}, but there are {tree.edge.size} entries")
    if bytes(root) != tree.edge.root():
        yield Finding("log_state.root", "is not the root of the entries")


def _checkpoint_rows(connection: Connection) -> list[_Row]:
    rows = connection.execute(
        text(
            "SELECT size, root, intent_at, note, cosigned_note, published_at"
            " FROM log_checkpoints ORDER BY size"
        )
    )
    return [_Row(size, bytes(root), *rest) for size, root, *rest in rows]


def _check_checkpoint(row: _Row, tree: _Tree, policy: Policy, *, newest: bool) -> Iterator[Finding]:
    expected = tree.roots.get(row.size)
    if expected is None:
        yield Finding(row.place, "is larger than the tree")
    elif row.root != expected:
        yield Finding(f"{row.place}.root", "is not the root of the entries at its size")
    if row.published_at is None and not newest:
        yield Finding(row.place, "was never published, though a larger one follows")
    if row.published_at is not None and row.published_at < row.intent_at:
        yield Finding(row.place, "was published before it was intended")
    for column, note in (("note", row.note), ("cosigned_note", row.cosigned)):
        if note is None:
            continue
        try:
            if column == "note":
                checkpoint, _ = parse_and_verify(note, policy.logs)
            else:
                checkpoint = verify_witnessed(note, policy).checkpoint
        except CounterfoilError as e:
            yield Finding(f"{row.place}.{column}", e.detail)
            continue
        if (checkpoint.size, checkpoint.root) != (row.size, row.root):
            yield Finding(f"{row.place}.{column}", "is a checkpoint of another tree")
    if row.note and row.cosigned and not row.cosigned.startswith(row.note):
        yield Finding(f"{row.place}.cosigned_note", "does not begin with the note that was signed")


def _check_files(
    connection: Connection, files: PublishedFiles, rows: Sequence[_Row], before: Outside
) -> Iterator[Finding]:
    """Compare every published file with the tables."""
    size = max((row.size for row in rows if row.published_at is not None), default=0)
    for tile in files_grown(0, size):
        yield from _compare_file(connection, files, tile)
    for name in before.names:
        try:
            tile = parse_tile_path(name)
        except CounterfoilError:
            yield Finding(name, "is no file of this log")
            continue
        if tile.width != width_at(tile.level, tile.index, size):  # else it was compared above
            yield from _compare_file(connection, files, tile, stray=True)


def _check_checkpoint_file(
    files: PublishedFiles, rows: Sequence[_Row], before: Outside, policy: Policy
) -> Iterator[Finding]:
    """Compare the checkpoint file with the newest checkpoint of the tables."""
    published = [row for row in rows if row.published_at is not None]
    # A crash between the checkpoint file and the mark leaves the file one step ahead of the table.
    allowed = [published[-1].cosigned if published else None]
    allowed += [row.cosigned for row in rows[-1:] if row.cosigned is not None]
    now = files.checkpoint()
    if now in allowed:
        return
    known = before.checkpoint is None or before.checkpoint in {row.cosigned for row in rows}
    if now == before.checkpoint or not known or now is None or not _is_newer(now, rows, policy):
        yield Finding(CHECKPOINT, "is not the newest published checkpoint")


def _is_newer(note: str, rows: Sequence[_Row], policy: Policy) -> bool:
    """Tell whether a note is a witnessed checkpoint that can have come after the snapshot."""
    try:
        checkpoint = verify_witnessed(note, policy).checkpoint
    except CounterfoilError:
        return False
    newest = rows[-1] if rows else None
    if newest is None or checkpoint.size > newest.size:
        return True
    return newest.cosigned is None and (checkpoint.size, checkpoint.root) == (
        newest.size,
        newest.root,
    )


def _compare_file(
    connection: Connection, files: PublishedFiles, tile: Tile, *, stray: bool = False
) -> Iterator[Finding]:
    """Compare one file with the tables. `stray`: it was found in its place, under its own name."""
    try:
        data = files.stored(tile) if stray else files.read(tile)
    except CounterfoilError as e:
        if e.code is Code.UNAVAILABLE:
            raise
        yield Finding(tile.path, "missing" if e.code is Code.NOT_FOUND else e.detail)
        return
    if data is None:
        return  # a partial file that has become full and was dropped since it was listed
    try:
        expected = read_file(connection, tile)
    except CounterfoilError as e:
        yield Finding(tile.path, f"cannot be compared: {e.detail}")
        return
    if data != expected:
        yield Finding(tile.path, "differs from the tables")


def _check_second_place(
    second_place: SecondPlace, rows: Sequence[_Row], before: Outside, tree: _Tree
) -> Iterator[Finding]:
    place = "second place"
    signed = [row for row in rows if row.note is not None]
    now = _kept(second_place)
    for kept in (before.kept, now):
        if isinstance(kept, CounterfoilError):
            yield Finding(place, kept.detail)
            return
    if now is None or isinstance(now, CounterfoilError):
        if signed:
            yield Finding(place, "is empty, though checkpoints were signed")
        return
    by_size = {row.size: row for row in rows}
    for kept in (before.kept, now):
        if kept is None or isinstance(kept, CounterfoilError):
            continue
        if kept is now and now != before.kept:
            continue  # signed after the snapshot
        row = by_size.get(kept[0].size)
        if tree.roots.get(kept[0].size) != kept[0].root:
            problem = f"holds a checkpoint at {kept[0].size} that the database lacks"
        elif row is not None and row.note is not None and row.note != kept[1]:
            problem = "holds another note than the database"
        else:
            continue
        yield Finding(place, problem)
        return
    if signed and signed[-1].size > now[0].size:
        yield Finding(place, "is older than the newest signed checkpoint")
