"""Tiles: the tree cut into immutable files of up to 256 hashes (C2SP tlog-tiles).

The tile (level l, index n) holds the hashes of the nodes (8·l, 256·n) … (8·l, 256·n+255); a
*partial* tile holds the first `width` of them. An *entry bundle* holds the entries below a
level-0 tile, each preceded by its length as a u16. A partial tile's bytes are a prefix of the full
tile's; the same holds for entry bundles.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tree import EMPTY_ROOT, HASH_BYTES, complete_root, fold_right, node_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_LEVEL = 7
"""Tile levels that a tree of fewer than 2^63 leaves can have."""
ENTRY_RECORD_BYTES = 2 + HASH_BYTES

_PATH = re.compile(
    r"tile/(?P<kind>entries|[0-9]|[1-5][0-9]|6[0-3])/"
    r"(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Coordinates of one file; `level` -1 is the entry bundle over the level-0 tile `index`."""

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not -1 <= self.level <= 63 or self.index < 0 or not 1 <= self.width <= TILE_WIDTH:
            raise CounterfoilError(Code.MALFORMED, f"there is no tile {self.level}/{self.index}")

    @property
    def is_bundle(self) -> bool:
        """Whether this is an entry bundle."""
        return self.level < 0

    @property
    def is_partial(self) -> bool:
        """Whether it holds fewer than 256 hashes."""
        return self.width < TILE_WIDTH

    @property
    def byte_length(self) -> int:
        """Exact size of the file (entries are always 32 bytes long here)."""
        return self.width * (ENTRY_RECORD_BYTES if self.is_bundle else HASH_BYTES)

    def full(self) -> "Tile":
        """Return the full tile at the same position."""
        return Tile(self.level, self.index)

    @property
    def path(self) -> str:
        """Path below the log's prefix, e.g. `tile/0/x001/x234/067.p/5`."""
        rest, last = divmod(self.index, 1000)
        parts = [f"{last:03d}"]
        while rest:
            rest, part = divmod(rest, 1000)
            parts.insert(0, f"x{part:03d}")
        kind = "entries" if self.is_bundle else str(self.level)
        suffix = f".p/{self.width}" if self.is_partial else ""
        return f"tile/{kind}/{'/'.join(parts)}{suffix}"


def parse_tile_path(path: str) -> Tile:
    """Parse a path as `Tile.path` writes it; anything else is NOT_FOUND."""
    match = _PATH.fullmatch(path)
    if match:
        kind, width = match["kind"], int(match["width"] or TILE_WIDTH)
        index = int(match["index"].replace("x", "").replace("/", ""))
        if width <= TILE_WIDTH:
            tile = Tile(-1 if kind == "entries" else int(kind), index, width)
            if tile.path == path:
                return tile
    raise CounterfoilError(Code.NOT_FOUND, "no tile has that path")


def width_at(level: int, index: int, size: int) -> int:
    """Return how many hashes the tile holds in a tree of `size` leaves: 0 before it exists."""
    nodes = size >> (TILE_HEIGHT * max(level, 0))
    return min(max(nodes - index * TILE_WIDTH, 0), TILE_WIDTH)


def tiles_grown(old_size: int, new_size: int) -> Iterator[Tile]:
    """Yield the tiles, not entry bundles, that differ between two sizes, as they are at the new size."""
    for level in range(MAX_LEVEL + 1):
        old, new = old_size >> (TILE_HEIGHT * level), new_size >> (TILE_HEIGHT * level)
        if old == new:
            return
        for index in range(old // TILE_WIDTH, (new - 1) // TILE_WIDTH + 1):
            yield Tile(level, index, width_at(level, index, new_size))


def files_grown(old_size: int, new_size: int) -> Iterator[Tile]:
    """Yield every file, tile or entry bundle, that a log has at `new_size` but not at `old_size`."""
    for tile in tiles_grown(old_size, new_size):
        yield tile
        if tile.level == 0:
            yield Tile(-1, tile.index, tile.width)


def right_edge(size: int) -> list[Tile]:
    """Return the partial tiles of a tree, lowest level first: all that is needed to append."""
    edge = []
    for level in range(MAX_LEVEL + 1):
        nodes = size >> (TILE_HEIGHT * level)
        if nodes % TILE_WIDTH:
            edge.append(Tile(level, nodes // TILE_WIDTH, nodes % TILE_WIDTH))
    return edge


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the entry bundle of up to 256 entries."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Parse an entry bundle of exactly `width` entries of 32 bytes; otherwise MALFORMED."""
    if len(data) != width * ENTRY_RECORD_BYTES:
        raise CounterfoilError(
            Code.MALFORMED, f"an entry bundle of {width} entries cannot be {len(data)} bytes long"
        )
    entries = []
    for at in range(0, len(data), ENTRY_RECORD_BYTES):
        if int.from_bytes(data[at : at + 2], "big") != HASH_BYTES:
            raise CounterfoilError(
                Code.MALFORMED, "an entry in an entry bundle is not 32 bytes long"
            )
        entries.append(data[at + 2 : at + ENTRY_RECORD_BYTES])
    return entries


def split_hashes(data: bytes) -> list[bytes]:
    """Split a tile's bytes into hashes; MALFORMED if they are not 1 to 256 complete ones."""
    if not data or len(data) % HASH_BYTES or len(data) > TILE_WIDTH * HASH_BYTES:
        raise CounterfoilError(Code.MALFORMED, f"a tile cannot be {len(data)} bytes long")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


Nodes = Sequence[Sequence[bytes]]
"""The complete subtrees inside a tile: row h holds the roots over 2^h of its hashes."""


def tile_nodes(tile: Tile, data: bytes) -> Nodes:
    """Return the nodes of a tile whose bytes begin with `data`; CORRUPT if that is too short."""
    if len(data) < tile.byte_length:
        raise CounterfoilError(Code.CORRUPT, f"{tile.path} is only {len(data)} bytes long")
    rows = [split_hashes(data[: tile.byte_length])]
    while len(rows[-1]) > 1:
        below = rows[-1]
        rows.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return rows


class NodeReader:
    """Looks up nodes of a tree of `size` leaves in tiles whose nodes `source` supplies.

    Tiles are kept for the life of the reader, which is one request or one batch.
    """

    def __init__(self, size: int, source: Callable[[Tile], Nodes]) -> None:
        self._size = size
        self._source = source
        self._tiles: dict[tuple[int, int], Nodes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; BAD_PROOF if the tree has none there."""
        if not 0 < (index + 1) << level <= self._size:
            raise CounterfoilError(Code.BAD_PROOF, f"node {level}/{index} is not in the tree")
        tile_level, height = divmod(level, TILE_HEIGHT)
        at = index >> (TILE_HEIGHT - height)
        rows = self._tiles.get((tile_level, at))
        if rows is None:
            rows = self._source(Tile(tile_level, at, width_at(tile_level, at, self._size)))
            self._tiles[tile_level, at] = rows
        return rows[height][index - (at << (TILE_HEIGHT - height))]


class TileReader(NodeReader):
    """A reader of tiles that `fetch` supplies.

    `fetch(tile)` returns the tile's bytes, at least `tile.byte_length` of them (a wider tile begins
    with the narrower one).
    """

    def __init__(self, size: int, fetch: Callable[[Tile], bytes]) -> None:
        super().__init__(size, lambda tile: tile_nodes(tile, fetch(tile)))


class TreeEdge:
    """The right edge of a tree: append leaves, get the tiles that changed and the new root.

    `levels[l]` holds the hashes of the partial tile at level l (0 to 255 of them).
    """

    def __init__(self, size: int = 0, levels: Sequence[Sequence[bytes]] = ()) -> None:
        self.size = size
        self._levels: list[list[bytes]] = [list(hashes) for hashes in levels]

    @classmethod
    def load(cls, size: int, fetch: Callable[[Tile], bytes]) -> "TreeEdge":
        """Read the edge of a tree of `size` leaves from its tiles."""
        levels: list[list[bytes]] = []
        for tile in right_edge(size):
            data = fetch(tile)
            if len(data) < tile.byte_length:
                raise CounterfoilError(Code.CORRUPT, f"{tile.path} is only {len(data)} bytes long")
            levels.extend([] for _ in range(tile.level - len(levels)))
            levels.append(split_hashes(data[: tile.byte_length]))
        return cls(size, levels)

    def copy(self) -> "TreeEdge":
        """Return an independent copy, to be discarded if a transaction fails."""
        return TreeEdge(self.size, self._levels)

    @property
    def height(self) -> int:
        """How many levels of tiles there are."""
        return len(self._levels)

    def partial(self, level: int) -> list[bytes]:
        """Return the hashes of the partial tile at a level below `height`; empty if the tile is full."""
        return list(self._levels[level])

    def root(self) -> bytes:
        """Return the root at the current size."""
        folded: bytes | None = None
        for hashes in self._levels:
            folded = fold_right(hashes, folded)
        return folded or EMPTY_ROOT

    def extend(self, leaf_hashes: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Append leaf hashes; return each touched tile with its bytes at the new size."""
        touched: list[tuple[Tile, bytes]] = []
        carried = list(leaf_hashes)
        level = 0
        while carried:
            if level == len(self._levels):
                self._levels.append([])
            first = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            row = self._levels[level] + carried
            carried = []
            for offset in range(0, len(row), TILE_WIDTH):
                hashes = row[offset : offset + TILE_WIDTH]
                tile = Tile(level, first + offset // TILE_WIDTH, len(hashes))
                touched.append((tile, b"".join(hashes)))
                if not tile.is_partial:
                    carried.append(complete_root(hashes))
            self._levels[level] = row[len(row) - len(row) % TILE_WIDTH :]
            level += 1
        self.size += len(leaf_hashes)
        return touched
