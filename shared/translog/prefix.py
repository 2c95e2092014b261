"""Whether one tree begins with another: both roots from one set of complete subtrees. Pure.

A consistency proof shows that it does. Where it does not, these subtrees are the proof of that, for anybody who holds
both signed roots.
"""

from collections.abc import Iterator, Sequence

from shared.translog.proofs import NodeLookup
from shared.translog.tree import EMPTY_ROOT, fold_right, node_hash


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
