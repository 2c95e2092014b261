"""How many steps to keep under way, so that no stage waits for the round trip. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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
    """Return the number of steps under way with which `sequences` decode fastest; of equals the fewest.

    With N steps of b = ⌈sequences / N⌉ rows each, a sequence gets a token every max(N · slowest stage, all stages + trip)
    seconds; `trip_s` is what the hops of one round take together.
    """
    assert sequences > 0
    found = None
    for steps in range(1, sequences + 1):
        rows = -(-sequences // steps)
        taken = [cost.of(rows) for cost in costs]
        under_way = -(-sequences // rows)  # fewer steps may hold them all
        round_s = max(under_way * max(taken), sum(taken) + trip_s)
        if found is None or round_s < found.round_s * (1 - 1e-9):
            found = Depth(steps, round_s)
    assert found is not None
    return found
