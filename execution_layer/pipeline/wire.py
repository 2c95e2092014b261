"""Boundaries as messages, and back."""

import torch

from execution_layer.pipeline.boundary import Boundary
from shared.model.backend import Rows
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import Code, CounterfoilError


def to_message(boundary: Boundary) -> stages_pb2.StageStep:
    """Return a boundary as it is sent."""
    return stages_pb2.StageStep(
        number=boundary.number,
        spans=[
            stages_pb2.StageSpan(count=span.count, position=span.position, blocks=span.blocks)
            for span in boundary.rows
        ],
        states=boundary.states.contiguous().numpy().astype("<f4", copy=False).tobytes(),
    )


def from_message(step: stages_pb2.StageStep, width: int) -> Boundary:
    """Return what was sent, which `Boundary.check` is still to look at; MALFORMED unless the states are whole rows."""
    rows = sum(span.count for span in step.spans)
    if len(step.states) != 4 * rows * width:
        raise CounterfoilError(
            Code.MALFORMED,
            f"boundary states: {len(step.states)} bytes for {rows} rows of {width} numbers",
        )
    # of its own: a stage writes where it reads
    states = torch.frombuffer(bytearray(step.states) or bytearray(4), dtype=torch.float32)
    return Boundary(
        step.number,
        tuple(Rows(span.count, span.position, tuple(span.blocks)) for span in step.spans),
        states[: rows * width].view(rows, width),
    )
