"""A chain of any cut gives the bits of one node, whatever is under way, and nothing is lost or doubled when it breaks."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from execution_layer.engine import engine as engine_module
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, FinishReason
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.line import Arrived, Line, LocalLine
from execution_layer.pipeline.steps import ChainSteps
from shared.model.backend import Rows
from shared.model.decoder import Decoder, Stage
from shared.runtime.errors import CounterfoilError
from shared.statements.request import SamplingSettings
from tests.execution_layer.engine.traffic import (
    Arrival,
    Mix,
    Served,
    check,
    fixed,
    mixes,
    request,
    serve,
    tokenizer,
    tokens_of,
)
from tests.shared.model import tiny

LAYERS = 5
ROWS = 512
WHOLE = (0, LAYERS)
few = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def model(dtype: str = "bfloat16") -> Decoder:
    config = tiny.config(num_hidden_layers=LAYERS, dtype=dtype)
    return Decoder(config, tiny.weights(config), tiny.BACKEND)


@cache
def stage(dtype: str, first: int, last: int) -> Stage:
    """Stages keep no state, and one thread uses each at a time."""
    of = model(dtype).config
    return Stage(of, tiny.weights(of), tiny.BACKEND, first, last)


def stages(cuts: Sequence[int], dtype: str = "bfloat16") -> list[Stage]:
    of, borders = model(dtype).config, sorted({*WHOLE, *cuts})
    weights = tiny.weights(of)
    return [Stage(of, weights, tiny.BACKEND, first, last) for first, last in pairwise(borders)]


@dataclass
class Chains:
    """Connects chains of given cuts, one after the other; each is broken in its own way."""

    decoder: Decoder
    cuts: Callable[[], Sequence[Stage]]
    depth: int
    breaks: list[Callable[[Arrived], Arrived]] = field(default_factory=list)
    """What stands in the way of what a chain returns: the first chain's, the second's, …; the rest is whole."""
    stall_s: float = 60.0
    connected: int = 0
    steps: ChainSteps | None = None

    def __call__(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        def connect(out: Arrived) -> Line:
            self.connected += 1
            width = self.decoder.config.hidden_size
            spoilt = self.breaks.pop(0)(out) if self.breaks else out
            return LocalLine(self.cuts(), blocks, width, ROWS, spoilt)

        self.steps = ChainSteps(self.decoder, connect, self.depth, wake, stall_s=self.stall_s)
        return self.steps


def cuts() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, LAYERS - 1), max_size=LAYERS - 1)


def dying(after: int) -> Callable[[Arrived], Arrived]:
    """Lose everything from some boundary on, and say that the connection is gone."""

    def around(out: Arrived) -> Arrived:
        left = after

        def take(arrived: Boundary | Exception) -> None:
            nonlocal left
            if left >= 0:
                out(arrived if left else ConnectionResetError("a stage has died"))
            left -= 1

        return take

    return around


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@few
@given(mix=mixes(), where=cuts(), depth=st.integers(1, 7))
def test_a_chain_of_any_cut_serves_what_one_node_computes(dtype, mix, where, depth):
    seen = Counter[str]()
    chains = Chains(model(dtype), lambda: stages(where, dtype), depth)
    check(model(dtype), mix, seen, chains)
    event("hits" if seen["hits"] else "no hits")
    event("preemptions" if seen["preemptions"] else "no preemptions")
    assert chains.connected <= 1  # none where nobody comes to run


@few
@given(
    mix=mixes(),
    where=st.lists(cuts(), min_size=4, max_size=4),
    depth=st.integers(1, 7),
    deaths=st.lists(st.integers(0, 30), max_size=3),
)
def test_no_token_is_lost_or_doubled_by_a_chain_that_dies_at_any_moment(mix, where, depth, deaths):
    left = iter(where)
    chains = Chains(model(), lambda: stages(next(left)), depth, [dying(after) for after in deaths])
    check(model(), mix, None, chains)
    event(f"{chains.connected} chains")


def test_under_memory_pressure_steps_under_way_keep_their_blocks():
    base = tokens_of(bytes(range(32)), 130)
    how = SamplingSettings(40, temperature_ppm=0)
    mix = Mix(
        (
            Arrival(base, how, bytes(32)),
            Arrival(base, how, bytes(32), at=9, tenant="b"),
            *(Arrival(tokens_of(bytes([n]) * 32, 90), how, bytes(32), at=4) for n in (3, 5, 9)),
        ),
        sequences=8,
        prefill_rows=40,
        blocks=6,
    )
    seen = Counter[str]()
    check(model(), mix, seen, Chains(model(), lambda: stages([1, 3]), 6))
    assert seen["preemptions"] >= 2


def altered(change: Callable[[Boundary], Boundary | None]) -> Callable[[Arrived], Arrived]:
    """Change what a chain returns for its fourth step."""

    def around(out: Arrived) -> Arrived:
        def take(arrived: Boundary | Exception) -> None:
            changed = arrived
            if isinstance(arrived, Boundary) and arrived.number == 3:
                changed = change(arrived) or ConnectionResetError("gone")
            out(changed)

        return take

    return around


def _nan(boundary: Boundary) -> Boundary:
    states = boundary.states.clone()
    states[0, 0] = float("nan")
    return replace(boundary, states=states)


def _other_rows(boundary: Boundary) -> Boundary:
    first, *rest = boundary.rows
    return replace(boundary, rows=(replace(first, position=first.position + 1), *rest))


HOSTILE = {
    "not a number": _nan,
    "another position": _other_rows,
    "another width": lambda it: replace(it, states=it.states[:, :-1]),
    "fewer rows": lambda it: replace(it, states=it.states[:-1]),
    "another dtype": lambda it: replace(it, states=it.states.double()),
    "twice": lambda it: replace(it, number=it.number - 1),
    "another step": lambda it: replace(it, number=it.number + 1),
    "no rows": lambda it: replace(it, rows=()),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_chain_may_not_return_is_not_used(what):
    chains = Chains(model(), lambda: stages([2]), 4, [altered(HOSTILE[what])])
    check(model(), Mix(tuple(fixed(5))), None, chains)
    assert chains.connected == 2


@pytest.mark.parametrize("what", HOSTILE)
def test_a_stage_computes_nothing_for_what_it_may_not_be_given(what):
    came: list[Boundary | Exception] = []
    line = LocalLine([stage("bfloat16", 0, 2)], 4, model().config.hidden_size, ROWS, came.append)
    width = model().config.hidden_size
    good = Boundary(0, (Rows(2, 0, (1,)),), torch.zeros(2, width))
    spoilt = HOSTILE[what](good)
    if what == "another position":
        spoilt = replace(good, rows=(Rows(2, 0, (9,)),))  # a block that the stage does not have
    line.send(spoilt)
    line.send(good)
    for thread in line._lines:
        thread._thread.join(5)
    (error,) = came
    assert isinstance(error, CounterfoilError | ValueError), error


async def test_a_chain_that_cannot_be_had_ends_what_waits_for_it_and_the_next_one_serves():
    def no_line(_out: Arrived) -> Line:
        raise ConnectionRefusedError("nobody is there")

    made: list[ChainSteps] = []

    def steps(_blocks: int, wake: Callable[[], None]) -> ChainSteps:
        made.append(ChainSteps(model(), no_line, 3, wake, patience_s=0.05))
        return made[0]

    served = await serve(model(), Mix(tuple(fixed(4))), None, steps)
    assert {one.end.finish_reason for one in served} == {FinishReason.FAILED}
    assert [one.tokens for one in served] == [[]] * 4


async def test_a_chain_from_which_nothing_comes_any_more_is_connected_again(monkeypatch):
    """Nothing says so, and nothing wakes the engine: it looks from time to time."""
    monkeypatch.setattr(engine_module, "LOOK_EVERY_S", 0.02)

    def hanging(out: Arrived) -> Arrived:
        return lambda arrived: out(arrived) if getattr(arrived, "number", 0) < 4 else None

    chains = Chains(model(), lambda: stages([2]), 3, [hanging], stall_s=0.3)
    engine = LocalEngine(model(), tokenizer(), steps=chains)
    await engine.start()
    seen = Served()
    async for happened in engine.submit(request(fixed(1)[0])):
        if isinstance(happened, Finished):
            seen.finished.append(happened)
    await engine.stop()
    assert seen.end.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    assert chains.connected == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("layers 0:2")]


async def test_an_engine_whose_chain_dies_does_not_wait_to_look_again(monkeypatch):
    monkeypatch.setattr(engine_module, "LOOK_EVERY_S", 600.0)
    chains = Chains(model(), lambda: stages([2]), 3, [dying(4), dying(2)])
    engine = LocalEngine(model(), tokenizer(), steps=chains)
    await engine.start()
    async with asyncio.timeout(60):
        async for happened in engine.submit(request(fixed(1)[0])):
            if isinstance(happened, Finished):
                assert happened.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    await engine.stop()
    assert chains.connected == 3


async def test_an_engine_of_a_chain_stops_while_steps_are_under_way():
    def swallow(_out: Arrived) -> Arrived:
        return lambda _arrived: None

    chains = Chains(model(), lambda: stages([2]), 3, [swallow])
    engine = LocalEngine(model(), tokenizer(), steps=chains)
    await engine.start()
    generation = engine.submit(request(fixed(1)[0]))
    seen = Served()
    await engine.stop()
    async for happened in generation:
        seen.finished.append(happened)
    assert seen.end.finish_reason is FinishReason.FAILED


def test_as_many_steps_are_under_way_as_the_depth_says():
    """With four sequences and a depth of four, none waits for another's step."""
    most = 0
    boundaries: list[Boundary] = []

    def counting(out: Arrived) -> Arrived:
        def take(arrived: Boundary | Exception) -> None:
            assert isinstance(arrived, Boundary)
            boundaries.append(arrived)
            out(arrived)

        return take

    chains = Chains(model(), lambda: stages([1, 2, 3]), 4, [counting])
    ordinary = ChainSteps.begin

    def begin(self: ChainSteps, step) -> None:
        nonlocal most
        ordinary(self, step)
        most = max(most, self._sent - self._received)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChainSteps, "begin", begin)
        check(model(), Mix(tuple(fixed(4))), None, chains)
    assert most == 4
    assert max(len(boundary.rows) for boundary in boundaries) <= 4
