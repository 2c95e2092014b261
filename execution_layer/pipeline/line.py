"""A chain of stages as the first one sees it: boundaries go in at one end and come out at the other, in order."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from execution_layer.pipeline.boundary import Boundary, Spent
from shared.model.backend import Cache, Rows

T = TypeVar("T")
Arrived = Callable[[Boundary | Exception], None]
"""Takes what comes out of a chain, from any thread: boundaries in order, or the error after which nothing more comes."""


class Line(Protocol):
    """One connected chain."""

    def send(self, boundary: Boundary) -> None:
        """Let a boundary in; returns at once. What is wrong with it, or with a stage, arrives at the other end."""

    def close(self) -> None:
        """Stop all of it, and wait until nothing is computed any more; what is under way is lost."""


Connect = Callable[[Arrived], Line]
"""Connects a chain, whose caches are empty; blocks meanwhile, and raises what prevents it."""


class StageLike(Protocol):
    """A range of layers, as `shared.model.decoder.Stage`."""

    first: int
    last: int

    def cache(self, blocks: int) -> Cache:
        """Make room for the keys and values of these layers."""

    def __call__(self, states: Tensor, rows: Sequence[Rows], cache: Cache, /) -> Tensor:
        """Return the states (R, D) after these layers; those given may be overwritten."""


class Computing:
    """One connection's steps through a stage, in its order."""

    def __init__(self, stage: StageLike, blocks: int, width: int, limit: int) -> None:
        """Make a cache of so many blocks; a step has up to `limit` rows of `width` numbers."""
        self._stage, self._width, self._limit = stage, width, limit
        self._cache: Cache = stage.cache(blocks)
        self._number = 0

    def __call__(self, boundary: Boundary) -> Boundary:
        """Return the boundary behind the stage; MALFORMED for one that may not come now."""
        boundary.check(self._number, self._width, self._limit)
        states = self._stage(boundary.states, boundary.rows, self._cache)
        self._number += 1
        return replace(boundary, states=states)


class StageLine(Generic[T]):
    """What computes steps, in a thread of its own. What it has computed goes to `out`."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], T],
        out: Callable[[T | Exception], None],
        note: Callable[[T, Spent], T] = lambda done, _spent: done,
    ) -> None:
        """`name` is the thread's; whatever `work` raises ends the line. `note` returns what was done with what it took."""
        self._work, self._out, self._note = work, out, note
        self._queue: queue.SimpleQueue[tuple[float, T | Exception] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, arrived: T | Exception) -> None:
        """Take what comes out of the stage before; an error passes through."""
        self._queue.put((time.perf_counter(), arrived))

    def close(self) -> None:
        """Stop after the step that is being computed; blocks until then."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (queued := self._queue.get()) is not None:
            came, arrived = queued
            if not isinstance(arrived, Exception):
                begun = time.perf_counter()
                try:
                    arrived = self._work(arrived)
                    arrived = self._note(arrived, Spent(begun - came, time.perf_counter() - begun))
                except Exception as error:  # noqa: BLE001  # whatever it is, the next stage cannot go on
                    arrived = error
            self._out(arrived)
            if isinstance(arrived, Exception):
                return


def noted(boundary: Boundary, spent: Spent) -> Boundary:
    """Return a boundary with what one more stage took."""
    return replace(boundary, spent=(*boundary.spent, spent))


def named(stage: StageLike) -> str:
    """Return the name of the thread that computes a stage."""
    return f"layers {stage.first}:{stage.last}"


class LocalLine:
    """A chain of stages in threads of this process: one for each of its devices, for instance.

    `delayed` puts a link around what takes the boundaries of a hop: into stage 0, 1, …, and last out of the chain.
    """

    def __init__(
        self,
        stages: Sequence[StageLike],
        blocks: int,
        width: int,
        limit: int,
        out: Arrived,
        delayed: Callable[[int, Arrived], Arrived] = lambda _place, take: take,
    ) -> None:
        self._lines: list[StageLine[Boundary]] = []
        out = delayed(len(stages), out)
        for place, stage in reversed(list(enumerate(stages))):
            work = Computing(stage, blocks, width, limit)
            line = StageLine(named(stage), work, out, noted)
            self._lines.insert(0, line)
            out = delayed(place, line.send)
        self._into = out

    def send(self, boundary: Boundary) -> None:
        """Let a boundary in."""
        self._into(boundary)

    def close(self) -> None:
        """Stop all stages."""
        for line in self._lines:
            line.close()
