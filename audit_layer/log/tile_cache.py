"""Tiles in memory, for making proofs: under its name, which includes its width, a tile never changes.

Most proofs of one checkpoint end in the same few tiles, including the partial ones of the tree's right edge. The inner
nodes are kept, since hashing them costs more than reading the file.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.translog.tiles import Nodes, Tile, tile_nodes

DEFAULT_TILES: Final = 1024
"""About 40 MB; more than all higher levels of a log of fifty million entries."""


class TileCache:
    """Keeps the most recently used tiles, up to `max_tiles`. Thread-safe."""

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
        """Forget everything: what was fetched proved wrong."""
        with self._mutex:
            self._held.clear()
