"""The Merkle tree over a billing period's lines (protocol §8.6), for paths to some of them. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from shared.statements.periods import period_line
from shared.translog.proofs import inclusion_proof, root_at
from shared.translog.tree import leaf_hash, node_hash

HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Placed:
    """A receipt's line in the tree."""

    net: int
    index: int
    path: tuple[bytes, ...]


def paths_in(
    lines: Iterable[tuple[bytes, int]], wanted: Collection[bytes]
) -> tuple[bytes, dict[bytes, Placed]]:
    """Return the root over lines (receipt, net), which are in order of log index, and the lines of wanted receipts.

    Hashes are kept packed, 64 bytes for each line.
    """
    rows, found = [bytearray()], list[tuple[bytes, int, int]]()
    size = 0
    for receipt, net in lines:
        rows[0] += leaf_hash(period_line(receipt, net))
        if receipt in wanted:
            found.append((receipt, net, size))
        size += 1
    while len(rows[-1]) > HASH:
        below, above = rows[-1], bytearray()
        for at in range(0, len(below) // (2 * HASH) * 2 * HASH, 2 * HASH):
            above += node_hash(
                bytes(below[at : at + HASH]), bytes(below[at + HASH : at + 2 * HASH])
            )
        rows.append(above)

    def lookup(level: int, index: int) -> bytes:
        return bytes(rows[level][index * HASH : (index + 1) * HASH])

    placed = {
        receipt: Placed(net, index, tuple(inclusion_proof(index, size, lookup)))
        for receipt, net, index in found
    }
    return root_at(size, lookup), placed
