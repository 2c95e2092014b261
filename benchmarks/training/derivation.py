"""A grammar is a program that chooses and writes; here it is sampled, enumerated and parsed.

Every choice has a known probability, so every derivation has an exact log-probability (in nats). Where
no two derivations write the same text, that is the log-probability of the text itself, and its mean
is the entropy, which no model can beat on average.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Program = Callable[["Tape"], object]


class DeadEnd(Exception):  # noqa: N818 - not an error: a branch of the search that cannot match
    """The text being parsed cannot come from the choices made so far."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """One run of a grammar: its choices, its text and its log-probability in nats by part."""

    choices: tuple[int, ...]
    text: str
    logp: float
    by_part: dict[str, float]


class Tape:
    """A grammar's output: picks by `select(weights, position)` and accumulates log-probability.

    `target` restricts the text: writing anything else raises `DeadEnd`.
    """

    def __init__(
        self, select: Callable[[Sequence[float], int], int], target: str | None = None
    ) -> None:
        self._select = select
        self._target = target
        self._written: list[str] = []
        self._length = 0
        self.part = ""
        self.widths: list[int] = []
        self.choices: list[int] = []
        self.by_part: dict[str, float] = defaultdict(float)

    def choose(self, weights: Sequence[float]) -> int:
        """Return an index with probability proportional to its weight (all positive)."""
        index = self._select(weights, len(self.choices))
        self.choices.append(index)
        self.widths.append(len(weights))
        self.by_part[self.part] += math.log(weights[index] / math.fsum(weights))
        return index

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely; a single one is not a choice."""
        return options[0] if len(options) == 1 else options[self.choose([1.0] * len(options))]

    def maybe(self, probability: float) -> bool:
        """Return True with the given probability (strictly between 0 and 1)."""
        return self.choose([probability, 1.0 - probability]) == 0

    def write(self, text: str) -> None:
        """Append text."""
        if self._target is not None and not self._target.startswith(text, self._length):
            raise DeadEnd
        self._written.append(text)
        self._length += len(text)

    def derivation(self) -> Derivation:
        """Return the finished run."""
        if self._target is not None and self._length != len(self._target):
            raise DeadEnd
        by_part = dict(self.by_part)
        return Derivation(
            tuple(self.choices), "".join(self._written), math.fsum(by_part.values()), by_part
        )


def sample(program: Program, rng: random.Random) -> Derivation:
    """Return one derivation drawn from the grammar."""

    def select(weights: Sequence[float], _position: int) -> int:
        point = rng.random() * math.fsum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        return len(weights) - 1

    tape = Tape(select)
    program(tape)
    return tape.derivation()


def derivations(
    program: Program, target: str | None = None, start: Sequence[int] = ()
) -> Iterator[Derivation]:
    """Yield every derivation of the grammar, or of `target` only (an exhaustive parse).

    `start` fixes the first choices.

    Depth-first over choice sequences; a branch ends where its text leaves the target. Without a
    target the grammar must be finite.
    """
    pending: list[tuple[int, ...]] = [tuple(start)]
    while pending:
        prefix = pending.pop()

        def select(_weights: Sequence[float], position: int, prefix: Sequence[int] = prefix) -> int:
            return prefix[position] if position < len(prefix) else 0

        tape = Tape(select, target)
        try:
            program(tape)
            found = tape.derivation()
        except DeadEnd:
            found = None
        for position in range(len(prefix), len(tape.choices)):
            head = tuple(tape.choices[:position])
            pending.extend((*head, other) for other in range(1, tape.widths[position]))
        if found is not None:
            yield found
