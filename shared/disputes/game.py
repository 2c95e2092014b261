"""The game: from two roots to one element, by steps that cut what is left into parts (protocol §10.5). Pure.

The respondent stands by the receipt, the challenger says that it is false. In each step both move; whoever is silent, or sends
what does not fit into what he is bound to, has lost. Everything before the element at which a game ends is the same for both
sides, because each step goes to the first part that differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from shared.disputes.binary32 import widened
from shared.disputes.claim import Claim
from shared.disputes.layout import BYTES, CHUNK, Layout, Operator, Place
from shared.disputes.moves import MAX_CASE, MAX_MOVE, Case, Chunk, Opened, Operators, Parts
from shared.disputes.referee import Ground, decide
from shared.disputes.tree import chunk_leaf, cut, joined, segment_leaf
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.schema import Record
from shared.translog.tree import leaf_hash

Move = bytes | None
"""What a party sent in time; None for silence."""
Hashes = tuple[bytes, bytes]
"""The respondent's and the challenger's."""


class Winner(StrEnum):
    """Who won."""

    RESPONDENT = "respondent"
    CHALLENGER = "challenger"
    NEITHER = "neither"
    """Both claimed a wrong element."""


class Step(StrEnum):
    """What both sides have to send next."""

    OPEN = "open"
    SEGMENTS = "segments"
    OPERATORS = "operators"
    ROWS = "rows"
    CHUNKS = "chunks"
    CHUNK = "chunk"
    CASE = "case"


@dataclass(frozen=True, slots=True)
class Result:
    """How a game ended."""

    winner: Winner
    reason: str
    place: Place | None = None
    """The element that decided; None if it ended before."""


SIDES: Final = (Winner.RESPONDENT, Winner.CHALLENGER)
RESPONDENT: Final = 0
CHALLENGER: Final = 1


@dataclass(frozen=True, slots=True)
class Game:
    """A game under way. It is a value: every step makes another one."""

    claim: Claim
    step: Step = Step.OPEN
    roots: Hashes | None = None
    """Of the whole passes."""
    left: Hashes | None = None
    """Of what is left: a range of segments, rows or chunks, or a single one of them."""
    span: tuple[int, int] = (0, 0)
    """The range."""
    segment: int = 0
    operators: tuple[tuple[bytes, ...], tuple[bytes, ...]] | None = None
    operator: int = 0
    row: int = 0
    chunks: Hashes | None = None
    """The bytes of both sides' chunks."""
    element: int = 0

    @property
    def layout(self) -> Layout:
        """The places of the claim's pass."""
        return Layout(self.claim)

    @property
    def place(self) -> Place:
        """The element, once the step is CASE."""
        return Place(self.segment, self.operator, self.row, self.element)

    def play(self, respondent: Move, challenger: Move) -> "Game | Result":
        """Return the game after both moved, or how it ended."""
        if self.step is Step.CASE:
            return self._judge(respondent, challenger)
        found: list[Record | None] = []
        faults: list[str] = []
        for side, move in enumerate((respondent, challenger)):
            try:
                found.append(_ACCEPT[self.step](self, side, _sent(move)))
            except CounterfoilError as error:
                found.append(None)
                faults.append(f"the {SIDES[side]}: {error.detail}")
        one, other = found
        if other is None:  # whoever says that a receipt is false has to show it
            return Result(Winner.RESPONDENT, "; ".join(faults))
        if one is None:
            return Result(Winner.CHALLENGER, "; ".join(faults))
        return _NEXT[self.step](self, one, other)

    # ---- what a move has to be ----

    def _accept_opened(self, side: int, move: bytes) -> Opened:
        opened = Opened.from_cbor(move, max_bytes=MAX_MOVE)
        end, layout = self.layout.end(), self.layout
        opened.end.check_under(layout, opened.root)
        here = (opened.end.segment, opened.end.operator, opened.end.row)
        _require(
            here == (end.segment, end.operator, end.row) and not opened.end.chunk,
            "opened something else than the claim's end",
        )
        told = opened.end.data == self.claim.value
        _require(told or side == CHALLENGER, "has another value there than the receipt")
        _require(
            not told or side == RESPONDENT, "has the receipt's value there and disputes nothing"
        )
        return opened

    def _accept_parts(self, side: int, move: bytes) -> Parts:
        parts = Parts.from_cbor(move, max_bytes=MAX_MOVE)
        expected = len(cut(*self.span, self.claim.ways))
        _require(
            len(parts.parts) == expected, f"sent {len(parts.parts)} parts instead of {expected}"
        )
        made = joined(*self.span, self.claim.ways, parts.parts)
        if self.step is Step.CHUNKS and self._whole():
            made = leaf_hash(made)
        _require(made == self._left(side), "sent parts that do not make up what they are parts of")
        return parts

    def _accept_operators(self, side: int, move: bytes) -> Operators:
        sent = Operators.from_cbor(move, max_bytes=MAX_MOVE)
        expected = len(self.layout.operators(self.segment))
        _require(
            len(sent.operators) == expected,
            f"sent {len(sent.operators)} operators instead of {expected}",
        )
        committed = [sent.operators[i] for i in self.layout.committed(self.segment)]
        _require(
            segment_leaf(committed) == self._left(side),
            "sent operators that are not those of its segment",
        )
        return sent

    def _accept_chunk(self, side: int, move: bytes) -> Chunk:
        sent = Chunk.from_cbor(move, max_bytes=MAX_MOVE)
        found, number = self._operator(), self.span[0]
        _require(
            len(sent.chunk) == found.chunk_bytes(self.row, number), "sent a chunk of another length"
        )
        leaf = chunk_leaf(sent.chunk)
        if found.chunks(self.row) == 1:
            leaf = leaf_hash(leaf)
        _require(leaf == self._left(side), "sent a chunk that is not the one of its tree")
        _check_elements(self.layout, Place(self.segment, self.operator, self.row, 0), sent.chunk)
        return sent

    def _left(self, side: int) -> bytes:
        assert self.left is not None
        return self.left[side]

    def _operator(self) -> Operator:
        return self.layout.operators(self.segment)[self.operator]

    def _whole(self) -> bool:
        """Whether the range is still that of all chunks of the row."""
        return self.span == (0, self._operator().chunks(self.row))

    # ---- where it goes on ----

    def _after_opened(self, one: Opened, other: Opened) -> "Game | Result":
        roots = (one.root, other.root)
        return replace(
            self, roots=roots, left=roots, step=Step.SEGMENTS, span=(0, self.layout.segments)
        )._settle()

    def _after_parts(self, one: Parts, other: Parts) -> "Game | Result":
        at = _first(one.parts, other.parts)
        span = cut(*self.span, self.claim.ways)[at]
        return replace(self, left=(one.parts[at], other.parts[at]), span=span)._settle()

    def _after_operators(self, one: Operators, other: Operators) -> "Game | Result":
        at = _first(one.operators, other.operators)
        rows = len(self.layout.operators(self.segment)[at].widths)
        return replace(
            self,
            operators=(one.operators, other.operators),
            operator=at,
            left=(one.operators[at], other.operators[at]),
            step=Step.ROWS,
            span=(0, rows),
        )._settle()

    def _after_chunk(self, one: Chunk, other: Chunk) -> "Game | Result":
        size = BYTES[self._operator().dtype]
        pieces = [
            [data[at : at + size] for at in range(0, len(data), size)]
            for data in (one.chunk, other.chunk)
        ]
        element = CHUNK * self.span[0] + _first(*pieces)
        return replace(self, chunks=(one.chunk, other.chunk), element=element, step=Step.CASE)

    def _settle(self) -> "Game":
        """Return the game one level down, as long as there is nothing left to cut on this one."""
        if self.span[1] - self.span[0] > 1:
            return self
        if self.step is Step.SEGMENTS:
            return replace(self, segment=self.span[0], step=Step.OPERATORS)
        if self.step is Step.ROWS:
            row = self.span[0]
            chunks = self._operator().chunks(row)
            return replace(self, row=row, step=Step.CHUNKS, span=(0, chunks))._settle()
        return replace(self, step=Step.CHUNK)

    def _judge(self, respondent: Move, challenger: Move) -> Result:
        """Decide by the first case that can be read: inputs are the same for both, so any of them gives the same answer."""
        faults = []
        for side, move in enumerate((respondent, challenger)):
            try:
                winner = decide(self.ground(side), case_of(_sent(move)))
            except CounterfoilError as error:
                faults.append(f"the {SIDES[side]}: {error.detail}")
                continue
            reason = f"element {self.element} of {self._operator().name} was recomputed"
            return Result(Winner.NEITHER if winner is None else SIDES[winner], reason, self.place)
        return Result(
            Winner.RESPONDENT, f"nothing shows who is right: {'; '.join(faults)}", self.place
        )

    def ground(self, side: int) -> Ground:
        """Return what a case of one side is read against."""
        assert self.roots is not None
        assert self.operators is not None
        assert self.chunks is not None
        return Ground(self.layout, self.place, self.roots[side], self.operators[side], self.chunks)


def case_of(move: bytes) -> Case:
    """Read a referee's input; MALFORMED for one that is too long, before any of it is read."""
    return Case.from_cbor(move, max_bytes=MAX_CASE)


def _sent(move: Move) -> bytes:
    if move is None:
        raise CounterfoilError(Code.DEADLINE, "was silent")
    return move


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise CounterfoilError(Code.MALFORMED, fault)


def _first(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return the first place at which two lists differ. There is one: each is under a hash of its own."""
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def _check_elements(layout: Layout, place: Place, data: bytes) -> None:
    """Raise MALFORMED for numbers that are not finite and for indexes beyond the end."""
    found = layout.operators(place.segment)[place.operator]
    choices = layout.choices(place)
    if choices is not None:
        wrong = [
            i
            for i in range(0, len(data), 4)
            if int.from_bytes(data[i : i + 4], "little") not in choices
        ]
        _require(not wrong, "sent an index beyond the end")
    elif found.dtype != "digest":
        finite = all(map(math.isfinite, widened(data, found.dtype)))
        _require(finite, "sent a number that is not finite")


_ACCEPT: Final[Mapping[Step, Callable[[Game, int, bytes], Record]]] = {
    Step.OPEN: Game._accept_opened,
    Step.SEGMENTS: Game._accept_parts,
    Step.OPERATORS: Game._accept_operators,
    Step.ROWS: Game._accept_parts,
    Step.CHUNKS: Game._accept_parts,
    Step.CHUNK: Game._accept_chunk,
}
_NEXT: Final[Mapping[Step, Callable[[Game, Any, Any], "Game | Result"]]] = {
    Step.OPEN: Game._after_opened,
    Step.SEGMENTS: Game._after_parts,
    Step.OPERATORS: Game._after_operators,
    Step.ROWS: Game._after_parts,
    Step.CHUNKS: Game._after_parts,
    Step.CHUNK: Game._after_chunk,
}
