"""How many steps to keep under way, so that no stage waits for the round trip. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NEAR: Final = 0.02
"""Of what is nearly as fast, less under way is better: each step costs its first stage something."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage takes for a step of R rows: `fixed_s` + R · `row_s` seconds."""

    fixed_s: float
    row_s: float

    def of(self, rows: int) -> float:
        """Return the seconds for a step of so many rows."""
        return self.fixed_s + rows * self.row_s


@dataclass(frozen=True, slots=True)
class Depth:
    """A number of steps under way, and what comes of it."""

    steps: int
    round_s: float
    """From one token of a sequence to its next."""


def steps_to_fill(stages: int, stage_s: float, hop_s: float) -> int:
    """Return N* = S · (1 + L / t): as many steps of `stage_s` seconds fill S stages and the hops of `hop_s` between them."""
    return math.ceil(stages * (1 + hop_s / stage_s))


def best_depth(sequences: int, costs: Sequence[Cost], trip_s: float) -> Depth:
    """Return the number of steps under way with which `sequences` decode fastest; the fewest that come within `NEAR` of it.

    With N steps of b = ⌈sequences / N⌉ rows each, a sequence gets a token every max(N · slowest stage, all stages + trip)
    seconds; `trip_s` is what the hops of one round take together. `costs` are those of the stages, the embedding and the
    head among them.
    """
    found = depths(sequences, costs, trip_s)
    enough = (1 + NEAR) * min(depth.round_s for depth in found)
    return next(depth for depth in found if depth.round_s <= enough)


def depths(sequences: int, costs: Sequence[Cost], trip_s: float) -> list[Depth]:
    """Return what comes of every number of steps under way, from one up to one for each sequence."""
    assert sequences > 0
    return [_with(steps, sequences, costs, trip_s) for steps in range(1, sequences + 1)]


def _with(steps: int, sequences: int, costs: Sequence[Cost], trip_s: float) -> Depth:
    rows = -(-sequences // steps)
    taken = [cost.of(rows) for cost in costs]
    under_way = -(-sequences // rows)  # fewer steps may hold them all
    return Depth(steps, max(under_way * max(taken), sum(taken) + trip_s))
