"""How fast a node computes its layers: a short measurement at start, which its key bundle claims (protocol §4.10.5)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from execution_layer.pipeline.line import StageLike
from shared.model.backend import Rows, Span
from shared.model.decoder import Ends

CHUNK: Final = 128
"""Rows of a prefill step, and how far into a sequence single rows are measured."""
BUDGET_S = 0.1
"""How long each of the two measurements goes on once it has made its first steps."""
Step = Callable[[int, int], None]
"""Computes so many rows of a sequence from a position on."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second, one row a step and in chunks; at least 1."""

    decode_rows: int
    prefill_rows: int


def stage_speed(stage: StageLike, *, width: int, size: int, blocks: int, positions: int) -> Speed:
    """Measure a stage. States have `width` numbers; it has memory for `blocks` blocks of keys and values, of `size` positions
    each, and sequences have up to `positions`.
    """
    held = _held(size, blocks)
    cache, ids = stage.cache(held), _ids(held)

    def step(count: int, position: int) -> None:
        stage(torch.ones(count, width), [Rows(count, position, ids)], cache)

    return measured(step, min(CHUNK, held * size, positions))


def node_speed(
    ends: Ends, own: StageLike | None, *, size: int, blocks: int, positions: int
) -> Speed:
    """Do the same for a node that answers: embedding, its own layers if it has any, and the head of the model."""
    held = _held(size, blocks)
    cache, ids = None if own is None else own.cache(held), _ids(held)

    def step(count: int, position: int) -> None:
        span = Span((0,) * count, position, ids)
        states = ends.embed([span])
        if own is not None and cache is not None:
            states = own(states, [span.rows], cache)
        ends.logits(ends.hidden(states)[-1:])  # on the host: a device has finished by then

    return measured(step, min(CHUNK, held * size, positions))


def measured(step: Step, rows: int) -> Speed:
    """Time steps of `rows` rows of one sequence, and of one row behind them."""
    prefill = _per_second(lambda: step(rows, 0)) * rows
    decode = _per_second(lambda: step(1, rows - 1))
    return Speed(max(1, int(decode)), max(1, int(prefill)))


def _held(size: int, blocks: int) -> int:
    return min(blocks, -(-CHUNK // size))


def _ids(held: int) -> tuple[int, ...]:
    return tuple(range(1, held + 1))


def _per_second(step: Callable[[], None]) -> float:
    step()  # what the first one costs is not what the others cost
    began, steps = time.perf_counter(), 0
    while True:
        step()
        steps += 1
        passed = time.perf_counter() - began
        if passed >= BUDGET_S:
            return steps / passed
