"""What the steps of a chain take, and how many of them to keep under way for it. Pure, but for its clock.

Stages say how long a step waited and took there. That is their claim: it decides how many steps are under way and nothing
else, between one and a bound, so a false one costs speed.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from execution_layer.pipeline.boundary import Spent
from execution_layer.pipeline.depth import Cost, best_depth

LOOK_S: Final = 0.1
"""How often the number is thought over."""
HOLD_S: Final = 2.0
"""How long a number that was wanted is kept: too many under way cost little, too few wait."""
STALE_S: Final = 60.0
"""What was measured so long before the latest counts no more."""
KEPT: Final = 9
"""Measurements of one size, of which the middle one counts: single ones are late for other reasons."""
TRIPS: Final = 33
SHORTEST_S: Final = 1e-6


class Fit:
    """What a stage takes by the rows of a step, fitted to the latest steps of every size that there was."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, deque[tuple[int, float]]]] = {}
        """By the power of two: when the latest was noted, and rows and seconds of some."""

    def note(self, rows: int, seconds: float, now: float) -> None:
        """Note what a step of so many rows has taken."""
        size = rows.bit_length()
        _, kept = self._seen.pop(size, (now, deque(maxlen=KEPT)))
        kept.append((rows, max(SHORTEST_S, seconds)))
        self._seen[size] = (now, kept)
        while now - next(iter(self._seen.values()))[0] > STALE_S:
            del self._seen[next(iter(self._seen))]

    def cost(self) -> Cost | None:
        """Return it, None before the first step. Errors count as parts of what each size takes."""
        points = [_middle(kept) for _, kept in self._seen.values()]
        if not points:
            return None
        if len(points) == 1:  # half of it for the step, half for its rows: the next size tells
            [(rows, seconds)] = points
            return Cost(seconds / 2, seconds / 2 / rows)
        return _fitted(points)


def _middle(kept: Iterable[tuple[int, float]]) -> tuple[float, float]:
    rows, seconds = zip(*kept, strict=True)
    return statistics.median(rows), statistics.median(seconds)


def _fitted(points: Sequence[tuple[float, float]]) -> Cost:
    """Return the cost with the least squares of relative errors, and nothing negative in it."""
    ones = [1 / seconds for _, seconds in points]
    rows = [count / seconds for count, seconds in points]
    ff, fr, rr = _dot(ones, ones), _dot(ones, rows), _dot(rows, rows)
    determinant = ff * rr - fr * fr
    if determinant > 1e-9 * ff * rr:
        fixed_s = (sum(ones) * rr - sum(rows) * fr) / determinant
        row_s = (sum(rows) * ff - sum(ones) * fr) / determinant
        if fixed_s < 0:
            return Cost(0.0, sum(rows) / rr)
        if row_s >= 0:
            return Cost(fixed_s, row_s)
    return Cost(sum(ones) / ff, 0.0)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


class Gauge:
    """Measures a chain while it serves. For one thread."""

    def __init__(
        self, steps: int, *, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep `steps` under way until something has been measured, from then on as many as are best, up to `most`; without
        `most`, always `steps`.
        """
        self._steps, self._most, self._clock = steps, most, clock
        self._stages: list[Fit] = []
        self._ends = Fit()
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._widest = 1
        self._looked = -LOOK_S
        self._wanted: deque[tuple[float, int]] = deque()

    @property
    def most(self) -> int:
        """The most steps that may ever be under way."""
        return self._most or self._steps

    @property
    def trip_s(self) -> float | None:
        """What all hops of one round take together; None before anything has come back."""
        return statistics.median(self._trips) if self._trips else None

    def came(self, rows: int, elapsed_s: float, spent: Sequence[Spent], ends_s: float) -> bool:
        """Note a step that has come back `elapsed_s` after it was sent, what its stages say, and what embedding and head took
        here. Return whether the stages' claims can be true: they fit into the time that it was away.
        """
        now = self._clock()
        self._widest = max(self._widest, rows)
        self._ends.note(rows, ends_s, now)
        trip_s = elapsed_s - sum(its.waited_s + its.took_s for its in spent)
        if not spent or trip_s < 0:
            return False
        if len(self._stages) != len(spent):
            self._stages = [Fit() for _ in spent]
        for fit, its in zip(self._stages, spent, strict=True):
            fit.note(rows, its.took_s, now)
        self._trips.append(trip_s)
        return True

    def depth(self, running: int, chunks: int) -> int:
        """Return how many steps to keep under way for so many sequences, whose prompts are to be computed in so many
        steps.
        """
        if self._most is None or not self._trips:
            return self._steps
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._wanted.append((now, max(1, min(self._most, self._best(running, chunks)))))
            while now - self._wanted[0][0] > HOLD_S:
                self._wanted.popleft()
            self._steps = max(steps for _, steps in self._wanted)
        return self._steps

    def _best(self, running: int, chunks: int) -> int:
        found = (fit.cost() for fit in (*self._stages, self._ends))
        costs = [cost for cost in found if cost is not None]
        trip_s = statistics.median(self._trips)
        steps = best_depth(running, costs, trip_s).steps if running else 1
        if chunks > 1:  # parts of prompts follow each other without waiting for what they give
            taken = [cost.of(self._widest) for cost in costs]
            steps = max(steps, math.ceil((sum(taken) + trip_s) / max(taken)))
        return steps
