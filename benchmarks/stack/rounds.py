"""The order of events: warm up, then rounds of pairs, passes and a burst of receipts."""

import asyncio
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from benchmarks.stack.models import Checkpoint
from benchmarks.stack.sides import (
    Answer,
    EngineSide,
    Side,
    StackSide,
    engine_side,
    node_settings,
    plan_for,
    stack_side,
)
from execution_layer.client.prompts import read_prompts
from shared.installation import layout
from shared.model.config import ModelConfig
from shared.statements.request import RequestBody, SamplingSettings

PROMPTS = Path(layout.__file__).with_name("prompts.jsonl")
Tick = Callable[[str, int], None]
"""Called with (what is going on, requests done)."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    prompts: int
    most_tokens: int
    """Budgets in the file of prompts are cut to this."""
    singles: int
    """Prompts asked one at a time, on both sides, with a budget of at most eight tokens."""
    burst: int
    """Requests of one token, for the receipts' rate."""
    concurrency: int = 8
    burst_concurrency: int = 32

    def with_rounds(self, rounds: int | None) -> Self:
        """Return the size with another number of rounds, if one is given."""
        return self if rounds is None else dataclasses.replace(self, rounds=rounds)

    @property
    def requests(self) -> int:
        """Requests of one model, warm-up included."""
        return 2 * self.concurrency + self.rounds * (
            2 * self.singles + 2 * self.prompts + self.burst
        )

    def to_json(self) -> dict[str, int]:
        """Return the settings."""
        return dataclasses.asdict(self)


FULL = Size(rounds=3, prompts=80, most_tokens=40, singles=24, burst=128)
QUICK = Size(rounds=1, prompts=8, most_tokens=8, singles=2, burst=16)


@dataclass(frozen=True, slots=True)
class Pass:
    """All prompts through one side, a fixed number under way."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all answers over the time of the whole pass."""
        return sum(len(answer.tokens) for answer in self.answers) / self.seconds


@dataclass(frozen=True, slots=True)
class Round:
    """One round's raw material."""

    pairs: Sequence[tuple[Answer, Answer]]
    """(engine, stack), one request at a time."""
    engine: Pass
    stack: Pass
    receipts_per_s: float


async def measure(
    checkpoint: Checkpoint, size: Size, tick: Tick
) -> tuple[dict[str, Any], list[Round]]:
    """Start both sides on a model and run all rounds; return facts about the model and the rounds."""
    tick("making the model", 0)
    with _folders() as (made, installed):
        plan = plan_for(installed, checkpoint(made))
        tick("starting node, audit server, database", 0)
        async with stack_side(plan) as stack:
            settings = node_settings(plan)
            async with engine_side(settings) as engine:
                work = _Work(engine, stack, size, tick)
                await work.warm_up()
                rounds = [await work.round(number) for number in range(1, size.rounds + 1)]
            tick("stopping", 0)
        config = ModelConfig.from_folder(settings.model)
        facts = {
            "shape": _shape(config),
            "threads": settings.threads,
            "max_batch": settings.max_batch,
            "frame_interval_ms": settings.frame_interval_ms,
        }
        return facts, rounds


@contextlib.contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    """Return folders for a model and for an installation; the database's own user can traverse both."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-bench-") as name:
        base = Path(name)
        base.chmod(0o711)
        for folder in (made := base / "model", installed := base / "up"):
            folder.mkdir(mode=0o711)
        yield made, installed


class _Work:
    def __init__(self, engine: EngineSide, stack: StackSide, size: Size, tick: Tick) -> None:
        self._engine, self._stack, self._size, self._tick = engine, stack, size, tick
        self._prompts = prompts(size.prompts, size.most_tokens)
        self._singles = prompts(size.singles, min(8, size.most_tokens))
        for body in (*self._prompts, *self._singles):
            engine.prepare(body)

    async def warm_up(self) -> None:
        """Let both sides do everything once: first requests open connections and read directories."""
        few = self._prompts[: self._size.concurrency]
        for side in (self._engine, self._stack):
            await self._all(side, few, self._size.concurrency, "warming up")

    async def round(self, number: int) -> Round:
        """Run one round."""
        size, shown = self._size, f"round {number} of {self._size.rounds}"
        pairs = []
        for place, body in enumerate(self._singles):
            pairs.append(await self._pair(body, place + number))
            self._tick(f"{shown}, one at a time", 2)
        await self._stack.logged()
        engine = await self._all(self._engine, self._prompts, size.concurrency, f"{shown}, engine")
        stack = await self._all(self._stack, self._prompts, size.concurrency, f"{shown}, stack")
        await self._stack.logged()
        return Round(pairs, engine, stack, await self._burst(f"{shown}, receipts"))

    async def _pair(self, body: RequestBody, place: int) -> tuple[Answer, Answer]:
        if place % 2:
            stack = await self._stack.ask(body)
            return await self._engine.ask(body), stack
        engine = await self._engine.ask(body)
        return engine, await self._stack.ask(body)

    async def _burst(self, shown: str) -> float:
        """Return receipts per second, from the first call until the log has the last one."""
        one = RequestBody(SamplingSettings(max_tokens=1), prompt="A receipt", seed=bytes(32))
        begun = time.perf_counter()
        await self._all(self._stack, [one] * self._size.burst, self._size.burst_concurrency, shown)
        await self._stack.logged()
        return self._size.burst / (time.perf_counter() - begun)

    async def _all(
        self, side: Side, bodies: Sequence[RequestBody], concurrency: int, shown: str
    ) -> Pass:
        """Answer all prompts, in their order, `concurrency` at a time."""
        answers: dict[int, Answer] = {}
        waiting = iter(enumerate(bodies))

        async def worker() -> None:
            for place, body in waiting:
                answers[place] = await side.ask(body)
                self._tick(shown, 1)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
        seconds = time.perf_counter() - begun
        return Pass([answers[place] for place in range(len(bodies))], seconds)


def prompts(count: int, most_tokens: int) -> list[RequestBody]:
    """Return the first prompts of the demonstration's file, each with a seed and a bounded budget."""
    return [
        RequestBody(
            settings=dataclasses.replace(
                line.settings, max_tokens=min(line.settings.max_tokens, most_tokens)
            ),
            messages=line.messages,
            prompt=line.prompt,
            seed=sha256(b"counterfoil benchmark %d" % place).digest(),
        )
        for place, line in enumerate(read_prompts(PROMPTS)[:count])
    ]


def _shape(config: ModelConfig) -> str:
    return (
        f"{config.hidden_size} wide, {config.layers} layers, {config.heads}/{config.kv_heads} heads, "
        f"FFN {config.intermediate_size}, {config.dtype}"
    )
