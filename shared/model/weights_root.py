"""The weights root of a checkpoint in a folder (protocol §10.1), and the paths of its rows. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.disputes.weights import WeightRow, row_entry, rows_of, tensor_entry, weights_root
from shared.model.part_file import read_part
from shared.model.root import model_root
from shared.model.shards import open_shard, read_exactly, read_headers
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.proofs import inclusion_proof, lookup_in
from shared.translog.tree import Frontier, leaf_hash

RowsOf = Callable[[str], tuple[str, Sequence[int], Sequence[bytes]]]
"""By a tensor's name: its dtype, its shape, and the bytes of its rows."""


@dataclass(frozen=True, slots=True)
class WeightTree:
    """The tree over the tensors of one checkpoint; rows are read again where one is opened."""

    model_root: bytes
    entries: dict[str, bytes]
    """By name, in order of the names."""
    rows: RowsOf

    @property
    def root(self) -> bytes:
        """The weights root."""
        return weights_root(self.model_root, [*self.entries.values()])

    def open(self, tensor: str, row: int) -> WeightRow:
        """Return a row with its paths; KeyError where there is no such tensor."""
        leaves = [leaf_hash(self.model_root), *map(leaf_hash, self.entries.values())]
        index = 1 + [*self.entries].index(tensor)
        dtype, _, rows = self.rows(tensor)
        below = lookup_in([leaf_hash(row_entry(data)) for data in rows])
        return WeightRow(
            tensor,
            dtype,
            row,
            bytes(rows[row]),
            tuple(inclusion_proof(row, len(rows), below)),
            index,
            len(leaves),
            tuple(inclusion_proof(index, len(leaves), lookup_in(leaves))),
        )


def tree_of(model_root: bytes, names: Sequence[str], rows: RowsOf) -> WeightTree:
    """Return the tree over tensors that are at hand."""
    entries = {}
    for name in sorted(names):
        dtype, shape, data = rows(name)
        below = Frontier(leaf_hash(row_entry(row)) for row in data)
        entries[name] = tensor_entry(name, dtype, shape, below.root())
    return WeightTree(model_root, entries, rows)


def weight_tree(folder: Path) -> WeightTree:
    """Return the tree of a whole checkpoint, reading every byte twice, a tensor at a time.

    Errors as `model_root`, and CONFIGURATION for a part of a checkpoint.
    """
    if read_part(folder) is not None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{folder} holds a part of a checkpoint, and a weights root is over all tensors",
            remedy="Compute it where the whole checkpoint is.",
        )
    places = {
        name: (path, entry)
        for path, found in read_headers(folder).items()
        for name, entry in found.items()
    }

    def rows(name: str) -> tuple[str, Sequence[int], Sequence[bytes]]:
        path, entry = places[name]
        with open_shard(path) as file:
            data = memoryview(bytearray(entry.stop - entry.start))
            read_exactly(file, entry.start, data)
        size = max(1, len(data) // max(1, rows_of(entry.shape)))
        cut = [bytes(data[at : at + size]) for at in range(0, len(data), size)]
        return entry.dtype, entry.shape, cut

    return tree_of(model_root(folder), [*places], rows)
