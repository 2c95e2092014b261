"""Reading and writing the tree's tables: the state row and the tiles."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, text

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import Tile, encode_bundle
from shared.translog.tree import EMPTY_ROOT


def read_state(connection: Connection) -> tuple[int, bytes, int]:
    """Return (size, root, signed size), making the row of an empty log on first use."""
    query = text("SELECT size, root, signed_size FROM log_state WHERE id = 1")
    row = connection.execute(query).one_or_none()
    if row is None:
        connection.execute(
            text(
                "INSERT INTO log_state (id, size, root, signed_size)"
                " VALUES (1, 0, :root, 0) ON CONFLICT DO NOTHING"
            ),
            {"root": EMPTY_ROOT},
        )
        row = connection.execute(query).one()
    size, root, signed_size = row
    return size, bytes(root), signed_size


def fetch_from(connection: Connection) -> Callable[[Tile], bytes]:
    """Return a tile source over the table; tiles come as wide as they are. CORRUPT if missing."""

    def fetch(tile: Tile) -> bytes:
        hashes = connection.execute(
            text("SELECT hashes FROM log_tiles WHERE level = :level AND index = :index"),
            {"level": tile.level, "index": tile.index},
        ).scalar_one_or_none()
        if hashes is None:
            raise CounterfoilError(Code.CORRUPT, f"the database has no {tile.full().path}")
        return bytes(hashes)

    return fetch


def upsert_tiles(connection: Connection, tiles: Sequence[tuple[Tile, bytes]]) -> None:
    """Write tiles that grew. A tile never becomes narrower."""
    connection.execute(
        text(
            "INSERT INTO log_tiles (level, index, width, hashes)"
            " VALUES (:level, :index, :width, :hashes)"
            " ON CONFLICT (level, index) DO UPDATE"
            " SET width = excluded.width, hashes = excluded.hashes"
            " WHERE log_tiles.width < excluded.width"
        ),
        [
            {"level": tile.level, "index": tile.index, "width": tile.width, "hashes": hashes}
            for tile, hashes in tiles
        ],
    )


def read_file(connection: Connection, tile: Tile) -> bytes:
    """Return the bytes of a tile or entry bundle file, from the tables; CORRUPT if they lack it."""
    if not tile.is_bundle:
        data = fetch_from(connection)(tile)[: tile.byte_length]
    else:
        first = tile.index * 256
        rows = connection.execute(
            text(
                "SELECT entry FROM log_entries"
                " WHERE index >= :first AND index < :end ORDER BY index"
            ),
            {"first": first, "end": first + tile.width},
        ).scalars()
        data = encode_bundle([bytes(entry) for entry in rows])
    if len(data) != tile.byte_length:
        raise CounterfoilError(Code.CORRUPT, f"the tables hold only a part of {tile.path}")
    return data
