"""Where every element of a pass is (protocol §10.3): segments, their operators, rows, and chunks of elements.

Everything that an element is computed from lies before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from shared.disputes.claim import Claim, Definition, EndKind

BLOCK: Final = 32
"""Positions of a block."""
CHUNK: Final = 128
"""Elements of a chunk."""
BYTES: Final = {"bfloat16": 2, "float32": 4, "index": 4, "digest": 32}
"""Of an element of each type."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What one kind of operation gives: rows of elements of one type."""

    name: str
    dtype: str
    widths: Sequence[int]
    """Elements of each row; none is empty."""
    committed: bool = False
    """Whether the segment's own hash covers it."""

    def chunks(self, row: int) -> int:
        """Return how many chunks a row has."""
        return -(-self.widths[row] // CHUNK)

    def chunk_bytes(self, row: int, chunk: int) -> int:
        """Return the length of a chunk."""
        return BYTES[self.dtype] * (min(self.widths[row], CHUNK * (chunk + 1)) - CHUNK * chunk)

    def row_bytes(self, row: int) -> int:
        """Return the length of a row."""
        return BYTES[self.dtype] * self.widths[row]


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """One element."""

    segment: int
    operator: int
    row: int
    element: int


@dataclass(frozen=True)
class Layout:
    """The places of one claim's pass."""

    claim: Claim
    _known: dict[tuple[int, int], tuple[Operator, ...]] = field(default_factory=dict, compare=False)
    """By block and stage; all layers of a block have the same operators."""

    @property
    def definition(self) -> Definition:
        """The claim's."""
        return self.claim.definition

    @cached_property
    def stages(self) -> int:
        """Segments of one block: the embedding, the layers, the head."""
        return self.definition.layers + 2

    @cached_property
    def blocks(self) -> int:
        """How many blocks of positions there are."""
        return -(-self.claim.positions // BLOCK)

    @cached_property
    def segments(self) -> int:
        """How many segments there are; the last one holds the digests."""
        return self.blocks * self.stages + 1

    def at(self, block: int, stage: int) -> int:
        """Return a segment's number."""
        return block * self.stages + stage

    def split(self, segment: int) -> tuple[int, int]:
        """Return a segment's block and stage, of one that has them."""
        return divmod(segment, self.stages)

    def rows(self, block: int) -> int:
        """Return how many positions a block has."""
        return min(BLOCK, self.claim.positions - BLOCK * block)

    def drawn(self, block: int) -> range:
        """Return the positions of a block whose logits choose output tokens."""
        first = BLOCK * block
        return range(max(first, self.claim.prompt - 1), first + self.rows(block))

    def digests(self) -> list[range]:
        """Return the positions of each block of hidden states that a receipt commits to (§4.5)."""
        turn, end = self.claim.prompt - 1, self.claim.positions
        return [
            range(first, min(first + BLOCK, stop))
            for start, stop in ((0, turn), (turn, end))
            for first in range(start, stop, BLOCK)
        ]

    def operators(self, segment: int) -> tuple[Operator, ...]:
        """Return a segment's operators in their order."""
        block, stage = self.split(segment)
        key = (block, 1 if 0 < stage < self.stages - 1 else stage)
        if key not in self._known:
            self._known[key] = tuple(self._operators(segment))
        return self._known[key]

    def index(self, segment: int, name: str) -> int:
        """Return the number of an operator."""
        return next(i for i, found in enumerate(self.operators(segment)) if found.name == name)

    def committed(self, segment: int) -> list[int]:
        """Return the numbers of the operators that the segment's hash covers."""
        return [i for i, found in enumerate(self.operators(segment)) if found.committed]

    def seen(self, segment: int, row: int) -> range:
        """Return the positions that a row of attention sees."""
        block, stage = self.split(segment)
        position = BLOCK * block + row // self.definition.heads
        window = self.definition.windows[stage - 1]
        return range(max(0, position + 1 - window) if window else 0, position + 1)

    def choices(self, place: Place) -> range | None:
        """Return which indexes an element of type index can be; None for elements of other types."""
        operator = self.operators(place.segment)[place.operator]
        if operator.dtype != "index":
            return None
        if operator.name == "draws":
            return range(self.definition.vocab)
        return self.seen(place.segment, place.row)

    def tokens(self) -> Operator:
        """Return what the tokens are kept as: rows of a block's."""
        count = self.claim.prompt + self.claim.output
        widths = [min(BLOCK, count - at) for at in range(0, count, BLOCK)]
        return Operator("tokens", "index", widths)

    def end(self) -> Place:
        """Return where what the receipt says is."""
        if self.claim.kind is EndKind.DIGEST:
            return Place(self.segments - 1, 0, self.claim.index, 0)
        position = self.claim.prompt - 1 + self.claim.index
        block = position // BLOCK
        segment = self.at(block, self.stages - 1)
        return Place(segment, self.index(segment, "draws"), position - self.drawn(block)[0], 0)

    def _operators(self, segment: int) -> list[Operator]:
        if segment == self.segments - 1:
            return [Operator("digests", "digest", [1] * len(self.digests()), committed=True)]
        block, stage = self.split(segment)
        if stage == 0:
            widths = [self.definition.hidden] * self.rows(block)
            return [Operator("states", "float32", widths, committed=True)]
        return self._head(block) if stage == self.stages - 1 else self._layer(block)

    def _head(self, block: int) -> list[Operator]:
        rows, d = self.rows(block), self.definition
        found = [
            Operator("norm.scale", "float32", [1] * rows),
            Operator("hidden", d.by().dtype, [d.hidden] * rows, committed=True),
        ]
        drawn = len(self.drawn(block))
        if drawn and self.claim.sampling is not None:
            found.append(Operator("logits", "float32", [d.vocab] * drawn))
            found.append(Operator("draws", "index", [1] * drawn, committed=True))
        return found

    def _layer(self, block: int) -> list[Operator]:
        rows, d = self.rows(block), self.definition
        kind, heads, kv = d.by().dtype, rows * d.heads, rows * d.kv_heads
        seen = [BLOCK * block + row // d.heads + 1 for row in range(heads)]
        parts = [block + 1] * heads
        normed = [
            Operator("q_norm.scale", "float32", [1] * heads),
            Operator("q_norm", "float32", [d.head_dim] * heads),
            Operator("k_norm.scale", "float32", [1] * kv),
            Operator("k_norm", "float32", [d.head_dim] * kv),
        ]
        return [
            Operator("norm_in.scale", "float32", [1] * rows),
            Operator("norm_in", kind, [d.hidden] * rows),
            Operator("q", "float32", [d.heads * d.head_dim] * rows),
            Operator("k", "float32", [d.kv_heads * d.head_dim] * rows),
            Operator("v", "float32", [d.kv_heads * d.head_dim] * rows),
            *(normed if d.norms else ()),
            Operator("queries", kind, [d.head_dim] * heads),
            Operator("keys", kind, [d.head_dim] * kv, committed=True),
            Operator("values", kind, [rows] * (d.kv_heads * d.head_dim), committed=True),
            Operator("scores", "float32", seen),
            Operator("largest", "index", [1] * heads),
            Operator("weights", kind, seen),
            Operator("lanes", "float32", [16 * part for part in parts]),
            Operator("total", "float32", [1] * heads),
            Operator("sums", "float32", [d.head_dim * part for part in parts]),
            Operator("attended", kind, [d.heads * d.head_dim] * rows),
            Operator("middle", "float32", [d.hidden] * rows),
            Operator("norm_out.scale", "float32", [1] * rows),
            Operator("norm_out", kind, [d.hidden] * rows),
            Operator("gate", "float32", [d.inner] * rows),
            Operator("up", "float32", [d.inner] * rows),
            Operator("gated", kind, [d.inner] * rows),
            Operator("states", "float32", [d.hidden] * rows, committed=True),
        ]
