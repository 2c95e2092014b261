"""The requests: batches of equal length, mixed lengths that arrive over time, one long prompt. The same for all sides."""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from benchmarks.engine.sides.wire import Job

FIRST = 8
"""Lower tokens are a vocabulary's special ones."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    prompt: int
    new: int
    """Prompt and output of each request of a batch."""
    mixed: int
    mixed_prompt: tuple[int, int]
    mixed_new: tuple[int, int]
    gap_s: float
    """Mean time between arrivals; exponential, as if from many independent users."""
    prefill: int

    def with_rounds(self, rounds: int | None) -> Self:
        """Return the size with another number of rounds, if one is given."""
        return self if rounds is None else dataclasses.replace(self, rounds=rounds)


FULL = Size(3, 32, 100, 64, (8, 256), (16, 200), 0.02, 2000)
QUICK = Size(1, 8, 4, 8, (4, 24), (2, 6), 0.002, 100)
BATCHES: Mapping[str, int] = {"batch1": 1, "batch8": 8, "batch64": 64}
WORKLOADS = (*BATCHES, "mixed", "prefill")


def jobs(name: str, size: Size, vocabulary: int, number: int) -> list[Job]:
    """Return a workload's requests in round `number`. Prompts differ between rounds: no cache has seen them."""
    draw = random.Random(f"{name} {number}")

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(FIRST, vocabulary) for _ in range(length))

    if name in BATCHES:
        return [Job(0.0, prompt(size.prompt), size.new) for _ in range(BATCHES[name])]
    if name == "prefill":
        return [Job(0.0, prompt(size.prefill), 1)]
    shape = random.Random("mixed")  # lengths and arrivals are the same in every round
    made, at = [], 0.0
    for _ in range(size.mixed):
        length, new = shape.randint(*size.mixed_prompt), shape.randint(*size.mixed_new)
        made.append(Job(at, prompt(length), new))
        at += shape.expovariate(1 / size.gap_s)
    return made


def warming(name: str, size: Size, vocabulary: int) -> list[Job]:
    """Return a short form of a workload, all at once: every shape once, and no prompt of a later round."""

    return [Job(0.0, job.prompt, min(job.new, 8)) for job in jobs(name, size, vocabulary, 0)]
