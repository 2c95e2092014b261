"""Inclusion and consistency proofs (RFC 6962 §2.1.1-2.1.2, RFC 9162 §2.1.3-2.1.4).

Generation takes a `NodeLookup`, so that tiles, a database or a list can supply the nodes. Verification is
strict: every hash is 32 bytes long, every proof has exactly the length that its sizes dictate, and
nothing is tolerated that the generator would not produce.

A root alone does not determine how many leaves are below it: sizes come from a signed checkpoint, and
if two sizes give a path the same shape, a proof verifies under either.

The cases at size 0, which the RFCs leave open, are decided as follows:
- nothing is included in the empty tree: an index at or beyond the size is an error;
- the empty tree has one root, EMPTY_ROOT, and any other root claimed at size 0 is an error;
- every tree is consistent with the empty tree, by the empty proof (as in C2SP tlog-witness).
"""

from collections.abc import Callable, Sequence

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tree import EMPTY_ROOT, HASH_BYTES, MAX_SIZE, node_hash

NodeLookup = Callable[[int, int], bytes]
"""(level, index) -> hash of that complete subtree."""


def lookup_in(leaf_hashes: Sequence[bytes]) -> NodeLookup:
    """Return a lookup over a list of leaf hashes; for small trees and tests."""
    rows = [list(leaf_hashes)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)])
    return lambda level, index: rows[level][index]


def range_root(start: int, end: int, lookup: NodeLookup) -> bytes:
    """Return MTH(D[start:end]), not empty; `start` is a multiple of the range's first subtree."""
    parts: list[bytes] = []
    at = start
    while at < end:
        level = (end - at).bit_length() - 1
        parts.append(lookup(level, at >> level))
        at += 1 << level
    folded = parts.pop()
    while parts:
        folded = node_hash(parts.pop(), folded)
    return folded


def root_at(size: int, lookup: NodeLookup) -> bytes:
    """Return the root of the first `size` leaves."""
    _check_size(size, "size")
    return range_root(0, size, lookup) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, lookup: NodeLookup) -> list[bytes]:
    """Return PATH(index, D[size]), siblings from the leaf up; BAD_PROOF if out of bounds."""
    _check_size(size, "size")
    _check_index(index, size)
    start, end = 0, size
    path: list[bytes] = []
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            path.append(range_root(split, end, lookup))
            end = split
        else:
            path.append(range_root(start, split, lookup))
            start = split
    return path[::-1]


def consistency_proof(old_size: int, new_size: int, lookup: NodeLookup) -> list[bytes]:
    """Return PROOF(old_size, D[new_size]); empty when the sizes are equal or the old one is 0."""
    _check_size(old_size, "old size")
    _check_size(new_size, "new size")
    if old_size > new_size:
        raise _bad(f"the old size {old_size} is above the new size {new_size}")
    if old_size in (0, new_size):
        return []
    start, end = 0, new_size
    known = True  # the verifier already has the hash of [start, old_size)
    path: list[bytes] = []
    while old_size != end:
        split = start + _split(end - start)
        if old_size <= split:
            path.append(range_root(split, end, lookup))
            end = split
        else:
            path.append(range_root(start, split, lookup))
            start = split
            known = False
    if not known:
        path.append(range_root(start, end, lookup))
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root to which a leaf hash and its path lead; BAD_PROOF if a length is wrong."""
    _check_hash(leaf, "the leaf hash")
    _check_size(size, "size")
    _check_index(index, size)
    # Below `inner` levels the leaf and the last leaf have different ancestors: there every level
    # has a sibling. Above, only left siblings exist, one per set bit.
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    _check_path(proof, inner + border)
    node = leaf
    for level, sibling in enumerate(proof[:inner]):
        node = node_hash(sibling, node) if index >> level & 1 else node_hash(node, sibling)
    for sibling in proof[inner:]:
        node = node_hash(sibling, node)
    return node


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf is at `index` in the tree of `size` leaves; otherwise BAD_PROOF."""
    _check_hash(root, "the root")
    if root_from_inclusion(leaf, index, size, proof) != root:
        raise _bad(f"the path from index {index} does not lead to the root at size {size}")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the new tree extends the old one; otherwise BAD_PROOF."""
    _check_hash(old_root, "the old root")
    _check_hash(new_root, "the new root")
    _check_size(old_size, "old size")
    _check_size(new_size, "new size")
    if old_size > new_size:
        raise _bad(f"the old size {old_size} is above the new size {new_size}")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise _bad("the old root is not the root of the empty tree")
    if new_size == 0 and new_root != EMPTY_ROOT:
        raise _bad("the new root is not the root of the empty tree")
    if old_size in (0, new_size):
        _check_path(proof, 0)
        if old_size == new_size and old_root != new_root:
            raise _bad(f"two roots at the same size {old_size}")
        return
    _verify_growth(old_size, old_root, new_size, new_root, proof)


def _verify_growth(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify for 0 < old_size < new_size, along the path of the old tree's last leaf."""
    # The largest complete subtree that ends at old_size; above it, the path of its index is followed.
    shift = (old_size & -old_size).bit_length() - 1
    index = (old_size - 1) >> shift
    inner = (index ^ ((new_size - 1) >> shift)).bit_length()
    border = (index >> inner).bit_count()
    seeded = old_size == 1 << shift  # the old root is that subtree: the proof need not repeat it
    _check_path(proof, inner + border + (0 if seeded else 1))
    old = new = old_root if seeded else proof[0]
    rest = proof if seeded else proof[1:]
    for level, sibling in enumerate(rest[:inner]):
        if index >> level & 1:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    for sibling in rest[inner:]:
        old = node_hash(sibling, old)
        new = node_hash(sibling, new)
    if old != old_root:
        raise _bad(f"the proof does not lead to the old root at size {old_size}")
    if new != new_root:
        raise _bad(f"the proof does not lead to the new root at size {new_size}")


def _split(count: int) -> int:
    """Return the largest power of two below `count` (count > 1)."""
    return 1 << ((count - 1).bit_length() - 1)


def _bad(reason: str) -> CounterfoilError:
    return CounterfoilError(Code.BAD_PROOF, reason)


def _check_size(size: int, name: str) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise _bad(f"the {name} {size} is outside 0 … 2^63-1")


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise _bad(f"the index {index} is not in a tree of {size} leaves")


def _check_hash(value: bytes, name: str) -> None:
    if len(value) != HASH_BYTES:
        raise _bad(f"{name} is {len(value)} bytes long, not 32")


def _check_path(proof: Sequence[bytes], expected: int) -> None:
    if len(proof) != expected:
        raise _bad(f"the proof has {len(proof)} hashes, but the sizes require {expected}")
    for position, value in enumerate(proof):
        _check_hash(value, f"hash {position} of the proof")
