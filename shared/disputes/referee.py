"""The referee: one element, recomputed from inputs that both sides agree on (protocol §10.6). Pure; no model, no tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.disputes.binary32 import narrowed, widened
from shared.disputes.formulas import CHOSEN, Segment, tensor_shape
from shared.disputes.layout import BLOCK, BYTES, CHUNK, Layout, Place
from shared.disputes.moves import Case
from shared.disputes.tree import Opening
from shared.runtime.errors import Code, CounterfoilError

DTYPES: Final = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""As safetensors names a checkpoint's dtype."""
READ_AS: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a game stands when the referee is asked."""

    layout: Layout
    place: Place
    root: bytes
    """Of the pass of the side whose case is read."""
    operators: tuple[bytes, ...]
    """The roots of that side's operators of the segment."""
    chunks: tuple[bytes, bytes]
    """What the respondent and the challenger have in the element's chunk."""


class Shown:
    """Inputs of a case, each proved when it is read in. MALFORMED or BAD_PROOF for one that is not what it is said to be."""

    def __init__(self, ground: Ground, case: Case) -> None:
        self._ground, self._layout = ground, ground.layout
        self._data: dict[tuple[int, str, int, int | None], tuple[str, bytes]] = {}
        self._tokens: dict[int, bytes] = {}
        self._weights: dict[tuple[str, int], Sequence[float]] = {}
        for opening in case.openings:
            self._take(opening)
        for row in case.rows:
            shape = tensor_shape(self._layout.definition, row.tensor)
            if shape is None or row.dtype != DTYPES[self._layout.definition.dtype]:
                raise _malformed(f"a row of {row.tensor[:80]!r}, which the pass does not read")
            row.check_under(self._layout.claim.weights, shape)
            self._weights[row.tensor, row.row] = widened(row.data, READ_AS[row.dtype])

    def _take(self, opening: Opening) -> None:
        place, layout = self._ground.place, self._layout
        if opening.segment is None:
            if opening.operator or opening.chunk is not None:
                raise _malformed("tokens that are not those of a block")
            if opening.operator_root(layout.tokens()) != layout.claim.tokens:
                raise CounterfoilError(Code.BAD_PROOF, "the tokens are not those of the claim")
            self._tokens[opening.row] = opening.data
            return
        if opening.last >= place:
            raise _malformed("something that does not come before the element")
        if opening.segment == place.segment and opening.committed is None:
            operators = layout.operators(opening.segment)
            if opening.operator >= len(operators):
                raise _malformed("an operator beyond the end")
            found = operators[opening.operator]
            if opening.operator_root(found) != self._ground.operators[opening.operator]:
                raise CounterfoilError(Code.BAD_PROOF, f"{found.name} is not what was sent before")
        else:
            found = opening.check_under(layout, self._ground.root)
        key = (opening.segment, found.name, opening.row, opening.chunk)
        self._data[key] = (found.dtype, opening.data)

    def data(self, segment: int, operator: str, row: int) -> bytes:
        """Return the bytes of a row that was shown whole."""
        return self._get(segment, operator, row, None)[1]

    def row(self, segment: int, operator: str, row: int) -> Sequence[float]:
        """Return the numbers of a row that was shown whole."""
        return _numbers(*self._get(segment, operator, row, None))

    def item(self, segment: int, operator: str, row: int, element: int) -> float:
        """Return one number of a row, of which its chunk or the whole was shown."""
        chunk, at = divmod(element, CHUNK)
        own = self._ground.place
        if (segment, chunk) == (own.segment, own.element // CHUNK) and (
            (operator, row) == (self._layout.operators(segment)[own.operator].name, own.row)
        ):
            return self._own(element)
        if (segment, operator, row, None) in self._data:
            chunk, at = 0, element
            dtype, data = self._get(segment, operator, row, None)
        else:
            dtype, data = self._get(segment, operator, row, chunk)
        size = BYTES[dtype]
        if (at + 1) * size > len(data):
            raise _malformed("less than the element is computed from")
        return _numbers(dtype, data[at * size : (at + 1) * size])[0]

    def _own(self, element: int) -> float:
        """Return an earlier element of the chunk in which the two sides differ: up to there it is the same for both."""
        own = self._ground.place
        if element >= own.element:
            raise _malformed("something that does not come before the element")
        dtype = self._layout.operators(own.segment)[own.operator].dtype
        at, size = element % CHUNK, BYTES[dtype]
        return _numbers(dtype, self._ground.chunks[0][at * size : (at + 1) * size])[0]

    def token(self, position: int) -> int:
        """Return a token, of which its block was shown."""
        data = self._tokens.get(position // BLOCK)
        if data is None:
            raise _malformed(f"no tokens of block {position // BLOCK}")
        at = 4 * (position % BLOCK)
        token = int.from_bytes(data[at : at + 4], "little")
        if token >= self._layout.definition.vocab:
            raise _malformed("a token outside the vocabulary")
        return token

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        """Return a row of weights that was shown."""
        found = self._weights.get((tensor, row))
        if found is None:
            raise _malformed(f"no row {row} of {tensor}")
        return found

    def _get(self, segment: int, operator: str, row: int, chunk: int | None) -> tuple[str, bytes]:
        found = self._data.get((segment, operator, row, chunk))
        if found is None:
            raise _malformed(f"nothing of row {row} of {operator} in segment {segment}")
        return found


def decide(ground: Ground, case: Case) -> int | None:
    """Return who is right about the element: 0 for the respondent, 1 for the challenger, None if neither is.

    MALFORMED or BAD_PROOF for a case from which that cannot be told.
    """
    layout, place = ground.layout, ground.place
    operator = layout.operators(place.segment)[place.operator]
    formulas = Segment(layout, place.segment, Shown(ground, case))
    size, at = BYTES[operator.dtype], place.element % CHUNK
    one, other = (chunk[at * size : (at + 1) * size] for chunk in ground.chunks)
    if operator.name in CHOSEN:
        claims = (int.from_bytes(one, "little"), int.from_bytes(other, "little"))
        return 0 if formulas.better(operator.name, place.row, *claims) else 1
    value = formulas.value(operator.name, place.row, place.element)
    right = value if isinstance(value, bytes) else narrowed((value,), operator.dtype)
    return 0 if right == one else 1 if right == other else None


def _numbers(dtype: str, data: bytes) -> Sequence[float]:
    if dtype == "index":
        return [float(int.from_bytes(data[at : at + 4], "little")) for at in range(0, len(data), 4)]
    return widened(data, dtype)


def _malformed(what: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"the case shows {what}")
