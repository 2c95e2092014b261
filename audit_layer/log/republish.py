"""Restores published files from the database when their folder or bucket was lost in whole or in part."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from sqlalchemy import Engine, text

from audit_layer.log.files import PublishedFiles
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.tile_table import read_file
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import TILE_WIDTH, Tile, files_grown, width_at


def files_of(sizes: Sequence[int]) -> Iterator[Tile]:
    """Yield every tile and entry bundle of a log that published these sizes, in ascending order.

    Partial files of earlier checkpoints are included unless a full one serves them.
    """
    if not sizes:
        return
    yield from files_grown(0, sizes[-1])
    for before, size in pairwise([0, *sizes[:-1]]):
        for tile in files_grown(before, size):
            if width_at(tile.level, tile.index, sizes[-1]) not in {tile.width, TILE_WIDTH}:
                yield tile


def republish(
    engine: Engine,
    files: PublishedFiles,
    second_place: SecondPlace,
    tick: Callable[[int, int], None],
) -> int:
    """Write the published log's missing files, the checkpoint last; return how many tiles and entry bundles were written.

    Existing files are compared, not replaced. `tick(done, of)` is called for each. Errors:
    CONFLICT while a server publishes, NOT_FOUND before the first checkpoint, CORRUPT for a file with
    other bytes than the tables hold (nothing further is written then), UNAVAILABLE.
    """
    with second_place.exclusively() as ours:
        if not ours:
            raise CounterfoilError(
                Code.CONFLICT,
                "a server is publishing this log right now",
                remedy="Stop the audit servers first.",
            )
        second_place.check_running()
        with transaction(engine, isolation="REPEATABLE READ") as connection:
            rows = connection.execute(
                text(
                    "SELECT size, cosigned_note FROM log_checkpoints"
                    " WHERE published_at IS NOT NULL ORDER BY size"
                )
            ).all()
            if not rows:
                raise CounterfoilError(Code.NOT_FOUND, "the log has published no checkpoint yet")
            wanted = list(files_of([size for size, _ in rows]))
            written = 0
            for done, tile in enumerate(wanted, start=1):
                written += files.stored(tile) is None
                files.write(tile, read_file(connection, tile))
                tick(done, len(wanted))
        files.write_checkpoint(rows[-1][1])
    return written
