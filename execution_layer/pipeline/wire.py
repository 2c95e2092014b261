"""Boundaries as messages, and back."""

from collections.abc import Sequence
from typing import Final

import torch

from execution_layer.pipeline.boundary import Boundary, Spent, malformed
from shared.model.backend import Rows
from shared.proto.counterfoil.execution.v1 import stages_pb2

_MICRO: Final = 1e-6
_MOST_US: Final = 2**32 - 1


def to_message(boundary: Boundary) -> stages_pb2.StageStep:
    """Return a boundary as it is sent."""
    return stages_pb2.StageStep(
        number=boundary.number,
        spans=[
            stages_pb2.StageSpan(count=span.count, position=span.position, blocks=span.blocks)
            for span in boundary.rows
        ],
        states=boundary.states.contiguous().numpy().astype("<f4", copy=False).tobytes(),
        spent=to_spent(boundary.spent),
    )


def from_message(step: stages_pb2.StageStep, width: int) -> Boundary:
    """Return what was sent, which `Boundary.check` is still to look at; MALFORMED unless the states are whole rows."""
    rows = sum(span.count for span in step.spans)
    if len(step.states) != 4 * rows * width:
        raise malformed(f"{len(step.states)} bytes for {rows} rows of {width} numbers")
    return with_states(step, bytearray(step.states), width)


def with_states(step: stages_pb2.StageStep, states: bytearray, width: int) -> Boundary:
    """Return the boundary of a step's spans and these states (float32, all of its rows), where the boundary's stage may write."""
    rows = tuple(Rows(span.count, span.position, tuple(span.blocks)) for span in step.spans)
    numbers = torch.frombuffer(states or bytearray(4), dtype=torch.float32)
    count = sum(span.count for span in rows)
    states_of_rows = numbers[: count * width].view(count, width)
    return Boundary(step.number, rows, states_of_rows, spent=_from_spent(step))


def to_spent(spent: Sequence[Spent]) -> list[stages_pb2.StageSpent]:
    """Return what stages say of a step as it is sent."""
    return [
        stages_pb2.StageSpent(waited_us=_micro(its.waited_s), took_us=_micro(its.took_s))
        for its in spent
    ]


def _from_spent(step: stages_pb2.StageStep) -> tuple[Spent, ...]:
    """Return what stages say of a step, which `Boundary.check` is still to look at."""
    return tuple(Spent(its.waited_us * _MICRO, its.took_us * _MICRO) for its in step.spent)


def add_spent(step: stages_pb2.StageStep, spent: Spent) -> stages_pb2.StageStep:
    """Return a step with what one more stage says of it."""
    step.spent.extend(to_spent([spent]))
    return step


def _micro(seconds: float) -> int:
    return min(_MOST_US, max(0, round(seconds / _MICRO)))
