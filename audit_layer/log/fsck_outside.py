"""The part of `fsck` that looks outside the database: the published files, byte by byte, and the second place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from sqlalchemy import Connection

from audit_layer.log.files import CHECKPOINT, PublishedFiles
from audit_layer.log.fsck_report import Difference, SavedCheckpoint
from audit_layer.log.republish import files_of
from audit_layer.log.second_place import Kept, SecondPlace
from audit_layer.log.tile_table import read_file
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.tiles import Tile, parse_tile_path, width_at


@dataclass(frozen=True, slots=True)
class Outside:
    """What was outside the database before the snapshot was taken."""

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


def check_files(
    connection: Connection, files: PublishedFiles, rows: Sequence[SavedCheckpoint], before: Outside
) -> Iterator[Difference]:
    """Compare every published file with the tables."""
    sizes = [row.size for row in rows if row.published_at is not None]
    size = max(sizes, default=0)
    for tile in files_of(sizes):
        yield from _compare_file(connection, files, tile)
    for name in before.names:
        try:
            tile = parse_tile_path(name)
        except CounterfoilError:
            yield Difference(name, "is not a file of this log")
            continue
        if tile.width != width_at(tile.level, tile.index, size):  # otherwise it was compared above
            yield from _compare_file(connection, files, tile, stray=True)


def check_checkpoint_file(
    files: PublishedFiles, rows: Sequence[SavedCheckpoint], before: Outside, policy: LogPolicy
) -> Iterator[Difference]:
    """Compare the checkpoint file with the newest checkpoint of the tables."""
    published = [row for row in rows if row.published_at is not None]
    # A crash between the checkpoint file and the mark leaves the file one step ahead of the table.
    allowed = [published[-1].cosigned if published else None]
    allowed += [row.cosigned for row in rows[-1:] if row.cosigned is not None]
    now = files.checkpoint()
    if now in allowed or (published and _is_cosigned_again(now, published[-1], policy)):
        return
    known = before.checkpoint is None or before.checkpoint in {row.cosigned for row in rows}
    if now == before.checkpoint or not known or now is None or not _is_newer(now, rows, policy):
        yield Difference(CHECKPOINT, "is not the newest published checkpoint")


def _is_cosigned_again(note: str | None, row: SavedCheckpoint, policy: LogPolicy) -> bool:
    """Return whether a note is the same tree's, cosigned later: a log at rest is cosigned again from time to time."""
    try:
        checkpoint = verify_witnessed(note or "", policy).checkpoint
    except CounterfoilError:
        return False
    return (checkpoint.size, checkpoint.root) == (row.size, row.root)


def _is_newer(note: str, rows: Sequence[SavedCheckpoint], policy: LogPolicy) -> bool:
    """Return whether a note is a witnessed checkpoint that may be newer than the snapshot."""
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
) -> Iterator[Difference]:
    """Compare one file with the tables. `stray`: it was found in its folder, under its own name."""
    try:
        data = files.stored(tile) if stray else files.read(tile)
    except CounterfoilError as e:
        if e.code is Code.UNAVAILABLE:
            raise
        yield Difference(tile.path, "missing" if e.code is Code.NOT_FOUND else e.detail)
        return
    if data is None:
        return  # a partial file that has become full and was dropped since it was listed
    try:
        expected = read_file(connection, tile)
    except CounterfoilError as e:
        yield Difference(tile.path, f"cannot be compared: {e.detail}")
        return
    if data != expected:
        yield Difference(tile.path, "differs from the tables")


def check_second_place(
    second_place: SecondPlace,
    rows: Sequence[SavedCheckpoint],
    before: Outside,
    roots: Mapping[int, bytes],
) -> Iterator[Difference]:
    """Compare the second place with the entries and the tables; `roots` are those of the entries by size."""
    place = "second place"
    signed = [row for row in rows if row.note is not None]
    now = _kept(second_place)
    for kept in (before.kept, now):
        if isinstance(kept, CounterfoilError):
            yield Difference(place, kept.detail)
            return
    if now is None or isinstance(now, CounterfoilError):
        if signed:
            yield Difference(place, "is empty, though checkpoints were signed")
        return
    by_size = {row.size: row for row in rows}
    for kept in (before.kept, now):
        if kept is None or isinstance(kept, CounterfoilError):
            continue
        if kept is now and now != before.kept:
            continue  # signed after the snapshot
        row = by_size.get(kept[0].size)
        if roots.get(kept[0].size) != kept[0].root:
            problem = f"holds a checkpoint at {kept[0].size} that the database lacks"
        elif row is not None and row.note is not None and row.note != kept[1]:
            problem = "holds a different note from the database's"
        else:
            continue
        yield Difference(place, problem)
        return
    if signed and signed[-1].size > now[0].size:
        yield Difference(place, "is older than the newest signed checkpoint")
