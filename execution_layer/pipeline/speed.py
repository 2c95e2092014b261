"""How fast a stage computes: a short measurement at start, which its node's key bundle claims (protocol §4.10.5)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from execution_layer.pipeline.line import StageLike
from shared.model.backend import Rows

CHUNK: Final = 128
"""Rows of a prefill step, and how far into a sequence single rows are measured."""
BUDGET_S: Final = 0.25
"""How long each of the two measurements goes on once it has made its first steps."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second, one row a step and in chunks; at least 1."""

    decode_rows: int
    prefill_rows: int


def measured(
    stage: StageLike, *, width: int, size: int, blocks: int, budget_s: float = BUDGET_S
) -> Speed:
    """Compute some steps of one sequence and time them. States have `width` numbers; a stage has memory for `blocks` blocks of
    keys and values, of `size` positions each.
    """
    held = min(blocks, -(-CHUNK // size))
    rows = min(CHUNK, held * size)
    cache, ids = stage.cache(held), tuple(range(1, held + 1))

    def step(count: int, position: int) -> None:
        stage(torch.ones(count, width), [Rows(count, position, ids)], cache)

    prefill = _per_second(lambda: step(rows, 0), budget_s) * rows
    decode = _per_second(lambda: step(1, rows - 1), budget_s)
    return Speed(max(1, int(decode)), max(1, int(prefill)))


def _per_second(step: Callable[[], None], budget_s: float) -> float:
    step()  # what the first one costs is not what the others cost
    began, steps = time.perf_counter(), 0
    while True:
        step()
        steps += 1
        passed = time.perf_counter() - began
        if passed >= budget_s:
            return steps / passed
