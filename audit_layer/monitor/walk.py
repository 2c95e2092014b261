"""Recomputes a tree from its entries, and shows where two trees diverge. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.runtime.errors import CounterfoilError
from shared.translog.proofs import NodeLookup
from shared.translog.tiles import (
    TILE_WIDTH,
    Tile,
    TreeEdge,
    decode_bundle,
    right_edge,
    split_hashes,
    width_at,
)
from shared.translog.tree import EMPTY_ROOT, fold_right, leaf_hash, node_hash

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


def roots_of(earlier: int, later: int, lookup: NodeLookup) -> tuple[bytes, bytes, dict[str, str]]:
    """Return the roots at two sizes computed from one set of complete subtrees, and these subtrees.

    When the second root is the one that a checkpoint signs, the subtrees are those of its tree, so the
    first root is the only one that the tree has at the earlier size.
    """
    nodes: dict[str, str] = {}
    stack: list[tuple[int, bytes]] = []
    first = EMPTY_ROOT
    for level, index in _subtrees(earlier, later):
        node = lookup(level, index)
        nodes[f"{level}/{index}"] = node.hex()
        height = level
        while stack and stack[-1][0] == height:
            node = node_hash(stack.pop()[1], node)
            height += 1
        stack.append((height, node))
        if (index + 1) << level == earlier:
            first = _fold(stack)
    return first, _fold(stack), nodes


def _subtrees(earlier: int, later: int) -> Iterator[tuple[int, int]]:
    """Yield, left to right, the largest complete subtrees that do not span the earlier size."""
    at = 0
    for end in (earlier, later):
        while at < end:
            aligned = (at & -at).bit_length() - 1 if at else 63
            level = min(aligned, (end - at).bit_length() - 1)
            yield level, at >> level
            at += 1 << level


def _fold(stack: Sequence[tuple[int, bytes]]) -> bytes:
    folded: bytes | None = None
    for _, node in reversed(stack):
        folded = fold_right([node], folded)
    return folded or EMPTY_ROOT
