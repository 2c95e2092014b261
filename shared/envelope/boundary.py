"""Commitments to the states between two layers: a Merkle root over blocks of 32 positions (protocol §4.10.3)."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from shared.commitments.exact import COMMITMENT_BLOCK
from shared.envelope.stages import BoundarySecret
from shared.translog.tree import leaf_hash, root

ROW_HASH_BYTES: Final = 32


def row_hashes(states: bytes | memoryview, rows: int) -> list[bytes]:
    """Return the SHA-256 of each of `rows` states of equal length."""
    view = memoryview(states)
    size, rest = divmod(len(view), rows)
    assert rest == 0
    return [sha256(view[row * size : (row + 1) * size]).digest() for row in range(rows)]


def boundary_root(secret: BoundarySecret, rows: Sequence[bytes]) -> bytes:
    """Return the root that commits to a boundary, given the row hashes of positions 0, 1, …, of which there is one."""
    assert rows
    blocks = [
        sha256(b"".join(rows[first : first + COMMITMENT_BLOCK])).digest()
        for first in range(0, len(rows), COMMITMENT_BLOCK)
    ]
    return root([leaf_hash(secret.leaf(block, digest)) for block, digest in enumerate(blocks)])
