"""Tiles in memory, for whoever proves: under its name, which says its width, a tile never changes.

Most proofs of one checkpoint end in the same few tiles, the partial ones of the tree's right edge among them. Kept are the
nodes inside, since hashing them costs more than reading the file.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.translog.tiles import Nodes, Tile, tile_nodes

DEFAULT_TILES: Final = 1024
"""About 40 MB; more than all higher levels of a log of fifty million entries."""


class TileCache:
    """Remembers the tiles that were used last, up to `max_tiles`. May be used by many threads."""

    def __init__(self, fetch: Callable[[Tile], bytes], *, max_tiles: int = DEFAULT_TILES) -> None:
        self._fetch = fetch
        self._max_tiles = max_tiles
        self._held: OrderedDict[Tile, Nodes] = OrderedDict()
        self._mutex = threading.Lock()

    def __call__(self, tile: Tile) -> Nodes:
        """Return a tile's nodes; raises what `fetch` raises, and CORRUPT."""
        with self._mutex:
            held = self._held.get(tile)
            if held is not None:
                self._held.move_to_end(tile)
                return held
        nodes = tile_nodes(tile, self._fetch(tile))
        with self._mutex:
            self._held[tile] = nodes
            while len(self._held) > self._max_tiles:
                self._held.popitem(last=False)
        return nodes

    def clear(self) -> None:
        """Forget everything: what was fetched turned out to be wrong."""
        with self._mutex:
            self._held.clear()
