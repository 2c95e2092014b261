"""Rounds over all shapes, and what comes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.common.figures import spread
from benchmarks.envelope.steps import Shape, World, timed

LARGEST: Final = Shape(1024, 3, 3, 5)
"""The shape of the aims: three nodes that could serve, three of five custodians."""
SHAPES: Final = (
    Shape(1024, 1, 1, 1),
    Shape(1024, 1, 3, 5),
    LARGEST,
    Shape(32 * 1024, 1, 3, 5),
    Shape(1024 * 1024, 1, 3, 5),
)
AIMS: Final = {"seal": 3000.0, "open": 1500.0, "frame": 20.0, "read": 20.0}
"""µs, for the shape above."""


@dataclass(frozen=True, slots=True)
class Size:
    """How often everything is done."""

    rounds: int
    repetitions: int
    shapes: tuple[Shape, ...]


FULL: Final = Size(5, 60, SHAPES)
QUICK: Final = Size(1, 2, (LARGEST,))


def measure(size: Size, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return, for each shape, its sizes in bytes and its steps in µs."""
    worlds = [World(shape) for shape in size.shapes]
    taken: list[dict[str, list[float]]] = [{} for _ in worlds]
    for _ in range(size.rounds):
        for world, times in zip(worlds, taken, strict=True):
            tick(world.shape.name)
            for name, (step, of) in world.steps().items():
                times.setdefault(name, []).append(timed(step, of, size.repetitions))
    return [_found(world, times) for world, times in zip(worlds, taken, strict=True)]


def _found(world: World, times: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "shape": {
            "body": world.shape.body,
            "candidates": world.shape.candidates,
            "threshold": world.shape.threshold,
            "custodians": world.shape.custodians,
            "name": world.shape.name,
        },
        "bytes": world.sizes(),
        "microseconds": {name: spread(values) for name, values in times.items()},
        "aims": AIMS if world.shape == LARGEST else {},
    }
