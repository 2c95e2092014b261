"""Recomputes a tree from its entries. Pure."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.runtime.errors import CounterfoilError
from shared.translog.tiles import (
    TILE_WIDTH,
    Tile,
    TreeEdge,
    decode_bundle,
    right_edge,
    split_hashes,
    width_at,
)
from shared.translog.tree import leaf_hash

CHUNK_BUNDLES: Final = 16
"""Entry bundles per step: 4,096 entries."""


class Walk:
    """A tree that grows by entry bundles; knows what every tile must hold."""

    def __init__(self, size: int = 0, edge: Mapping[int, bytes] | None = None) -> None:
        """Begin at a size whose partial tiles are known; CORRUPT when the edge is not one of that size."""
        self.edge = dict(edge or {})
        self._tree = TreeEdge.load(size, lambda tile: self.edge.get(tile.level, b""))

    @property
    def size(self) -> int:
        """Number of entries appended."""
        return self._tree.size

    def root(self) -> bytes:
        """Return the root at the current size."""
        return self._tree.root()

    def bundles(self, target: int) -> list[Tile]:
        """Return the next entry bundles on the way to `target`, each as wide as it is at that size."""
        first, end = self.size // TILE_WIDTH, -(-target // TILE_WIDTH)
        wanted = (Tile(-1, at, width_at(0, at, target)) for at in range(first, end))
        return list(islice(wanted, CHUNK_BUNDLES)) if self.size < target else []

    def take(self, served: Sequence[tuple[Tile, bytes]]) -> list[tuple[Tile, bytes]]:
        """Append what entry bundles hold; return the tiles that this fills, as they must be served.

        Raises FoundError for an entry bundle that cannot be one, or that changes entries appended earlier.
        """
        leaves: list[bytes] = []
        for tile, data in served:
            try:
                hashes = [leaf_hash(entry) for entry in decode_bundle(data, tile.width)]
            except CounterfoilError as error:
                raise FoundError(damaged(tile, error.detail, self.size)) from error
            known = self.size + len(leaves) - tile.index * TILE_WIDTH
            if known and hashes[:known] != split_hashes(self.edge[0]):
                raise FoundError(
                    damaged(tile, "its entries differ from those served before", self.size)
                )
            leaves += hashes[known:]
        touched = self._tree.extend(leaves)
        for tile, data in touched:
            if tile.is_partial:
                self.edge[tile.level] = data
            else:
                self.edge.pop(tile.level, None)
        return [(tile, data) for tile, data in touched if not tile.is_partial]

    def partials(self) -> list[tuple[Tile, bytes]]:
        """Return the partial tiles at the current size, as they must be served."""
        return [(tile, self.edge[tile.level]) for tile in right_edge(self.size)]


def damaged(tile: Tile, reason: str, verified_size: int) -> Finding:
    """Return the finding about one file."""
    return Finding(
        Kind.DAMAGE, f"{tile.path} after {verified_size}", f"{tile.path} is damaged: {reason}"
    )


def missing(tile: Tile, verified_size: int) -> Finding:
    """Return the finding about a missing file."""
    return Finding(
        Kind.MISSING,
        f"{tile.path} after {verified_size}",
        f"{tile.path} belongs to the checkpoint but is not served",
    )
