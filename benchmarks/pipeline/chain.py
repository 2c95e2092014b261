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
from execution_layer.pipeline.line import Arrived, Line, LocalLine, StageLike
from execution_layer.pipeline.steps import ChainSteps
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


@cache
def wide() -> tuple[ModelConfig, Weights]:
    """Return the configuration and random weights of `wide`."""
    config = ModelConfig.from_json(dict(MODELS["wide"]))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape).to(compute_dtype(config))
        if len(shape) == 1
        else (torch.randn(shape, generator=generator) * 0.02).to(compute_dtype(config))
        for name, shape in expected_shapes(config).items()
    }
    return config, weights


@cache
def ends() -> Ends:
    """Return the embedding and the head of `wide`."""
    return Ends(*wide(), BACKEND)


def computed(count: int) -> list[StageLike]:
    """Return `wide`, cut into so many equal stages."""
    config, weights = wide()
    borders = [config.layers * number // count for number in range(count + 1)]
    return [
        Stage(config, weights, BACKEND, first, last) for first, last in itertools.pairwise(borders)
    ]


def modelled(count: int, cost: Cost) -> list[StageLike]:
    """Return so many stages that cost the same."""
    return [Modelled(number, number + 1, cost) for number in range(count)]


@dataclass
class Chain:
    """Stages, the seconds of each hop, and how many steps are under way."""

    stages: Sequence[StageLike]
    hop_s: float
    depth: int
    broken: Callable[[], None] = field(default=lambda: None, init=False)
    """Breaks the chain that is connected."""

    def steps(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        """Return what computes an engine's steps; the first stage is where the engine is, so the way to it is no hop."""
        width = ends().config.hidden_size

        def connect(out: Arrived) -> Line:
            self.broken = lambda: out(ConnectionResetError("a stage has died"))
            return LocalLine(self.stages, blocks, width, 4096, out, self._delayed)

        return ChainSteps(ends(), connect, self.depth, wake)

    def _delayed(self, place: int, take: Arrived) -> Arrived:
        return take if place == 0 or not self.hop_s else Link(self.hop_s, take)


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


async def serve(chain: Chain, sequences: int, tokens: int, *, breaks: bool = False) -> Served:
    """Serve so many sequences at once; with `breaks` the chain dies once, when half of the tokens are there."""
    limits = Limits(sequences=sequences, prefill_rows=64, blocks=4 * sequences + 8, context=256)
    vocabulary = Vocabulary(models.WordLevel({f"t{n}": n for n in range(2048)}))
    engine = LocalEngine(ends(), Tokenizer(vocabulary, None, ()), limits, steps=chain.steps)
    await engine.start()
    begun, broken, left = time.perf_counter(), 0.0, sequences * tokens // 2 if breaks else -1

    async def one(number: int) -> list[float]:
        nonlocal broken, left
        prompt = tuple((number * 37 + place * 11) % 2048 for place in range(PROMPT))
        how = SamplingSettings(tokens, temperature_ppm=0)
        came: list[float] = []
        async for event in engine.submit(GenerationRequest(str(number), "a", prompt, how, SEED)):
            if isinstance(event, Finished):
                return came
            came.append(time.perf_counter())
            left -= 1
            if left == 0:
                broken = time.perf_counter()
                chain.broken()
        raise AssertionError

    times = await asyncio.gather(*(one(number) for number in range(sequences)))
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
    )
