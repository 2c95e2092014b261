"""The weights root: a second tree over a checkpoint, with a leaf for every row of every tensor (protocol §10.1).

Its first leaf is the model root, so whoever pins it has pinned both. A row is what one index of a tensor's first dimension
selects; a tensor of one dimension or none is one row.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.rules import Count, Octets, Text
from shared.statements.schema import Bytes32, Record, Uint
from shared.translog.proofs import root_from_inclusion
from shared.translog.tree import leaf_hash, root

MAX_ROW: Final = 2**20
"""Bytes of the longest row that is opened."""
MAX_PATH: Final = 63
ITEM_BYTES: Final = {"BF16": 2, "F16": 2, "F32": 4}
"""By safetensors' names of the types that a served checkpoint may have."""


def row_entry(data: bytes | memoryview) -> bytes:
    """Return the leaf entry of one row."""
    return labelled_hash("tensor-row", bytes(data))


def rows_of(shape: Sequence[int]) -> int:
    """Return how many rows a tensor has."""
    return shape[0] if len(shape) > 1 else 1


def tensor_entry(name: str, dtype: str, shape: Sequence[int], rows_root: bytes) -> bytes:
    """Return the leaf entry of a tensor whose rows have this root."""
    lengths = b"".join(struct.pack(">Q", length) for length in shape)
    return labelled_hash("tensor-rows", name.encode(), dtype.encode(), lengths, rows_root)


def weights_root(model_root: bytes, entries: Sequence[bytes]) -> bytes:
    """Return the root over the model root and the tensors' entries, in order of their names."""
    return root([leaf_hash(model_root), *map(leaf_hash, entries)])


@dataclass(frozen=True, slots=True)
class WeightRow(Record):
    """One row of a tensor, with what leads from it to the weights root."""

    tensor: Annotated[str, Text(256, 1)]
    dtype: Annotated[str, Text(8, 1)]
    """As safetensors names it."""
    row: Uint
    data: Annotated[bytes, Octets(MAX_ROW)]
    rows_path: Annotated[tuple[Bytes32, ...], Count(0, MAX_PATH)]
    index: Uint
    """Of the tensor's leaf; the model root's is 0."""
    size: Uint
    """Of the tree. It need not be true: a leaf entry is bound to its tensor's name, and no inner node is a leaf."""
    path: Annotated[tuple[Bytes32, ...], Count(0, MAX_PATH)]

    def check_under(self, root: bytes, shape: Sequence[int]) -> None:
        """Raise MALFORMED or BAD_PROOF unless this is the row of a tensor of that shape under a weights root."""
        item = ITEM_BYTES.get(self.dtype)
        expected = math.prod(shape[1:] if len(shape) > 1 else shape) * (item or 0)
        if item is None or len(self.data) != expected:
            raise CounterfoilError(
                Code.MALFORMED, f"the row of {self.tensor[:80]!r} has not the bytes of its shape"
            )
        leaf = leaf_hash(row_entry(self.data))
        rows = root_from_inclusion(leaf, self.row, rows_of(shape), self.rows_path)
        entry = leaf_hash(tensor_entry(self.tensor, self.dtype, shape, rows))
        if root_from_inclusion(entry, self.index, self.size, self.path) != root:
            raise CounterfoilError(
                Code.BAD_PROOF,
                f"row {self.row} of {self.tensor[:80]!r} is not under the weights root",
            )
