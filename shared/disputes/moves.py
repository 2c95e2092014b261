"""What a party sends in a game: one record for each kind of step (protocol §10.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from shared.disputes.claim import VERSION, WAYS
from shared.disputes.tree import MAX_OPERATORS, Opening
from shared.disputes.weights import WeightRow
from shared.statements.rules import Count, Octets
from shared.statements.schema import Bytes32, Record

MAX_MOVE: Final = 2**16
"""Bytes of a move that is not a case."""
MAX_CASE: Final = 2**20
"""Bytes of a referee's input; what is longer is refused before anything of it is read."""
MAX_OPENINGS: Final = 160
MAX_ROWS: Final = 4


@dataclass(frozen=True, slots=True)
class Opened(Record):
    """The first move: the root of a party's pass, and what it has where the claim's end is."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    root: Bytes32
    end: Opening


@dataclass(frozen=True, slots=True)
class Parts(Record):
    """Hashes of the parts into which what is left is cut: of segments, of rows, or of chunks."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    parts: Annotated[tuple[Bytes32, ...], Count(2, WAYS[-1])]


@dataclass(frozen=True, slots=True)
class Operators(Record):
    """The roots of all operators of the segment."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    operators: Annotated[tuple[Bytes32, ...], Count(1, MAX_OPERATORS)]


@dataclass(frozen=True, slots=True)
class Chunk(Record):
    """The elements of the chunk."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    chunk: Annotated[bytes, Octets(4096, 1)]


@dataclass(frozen=True, slots=True)
class Case(Record):
    """What the referee reads: inputs under the root of the party that hands it in, and rows of weights."""

    CONSTANTS: ClassVar[Mapping[str, int]] = VERSION
    openings: Annotated[tuple[Opening, ...], Count(0, MAX_OPENINGS)]
    rows: Annotated[tuple[WeightRow, ...], Count(0, MAX_ROWS)]
