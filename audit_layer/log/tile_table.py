"""Reading and writing the tree's tables: the state row, and the roots of full tiles.

A tile's hashes are derived: at level 0 from the entries, above from the roots of the 256 tiles below
each. So a tile is one short row, written once, and the only bulk that the log keeps is its entries.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import TILE_WIDTH, Tile, encode_bundle
from shared.translog.tree import EMPTY_ROOT, leaf_hash


def log_size(session: Connection | Session) -> int:
    """Return the log's size: the number of sequenced entries."""
    size = session.execute(text("SELECT size FROM log_state WHERE id = 1")).scalar_one_or_none()
    return int(size or 0)


def read_state(connection: Connection) -> tuple[int, bytes]:
    """Return (size, root), creating the row of an empty log on first use."""
    query = text("SELECT size, root FROM log_state WHERE id = 1")
    row = connection.execute(query).one_or_none()
    if row is None:
        connection.execute(
            text(
                "INSERT INTO log_state (id, size, root) VALUES (1, 0, :root) ON CONFLICT DO NOTHING"
            ),
            {"root": EMPTY_ROOT},
        )
        row = connection.execute(query).one()
    size, root = row
    return size, bytes(root)


def fetch_from(connection: Connection) -> Callable[[Tile], bytes]:
    """Return a tile source over the tables; CORRUPT if they lack part of what is asked for."""
    return lambda tile: read_file(connection, tile)


def add_tiles(connection: Connection, roots: Sequence[tuple[Tile, bytes]]) -> None:
    """Record the roots of newly full tiles."""
    if roots:
        connection.execute(
            text(
                "INSERT INTO log_tiles (level, index, root)"
                " SELECT * FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[]),"
                " CAST(:roots AS bytea[]))"
            ),
            {
                "levels": [tile.level for tile, _ in roots],
                "indexes": [tile.index for tile, _ in roots],
                "roots": [root for _, root in roots],
            },
        )


def read_file(connection: Connection, tile: Tile) -> bytes:
    """Return the bytes of a tile or entry bundle, from the tables; CORRUPT if they lack it."""
    first = tile.index * TILE_WIDTH
    if tile.is_bundle:
        data = encode_bundle(read_entries(connection, first, tile.width))
    elif tile.level == 0:
        data = b"".join(map(leaf_hash, read_entries(connection, first, tile.width)))
    else:
        roots = connection.execute(
            text(
                "SELECT root FROM log_tiles WHERE level = :level"
                " AND index >= :first AND index < :end ORDER BY index"
            ),
            {"level": tile.level - 1, "first": first, "end": first + tile.width},
        ).scalars()
        data = b"".join(bytes(root) for root in roots)
    if len(data) != tile.byte_length:
        raise CounterfoilError(
            Code.CORRUPT,
            f"the database has only part of {tile.path}",
            remedy="Run `counterfoil log fsck`.",
        )
    return data


def read_entries(connection: Connection, first: int, count: int) -> list[bytes]:
    """Return those of the entries [first, first + count) that exist, in order."""
    rows = connection.execute(
        text("SELECT entry FROM log_entries WHERE index >= :first AND index < :end ORDER BY index"),
        {"first": first, "end": first + count},
    ).scalars()
    return [bytes(entry) for entry in rows]
