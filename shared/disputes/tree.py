"""Trees over a pass (protocol §10.3): hashes of chunks, rows, operators and segments, and openings of what is below them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from shared.codec.hashing import labelled_hash
from shared.disputes.layout import BYTES, CHUNK, Layout, Operator, Place
from shared.disputes.weights import MAX_PATH, MAX_ROW
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.rules import Count, Octets
from shared.statements.schema import Bytes32, Record, Uint
from shared.translog.proofs import NodeLookup, lookup_in, range_root, root_from_inclusion
from shared.translog.tree import leaf_hash, node_hash, root

Table = Sequence[bytes]
"""What an operator gave: the bytes of each of its rows."""
MAX_OPERATORS: Final = 32
Path = Annotated[tuple[Bytes32, ...], Count(0, MAX_PATH)]


def chunk_leaf(data: bytes) -> bytes:
    """Return the leaf hash of a chunk in its row's tree."""
    return leaf_hash(labelled_hash("trace-chunk", data))


def chunk_leaves(dtype: str, row: bytes) -> list[bytes]:
    """Return the leaf hashes of a row's chunks."""
    size = BYTES[dtype] * CHUNK
    return [chunk_leaf(row[at : at + size]) for at in range(0, len(row), size)]


def row_leaf(dtype: str, row: bytes) -> bytes:
    """Return the leaf hash of a row in its operator's tree."""
    return leaf_hash(root(chunk_leaves(dtype, row)))


def operator_root(dtype: str, rows: Table) -> bytes:
    """Return the root over an operator's rows."""
    return root([row_leaf(dtype, row) for row in rows])


def segment_leaf(committed: Sequence[bytes]) -> bytes:
    """Return the leaf hash of a segment, given the roots of the operators that it commits to."""
    return leaf_hash(labelled_hash("trace-segment", *committed))


def cut(first: int, last: int, ways: int) -> list[tuple[int, int]]:
    """Return the parts of [first, last) into which one step cuts it: at most `ways` subtrees of RFC 9162's tree."""
    parts = [(first, last)]
    for _ in range(ways.bit_length() - 1):
        parts = [half for part in parts for half in _halves(*part)]
    return parts


def joined(first: int, last: int, ways: int, hashes: Sequence[bytes]) -> bytes:
    """Return the hash of the subtree over [first, last), given those of the parts that `cut` returns."""
    return _joined(first, last, ways, iter(hashes))


def _joined(first: int, last: int, ways: int, hashes: Iterator[bytes]) -> bytes:
    if ways == 1 or last - first == 1:
        return next(hashes)
    (_, middle), _ = _halves(first, last)
    left = _joined(first, middle, ways // 2, hashes)
    return node_hash(left, _joined(middle, last, ways // 2, hashes))


def _halves(first: int, last: int) -> list[tuple[int, int]]:
    if last - first == 1:
        return [(first, last)]
    middle = first + (1 << ((last - first - 1).bit_length() - 1))
    return [(first, middle), (middle, last)]


def parts_of(leaves: Sequence[bytes], first: int, last: int, ways: int) -> tuple[bytes, ...]:
    """Return the hashes of the parts of [first, last) of a tree over leaf hashes."""
    lookup: NodeLookup = lookup_in(leaves)
    return tuple(range_root(start, end, lookup) for start, end in cut(first, last, ways))


@dataclass(frozen=True, slots=True)
class Opening(Record):
    """A row, or a chunk of one, with what leads to a party's root; without `segment` it is of the tokens."""

    operator: Uint
    row: Uint
    data: Annotated[bytes, Octets(MAX_ROW)]
    row_path: Path
    segment: Uint | None = None
    chunk: Uint | None = None
    """Absent for a whole row."""
    chunk_path: Path | None = None
    committed: Annotated[tuple[Bytes32, ...], Count(1, 4)] | None = None
    """Roots of the operators that the segment commits to; absent in the disputed segment, whose operators are all known."""
    path: Path | None = None
    """Of the segment."""

    def check(self) -> None:
        """Check that what belongs together is there."""
        self.require((self.chunk is None) == (self.chunk_path is None), "has a path to no chunk")
        self.require((self.committed is None) == (self.path is None), "has a path to no segment")

    def operator_root(self, found: Operator) -> bytes:
        """Return the root of the operator to which the data leads; MALFORMED or BAD_PROOF for what cannot be part of it."""
        if self.row >= len(found.widths):
            raise _refused("a row beyond the end")
        if self.chunk is None:
            expected = found.row_bytes(self.row)
        elif self.chunk < found.chunks(self.row):
            expected = found.chunk_bytes(self.row, self.chunk)
        else:
            raise _refused("a chunk beyond the end")
        if len(self.data) != expected:
            raise _refused(f"{len(self.data)} bytes of {found.name} instead of {expected}")
        if self.chunk is None or self.chunk_path is None:
            leaf = row_leaf(found.dtype, self.data)
        else:
            count = found.chunks(self.row)
            row = root_from_inclusion(chunk_leaf(self.data), self.chunk, count, self.chunk_path)
            leaf = leaf_hash(row)
        return root_from_inclusion(leaf, self.row, len(found.widths), self.row_path)

    def check_under(self, layout: Layout, root: bytes) -> Operator:
        """Raise MALFORMED or BAD_PROOF unless this is under the root of a pass; return whose data it is."""
        if self.segment is None or self.committed is None or self.path is None:
            raise _refused("an opening without its segment")
        if self.segment >= layout.segments:
            raise _refused("a segment beyond the end")
        operators, numbers = layout.operators(self.segment), layout.committed(self.segment)
        if len(self.committed) != len(numbers) or self.operator not in numbers:
            raise _refused("other operators than its segment commits to")
        found = operators[self.operator]
        own = self.committed[numbers.index(self.operator)]
        leaf = segment_leaf(self.committed)
        above = root_from_inclusion(leaf, self.segment, layout.segments, self.path)
        if self.operator_root(found) != own or above != root:
            raise CounterfoilError(Code.BAD_PROOF, f"{found.name} is not under its party's root")
        return found

    @property
    def last(self) -> Place:
        """The last element of what is opened, or something behind it in its row."""
        end = (1 << 62) if self.chunk is None else CHUNK * (self.chunk + 1) - 1
        return Place(self.segment or 0, self.operator, self.row, end)


def _refused(what: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"the opening has {what}")
