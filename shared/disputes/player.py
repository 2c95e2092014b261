"""The moves of one party that has a pass at hand (protocol §10.5). Pure: what it stands on is asked of a `Trace`."""

from collections.abc import Sequence
from typing import Protocol

from shared.disputes.binary32 import widened
from shared.disputes.claim import Claim
from shared.disputes.formulas import CHOSEN, Segment
from shared.disputes.game import Game, Step
from shared.disputes.layout import BLOCK, BYTES, CHUNK, Layout, Place
from shared.disputes.moves import Case, Chunk, Opened, Operators, Parts
from shared.disputes.tree import (
    Opening,
    Table,
    chunk_leaves,
    operator_root,
    parts_of,
    row_leaf,
    segment_leaf,
)
from shared.disputes.weights import WeightRow
from shared.translog.proofs import inclusion_proof, lookup_in, root_at


class Trace(Protocol):
    """A pass, made again where it is asked for."""

    def tokens(self) -> Table:
        """Return prompt and output, as little-endian u32, in rows of 32 positions."""

    def committed(self, segment: int) -> Sequence[Table]:
        """Return what the operators gave that the segment commits to."""

    def operators(self, segment: int) -> Sequence[Table]:
        """Return what all of the segment's operators gave."""

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        """Return a row of weights."""

    def open_weight(self, tensor: str, row: int) -> WeightRow:
        """Return it with its paths."""


class Player:
    """One party of one game."""

    def __init__(self, claim: Claim, trace: Trace) -> None:
        self._layout, self._trace = Layout(claim), trace
        self._ways = claim.ways
        self._committed = [self._roots(segment) for segment in range(self._layout.segments)]
        self._leaves = [segment_leaf(roots) for roots in self._committed]
        self._lookup = lookup_in(self._leaves)

    @property
    def root(self) -> bytes:
        """The root of the whole pass."""
        return root_at(len(self._leaves), self._lookup)

    def move(self, game: Game) -> bytes:
        """Return what this party sends in the game's next step."""
        match game.step:
            case Step.OPEN:
                end = self._layout.end()
                return Opened(self.root, self.open(end.segment, end.operator, end.row)).to_cbor()
            case Step.SEGMENTS:
                return Parts(parts_of(self._leaves, *game.span, self._ways)).to_cbor()
            case Step.OPERATORS:
                roots = [
                    operator_root(found.dtype, table)
                    for found, table in zip(
                        self._layout.operators(game.segment),
                        self._trace.operators(game.segment),
                        strict=True,
                    )
                ]
                return Operators(tuple(roots)).to_cbor()
            case Step.CASE:
                return self.case(game).to_cbor()
        return self._within(game)

    def _within(self, game: Game) -> bytes:
        found = self._layout.operators(game.segment)[game.operator]
        table = self._trace.operators(game.segment)[game.operator]
        if game.step is Step.ROWS:
            leaves = [row_leaf(found.dtype, row) for row in table]
            return Parts(parts_of(leaves, *game.span, self._ways)).to_cbor()
        row = table[game.row]
        if game.step is Step.CHUNKS:
            return Parts(parts_of(chunk_leaves(found.dtype, row), *game.span, self._ways)).to_cbor()
        size = CHUNK * BYTES[found.dtype]
        return Chunk(row[size * game.span[0] : size * game.span[1]]).to_cbor()

    def case(self, game: Game) -> Case:
        """Return what the referee needs to recompute the element at which the game ends."""
        place = game.place
        asked = _Asked(self._layout, self._trace, place)
        formulas = Segment(self._layout, place.segment, asked)
        found = self._layout.operators(place.segment)[place.operator]
        if found.name in CHOSEN:
            assert game.chunks is not None
            at = 4 * (place.element % CHUNK)
            one, other = (int.from_bytes(c[at : at + 4], "little") for c in game.chunks)
            formulas.better(found.name, place.row, one, other)
        else:
            formulas.value(found.name, place.row, place.element)
        openings = [self._token_row(block) for block in sorted(asked.blocks)]
        openings += [
            self.open(segment, operator, row, chunk, within=place.segment)
            for segment, operator, row, chunk in asked.places()
        ]
        rows = [self._trace.open_weight(*key) for key in sorted(asked.weights)]
        return Case(tuple(openings), tuple(rows))

    def open(
        self, segment: int, operator: int, row: int, chunk: int | None = None, within: int = -1
    ) -> Opening:
        """Return a row or a chunk with its paths; up to the operator only where the game is `within` the segment."""
        found, table = self._layout.operators(segment)[operator], self._table(segment, operator)
        data, leaves = table[row], [row_leaf(found.dtype, data) for data in table]
        chunk_path: tuple[bytes, ...] | None = None
        if chunk is not None:
            below = chunk_leaves(found.dtype, data)
            chunk_path = tuple(inclusion_proof(chunk, len(below), lookup_in(below)))
            size = CHUNK * BYTES[found.dtype]
            data = data[size * chunk : size * (chunk + 1)]
        own = segment == within
        above = () if own else inclusion_proof(segment, len(self._leaves), self._lookup)
        return Opening(
            operator,
            row,
            data,
            tuple(inclusion_proof(row, len(leaves), lookup_in(leaves))),
            segment,
            chunk,
            chunk_path,
            None if own else tuple(self._committed[segment]),
            None if own else tuple(above),
        )

    def _token_row(self, block: int) -> Opening:
        table = self._trace.tokens()
        leaves = [row_leaf("index", row) for row in table]
        path = inclusion_proof(block, len(leaves), lookup_in(leaves))
        return Opening(0, block, table[block], tuple(path))

    def _table(self, segment: int, operator: int) -> Table:
        numbers = self._layout.committed(segment)
        if operator in numbers:
            return self._trace.committed(segment)[numbers.index(operator)]
        return self._trace.operators(segment)[operator]

    def _roots(self, segment: int) -> list[bytes]:
        operators = self._layout.operators(segment)
        return [
            operator_root(operators[number].dtype, table)
            for number, table in zip(
                self._layout.committed(segment), self._trace.committed(segment), strict=True
            )
        ]


class _Asked:
    """The inputs that formulas ask for, with what was asked for."""

    def __init__(self, layout: Layout, trace: Trace, place: Place) -> None:
        self._layout, self._trace, self._place = layout, trace, place
        self._keys: set[tuple[int, int, int, int | None]] = set()
        self.blocks: set[int] = set()
        self.weights: set[tuple[str, int]] = set()

    def places(self) -> list[tuple[int, int, int, int | None]]:
        """Return rows and chunks, none of them twice."""
        whole = {key for key in self._keys if key[3] is None}
        more = [key for key in self._keys if (*key[:3], None) not in whole]
        return sorted({*whole, *more}, key=lambda key: (*key[:3], key[3] or 0))

    def data(self, segment: int, operator: str, row: int) -> bytes:
        number = self._layout.index(segment, operator)
        self._keys.add((segment, number, row, None))
        return self._rows(segment, number)[row]

    def row(self, segment: int, operator: str, row: int) -> Sequence[float]:
        dtype = self._layout.operators(segment)[self._layout.index(segment, operator)].dtype
        return widened(self.data(segment, operator, row), dtype)

    def item(self, segment: int, operator: str, row: int, element: int) -> float:
        number, own = self._layout.index(segment, operator), self._place
        key = (segment, number, row, element // CHUNK)
        if key != (own.segment, own.operator, own.row, own.element // CHUNK):
            self._keys.add(key)
        dtype = self._layout.operators(segment)[number].dtype
        size = BYTES[dtype]
        data = self._rows(segment, number)[row][element * size : (element + 1) * size]
        if dtype == "index":
            return float(int.from_bytes(data, "little"))
        return widened(data, dtype)[0]

    def token(self, position: int) -> int:
        block, at = divmod(position, BLOCK)
        self.blocks.add(block)
        return int.from_bytes(self._trace.tokens()[block][4 * at : 4 * at + 4], "little")

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        self.weights.add((tensor, row))
        return self._trace.weight(tensor, row)

    def _rows(self, segment: int, operator: int) -> Table:
        numbers = self._layout.committed(segment)
        if segment != self._place.segment and operator in numbers:
            return self._trace.committed(segment)[numbers.index(operator)]
        return self._trace.operators(segment)[operator]
