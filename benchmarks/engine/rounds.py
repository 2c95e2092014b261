"""The order of events: all sides are started and warmed up, then work in turn, one at a time."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.engine.models import facts, make
from benchmarks.engine.processes import Command, SideError, SideProcess
from benchmarks.engine.sides.wire import Job
from benchmarks.engine.workloads import Size, jobs, warming

Tick = Callable[[str, int], None]
"""Called with (what is going on, passes done)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One workload through one side."""

    jobs: Sequence[Job]
    times: Sequence[Sequence[float]]
    memory: int


@dataclass(slots=True)
class Measured:
    """A model's raw material."""

    facts: Mapping[str, Any]
    versions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a side has no figures."""
    passes: dict[tuple[str, str], list[Pass]] = field(default_factory=dict)
    """For (workload, side), one of each round."""
    agreed: dict[str, float] = field(default_factory=dict)
    """Share of our greedy tokens that a side has too; bf16 may round differently, so less than 1 is not a fault."""


def measure(
    name: str,
    sides: Mapping[str, Command | str],
    workloads: Sequence[str],
    size: Size,
    *,
    threads: int,
    work: Path,
    tick: Tick,
) -> Measured:
    """Run all rounds of one model; a side that fails is omitted, with the reason."""
    tick(f"{name}: making the model", 0)
    folder = make(name, work)
    found = Measured(facts(folder))
    vocabulary = found.facts["vocabulary"]
    with _Running(found) as running:
        for side, command in sides.items():
            tick(f"{name}: starting {side}", 0)
            running.start(side, command, folder, threads, work / f"{name}-{side}.log")
        for workload in workloads:
            for side in running.in_turn(0):
                tick(f"{name}: {workload}, warming up {side}", 1)
                running.run(side, warming(workload, size, vocabulary))
        for number in range(1, size.rounds + 1):
            for place, workload in enumerate(workloads):
                asked, said = jobs(workload, size, vocabulary, number), {}
                for side in running.in_turn(number + place):
                    tick(f"{name}: round {number} of {size.rounds}, {workload}, {side}", 1)
                    answer = running.run(side, asked)
                    if answer is not None:
                        made = Pass(asked, answer["times"], answer["memory"])
                        found.passes.setdefault((workload, side), []).append(made)
                        said[side] = answer["tokens"]
                _compare(found, said)
    found.passes = {key: each for key, each in found.passes.items() if key[1] not in found.failed}
    return found


class _Running:
    def __init__(self, found: Measured) -> None:
        self._found = found
        self._alive: dict[str, SideProcess] = {}
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def start(
        self, side: str, command: Command | str, folder: Path, threads: int, log: Path
    ) -> None:
        if isinstance(command, str):
            self._found.failed[side] = command
            return
        try:
            process = SideProcess(command, folder, threads, log)
        except SideError as error:
            self._found.failed[side] = str(error)
            return
        self._alive[side] = self._ends.enter_context(process)
        self._found.versions[side] = process.versions

    def in_turn(self, number: int) -> Iterator[str]:
        """Yield the sides that still work, a different one first each time."""
        names = list(self._alive)
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            if name in self._alive:
                yield name

    def run(self, side: str, asked: Sequence[Job]) -> dict[str, Any] | None:
        try:
            answer = self._alive[side].run(asked)
            _check(answer["tokens"], asked)
        except SideError as error:
            self._found.failed[side] = str(error)
            del self._alive[side]
            return None
        return answer


def _check(tokens: Sequence[Sequence[int]], asked: Sequence[Job]) -> None:
    got, wanted = [len(each) for each in tokens], [job.new for job in asked]
    if got != wanted:
        raise SideError(f"gave {sum(got)} of {sum(wanted)} tokens")


def _compare(found: Measured, said: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Keep the lowest share of tokens that a side has in common with ours, up to the first that differs."""
    for side, rows in said.items() if "ours" in said else ():
        pairs = list(zip(rows, said["ours"], strict=True))
        same = sum(_common(one, other) for one, other in pairs)
        share = same / sum(len(ours) for _, ours in pairs)
        found.agreed[side] = min(found.agreed.get(side, 1.0), round(share, 4))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(one))
