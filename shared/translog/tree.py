"""The Merkle tree of RFC 6962 §2.1 / RFC 9162 §2.1 over SHA-256.

A *log entry* is 32 bytes (the hash of a statement); its *leaf hash* is SHA-256(0x00 ‖ entry). Nodes
are addressed as (level, index): the node (l, i) is the root of the complete subtree over the leaves
[i·2^l, (i+1)·2^l). Every function is pure.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from shared.runtime.errors import Code, CounterfoilError

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
"""Largest tree size: sizes and indexes fit into a signed 64-bit integer everywhere."""

EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree without leaves (RFC 9162 §2.1.1: the hash of the empty string)."""


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry) for an entry of exactly 32 bytes; otherwise MALFORMED."""
    if len(entry) != HASH_BYTES:
        raise CounterfoilError(Code.MALFORMED, f"a log entry is 32 bytes long, not {len(entry)}")
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over 2^k node hashes of one level, k >= 0."""
    row = hashes
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def fold_right(hashes: Sequence[bytes], right: bytes | None) -> bytes | None:
    """Fold a run of sibling node hashes, left to right, in front of `right`.

    This is how a tree's root is computed from its right edge: the run is cut into complete subtrees,
    largest first, and each is placed to the left of everything after it. Returns None only for an
    empty run without `right`.
    """
    end = len(hashes)
    folded = right
    width = 1
    while end:
        if end & width:
            subtree = complete_root(hashes[end - width : end])
            folded = subtree if folded is None else node_hash(subtree, folded)
            end -= width
        width *= 2
    return folded


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash over leaf hashes; EMPTY_ROOT if there are none."""
    return fold_right(leaf_hashes, None) or EMPTY_ROOT


class Frontier:
    """The compact range [0, size): the roots of the complete subtrees on the left, largest first.

    Enough to append to a tree and to compute its root, in O(log n) memory.
    """

    __slots__ = ("_nodes", "_size")

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._size = 0
        self._nodes: list[bytes] = []
        for leaf in leaf_hashes:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """One hash per set bit of the size, largest subtree first."""
        return tuple(self._nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        node, carry = leaf, self._size
        while carry & 1:
            node = node_hash(self._nodes.pop(), node)
            carry >>= 1
        self._nodes.append(node)
        self._size += 1

    def root(self) -> bytes:
        """Return the root at the current size."""
        folded: bytes | None = None
        for node in reversed(self._nodes):
            folded = node if folded is None else node_hash(node, folded)
        return folded or EMPTY_ROOT
