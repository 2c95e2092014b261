"""`fsck`: recompute everything that can be recomputed from the entries, and name what differs.

Checked are the entries (dense, unique, each as long as it must be), every tile, the state row,
every checkpoint with its signatures, the published files byte by byte, and the second place. A
caller who holds the signed statements passes `identify`, so that the columns that come from them
are compared too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import Connection, Engine, text

from audit_layer.log.files import CHECKPOINT, PublishedFiles
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.tile_table import read_file
from audit_layer.storage.engine import unavailable_when_down
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import Policy, verify_witnessed
from shared.translog.signed_checkpoint import parse_and_verify
from shared.translog.tiles import TILE_WIDTH, Tile, TreeEdge, files_grown, parse_tile_path, width_at
from shared.translog.tree import EMPTY_ROOT, leaf_hash

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

    Entries are read once, in order, in bounded memory. Files that a running publisher writes
    during the check can be newer than the snapshot: a finding about the newest file of a busy log
    is worth a second look.
    """
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    with unavailable_when_down(), snapshot.connect() as connection:
        return check(
            connection, policy=policy, files=files, second_place=second_place, identify=identify
        )


def check(
    connection: Connection,
    *,
    policy: Policy,
    files: PublishedFiles | None = None,
    second_place: SecondPlace | None = None,
    identify: Identify | None = None,
) -> list[Finding]:
    """Run `fsck` on an open connection, which should see one snapshot throughout."""
    rows = _checkpoint_rows(connection)
    tree = _Tree({row.size for row in rows})
    findings = list(_check_entries(connection, tree, identify))
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
        findings += _check_files(connection, files, rows)
    if second_place is not None:
        findings += _check_second_place(second_place, rows)
    return findings


class _Tree:
    """The tree as the entries say it is."""

    def __init__(self, stops: set[int]) -> None:
        self.edge = TreeEdge()
        self.roots = {0: EMPTY_ROOT}
        self.open: dict[tuple[int, int], bytes] = {}
        """Tiles on the right edge."""
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
            self.open[tile.level, tile.index] = data
            if not tile.is_partial:
                yield tile, self.open.pop((tile.level, tile.index))
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
    for (level, at), data in sorted(tree.open.items()):
        yield from _compare_tile(connection, Tile(level, at, len(data) // 32), data)


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


def _compare_tile(connection: Connection, tile: Tile, data: bytes) -> Iterator[Finding]:
    place = f"log_tiles[level={tile.level}, index={tile.index}]"
    row = connection.execute(
        text("SELECT width, hashes FROM log_tiles WHERE level = :level AND index = :index"),
        {"level": tile.level, "index": tile.index},
    ).one_or_none()
    if row is None:
        yield Finding(place, "missing")
    elif (row[0], bytes(row[1])) != (tile.width, data):
        yield Finding(place, "does not hold the hashes of the entries below it")


def _check_tile_rows(connection: Connection, tree: _Tree) -> Iterator[Finding]:
    """Find tiles beyond the tree."""
    for level, index in connection.execute(text("SELECT level, index FROM log_tiles")):
        if index * TILE_WIDTH >= tree.edge.size >> (8 * level):
            yield Finding(f"log_tiles[level={level}, index={index}]", "lies beyond the tree")


def _check_state(connection: Connection, tree: _Tree, rows: Sequence[_Row]) -> Iterator[Finding]:
    state = connection.execute(text("SELECT size, root, signed_size FROM log_state")).one_or_none()
    if state is None:
        if tree.edge.size or rows:
            yield Finding("log_state", "the row is missing")
        return
    size, root, signed_size = state
    if size != tree.edge.size:
        yield Finding("log_state.size", f"is {size}, but there are {tree.edge.size} entries")
    if bytes(root) != tree.edge.root():
        yield Finding("log_state.root", "is not the root of the entries")
    if signed_size != (rows[-1].size if rows else 0):
        yield Finding("log_state.signed_size", "is not the size of the newest checkpoint")


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
    connection: Connection, files: PublishedFiles, rows: Sequence[_Row]
) -> Iterator[Finding]:
    """Compare every published file with the tables, and the tables' newest checkpoint with its file."""
    published = [row for row in rows if row.published_at is not None]
    size = published[-1].size if published else 0
    for tile in files_grown(0, size):
        yield from _compare_file(connection, files, tile)
    for path in sorted(files.root.glob("tile/**/*")):
        name = path.relative_to(files.root).as_posix()
        if path.is_dir() or path.name.startswith("."):
            continue
        try:
            tile = parse_tile_path(name)
        except CounterfoilError:
            yield Finding(name, "is no file of this log")
            continue
        if tile.width != width_at(tile.level, tile.index, size):  # else it was compared above
            yield from _compare_file(connection, files, tile, stray=True)
    # A crash between the checkpoint file and the mark leaves the file one step ahead of the table.
    allowed = [published[-1].cosigned if published else None]
    allowed += [row.cosigned for row in rows[-1:] if row.cosigned is not None]
    if files.checkpoint() not in allowed:
        yield Finding(CHECKPOINT, "is not the newest published checkpoint")


def _compare_file(
    connection: Connection, files: PublishedFiles, tile: Tile, *, stray: bool = False
) -> Iterator[Finding]:
    """Compare one file with the tables. `stray`: it was found in the folder, under its own name."""
    try:
        data = (files.root / tile.path).read_bytes() if stray else files.read(tile)
    except CounterfoilError as e:
        yield Finding(tile.path, "missing" if e.code is Code.NOT_FOUND else e.detail)
        return
    try:
        expected = read_file(connection, tile)
    except CounterfoilError as e:
        yield Finding(tile.path, f"cannot be compared: {e.detail}")
        return
    if data != expected:
        yield Finding(tile.path, "differs from the tables")


def _check_second_place(second_place: SecondPlace, rows: Sequence[_Row]) -> Iterator[Finding]:
    place = "second place"
    signed = [row for row in rows if row.note is not None]
    try:
        second_place.check_running()
        kept = second_place.read()
    except CounterfoilError as e:
        yield Finding(place, e.detail)
        return
    if kept is None:
        if signed:
            yield Finding(place, "is empty, though checkpoints were signed")
        return
    by_size: dict[int, _Row] = {row.size: row for row in rows}
    checkpoint: Checkpoint = kept[0]
    row = by_size.get(checkpoint.size)
    if row is None or row.root != checkpoint.root:
        yield Finding(place, f"holds a checkpoint at {checkpoint.size} that the database lacks")
    elif signed and signed[-1].size > checkpoint.size:
        yield Finding(place, "is older than the newest signed checkpoint")
    elif row.note is not None and row.note != kept[1]:
        yield Finding(place, "holds another note than the database")
