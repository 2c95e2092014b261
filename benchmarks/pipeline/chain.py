"""One engine on a chain of stages, with links that hold everything for a while."""

import asyncio
import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from tokenizers import Tokenizer as Vocabulary
from tokenizers import models
from torch import Tensor

from benchmarks.engine.models import MODELS
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, GenerationRequest
from execution_layer.engine.scheduler import Limits
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.depth import Cost
from execution_layer.pipeline.gauge import Gauge
from execution_layer.pipeline.line import Arrived, Line, LocalLine, StageLike
from execution_layer.pipeline.service import MOST_STEPS
from execution_layer.pipeline.steps import ChainSteps
from execution_layer.pipeline.tally import Tally
from shared.model.backend import Cache, Rows
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.decoder import Ends, Stage
from shared.model.weights import Weights, compute_dtype, expected_shapes
from shared.statements.request import SamplingSettings
from shared.text.tokenizer import Tokenizer

BACKEND = CpuBackend()
PROMPT, SEED = 4, bytes(32)


class Link:
    """Hands over in order, each after `seconds`; nothing waits for what was handed over before."""

    def __init__(self, seconds: float, take: Arrived) -> None:
        self._seconds, self._take = seconds, take
        self._queue: queue.SimpleQueue[tuple[float, Boundary | Exception]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def __call__(self, arrived: Boundary | Exception) -> None:
        """Take something in."""
        self._queue.put((time.perf_counter() + self._seconds, arrived))

    def _run(self) -> None:
        while True:
            due, arrived = self._queue.get()
            time.sleep(max(0.0, due - time.perf_counter()))
            self._take(arrived)


@dataclass
class Modelled:
    """A stage that takes its time and computes nothing."""

    first: int
    last: int
    cost: Cost

    def cache(self, blocks: int) -> Cache:
        """Return what stands for a cache."""
        return _NoCache(blocks)

    def __call__(self, states: Tensor, rows: Sequence[Rows], cache: Cache) -> Tensor:  # noqa: ARG002  # as a stage has them
        """Sleep."""
        time.sleep(self.cost.of(len(states)))
        return states


@dataclass
class _NoCache:
    blocks: int


def config() -> ModelConfig:
    """Return the configuration of `wide`."""
    return ModelConfig.from_json(dict(MODELS["wide"]))


@cache
def wide() -> tuple[ModelConfig, Weights]:
    """Return the configuration and random weights of `wide`."""
    of = config()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape).to(compute_dtype(of))
        if len(shape) == 1
        else (torch.randn(shape, generator=generator) * 0.02).to(compute_dtype(of))
        for name, shape in expected_shapes(of).items()
    }
    return of, weights


@cache
def ends() -> Ends:
    """Return the embedding and the head of `wide`."""
    return Ends(*wide(), BACKEND)


def computed(count: int) -> list[StageLike]:
    """Return `wide`, cut into so many equal stages."""
    of, weights = wide()
    borders = [of.layers * number // count for number in range(count + 1)]
    return [Stage(of, weights, BACKEND, first, last) for first, last in itertools.pairwise(borders)]


def modelled(count: int, cost: Cost) -> list[StageLike]:
    """Return so many stages that cost the same."""
    return [Modelled(number, number + 1, cost) for number in range(count)]


class Steppable(Protocol):
    """A chain that can be served from, and broken."""

    @property
    def made(self) -> ChainSteps | None:
        """What computes its steps, once it is served from."""

    def broken(self) -> None:
        """Break the chain that is connected."""

    def steps(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        """Return what computes an engine's steps."""


@dataclass
class Chain:
    """Stages, the seconds of each hop, and how many steps are under way; None: as many as are measured to be best."""

    stages: Sequence[StageLike]
    hop_s: float
    depth: int | None
    made: ChainSteps | None = field(default=None, init=False)
    broken: Callable[[], None] = field(default=lambda: None, init=False)
    """Breaks the chain that is connected."""

    def steps(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        """Return what computes an engine's steps; the first stage is where the engine is, so the way to it is no hop."""
        width = ends().config.hidden_size

        def connect(out: Arrived) -> Line:
            self.broken = lambda: out(ConnectionResetError("a stage has died"))
            return LocalLine(self.stages, blocks, width, 4096, out, self._delayed)

        self.made = ChainSteps(ends(), connect, gauge(self.depth, len(self.stages)), wake)
        return self.made

    def _delayed(self, place: int, take: Arrived) -> Arrived:
        return take if place == 0 or not self.hop_s else Link(self.hop_s, take)


def gauge(depth: int | None, stages: int) -> Gauge:
    """Return a gauge as a node has it, or of a fixed number."""
    return Gauge(2 * stages, most=MOST_STEPS) if depth is None else Gauge(depth)


@dataclass(frozen=True, slots=True)
class Served:
    """What one run served."""

    tokens_per_s: float
    """Of all sequences together, while all of them decode."""
    first_s: float
    """Median time to the first token."""
    token_s: float
    """Median time between two tokens of a sequence."""
    resumed_s: float | None
    """The longest time without any token after the chain was broken, if it was."""
    connected_s: float | None
    """From the break to when the chain was connected again."""
    busy: tuple[float, ...]
    """Seconds that each stage has computed, per second, while all sequences decode."""
    head_s: float
    """What embedding, head and sampling took for a step, on average."""
    depth: int
    """How many steps could be under way at the end."""


async def serve(
    chain: Steppable, sequences: int, tokens: int, *, prompt: int = PROMPT, breaks: bool = False
) -> Served:
    """Serve so many sequences at once, with `prompt` tokens each; with `breaks` the chain dies once, when half of the tokens are
    there.
    """
    limits = Limits(sequences=sequences, prefill_rows=64, blocks=4 * sequences + 8, context=256)
    vocabulary = Vocabulary(models.WordLevel({f"t{n}": n for n in range(2048)}))
    engine = LocalEngine(ends(), Tokenizer(vocabulary, None, ()), limits, steps=chain.steps)
    await engine.start()
    steps = chain.made
    assert steps is not None
    begun, broken, left = time.perf_counter(), 0.0, sequences * tokens // 2 if breaks else -1
    broken_at, seen = 0.0, list[tuple[float, Tally]]()

    async def one(number: int) -> list[float]:
        nonlocal broken, broken_at, left
        ids = tuple((number * 37 + place * 11) % 2048 for place in range(prompt))
        how = SamplingSettings(tokens, temperature_ppm=0)
        came: list[float] = []
        async for event in engine.submit(GenerationRequest(str(number), "a", ids, how, SEED)):
            if isinstance(event, Finished):
                return came
            came.append(time.perf_counter())
            seen.append((came[-1], steps.tally))
            left -= 1
            if left == 0:
                broken, broken_at = time.perf_counter(), time.time()
                chain.broken()
        raise AssertionError

    times = await asyncio.gather(*(one(number) for number in range(sequences)))
    last = steps.tally
    await engine.stop()
    every = sorted(moment for own in times for moment in own)
    assert len(every) == sequences * tokens
    start, stop = max(own[0] for own in times), min(own[-1] for own in times)
    inside = sum(start < moment <= stop for moment in every)
    gaps = [later - sooner for own in times for sooner, later in itertools.pairwise(own)]
    return Served(
        tokens_per_s=inside / (stop - start),
        first_s=statistics.median(own[0] for own in times) - begun,
        token_s=statistics.median(gaps),
        resumed_s=max(late - soon for soon, late in itertools.pairwise(every) if late > broken)
        if breaks
        else None,
        connected_s=last.connected_at - broken_at if breaks and last.connected_at else None,
        busy=_busy([one for one in seen if start <= one[0] <= stop]),
        head_s=last.ends_s / last.steps,
        depth=last.depth,
    )


def _busy(seen: Sequence[tuple[float, Tally]]) -> tuple[float, ...]:
    (since, first), (until, last) = seen[0], seen[-1]
    pairs = zip(first.stages_s, last.stages_s, strict=True)
    return tuple((later - sooner) / (until - since) for sooner, later in pairs)
