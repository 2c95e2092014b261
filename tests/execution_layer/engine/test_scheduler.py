"""The scheduler: memory is never overspent, nobody starves, and what can never run is refused at once."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from execution_layer.engine.protocol import FinishReason
from execution_layer.engine.scheduler import Limits, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.runtime.errors import Code, CounterfoilError
from tests.execution_layer.engine.steps import (
    FakeMemory,
    advance,
    check_books,
    expected,
    sequence,
)


@dataclass
class Refused:
    code: Code
    text: str


def refusal(call, *arguments) -> Refused:
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments)
    return Refused(caught.value.code, str(caught.value))


@pytest.mark.parametrize(
    ("limits", "prompt", "budget"),
    [
        (Limits(context=256), 257, 1),
        (Limits(context=256), 256, 2),
        (Limits(context=256), 1, 257),
        (Limits(context=256), 1, 2**20),
        (Limits(context=10_000, blocks=2), 129, 1),
        (Limits(context=10_000, blocks=2), 100, 30),
    ],
)
def test_what_exceeds_context_or_memory_is_refused_at_once(limits, prompt, budget):
    refused = refusal(Scheduler(limits).check, prompt, budget)
    assert refused.code is Code.INVALID_ARGUMENT
    assert f"{prompt} prompt tokens" in refused.text
    assert f"budget of {budget}" in refused.text


@pytest.mark.parametrize(
    ("limits", "prompt", "budget"),
    [
        (Limits(context=256), 256, 1),
        (Limits(context=256), 1, 256),
        (Limits(context=10_000, blocks=2), 128, 1),
        (Limits(context=10_000, blocks=2), 64, 65),
    ],
)
def test_what_just_fits_runs_to_its_end(limits, prompt, budget):
    scheduler = Scheduler(limits)
    scheduler.check(prompt, budget)
    item = sequence(prompt, budget)
    scheduler.enqueue(item)
    while item.ended is None:
        assert advance(scheduler)
    assert len(item.output) == budget
    assert item.computed == item.longest
    assert scheduler.free_blocks == limits.blocks


def test_a_full_queue_says_when_to_come_back():
    scheduler = Scheduler(Limits(queue=3))
    for _ in range(3):
        scheduler.enqueue(sequence())
    with pytest.raises(CounterfoilError) as caught:
        scheduler.enqueue(sequence(tenant="b"))
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_s
    assert scheduler.waiting == 3
    scheduler.admit()
    scheduler.enqueue(sequence(tenant="b"))


def test_a_tenant_with_one_request_does_not_wait_behind_one_with_a_hundred():
    scheduler = Scheduler(Limits(sequences=2, queue_per_tenant=100))
    for _ in range(100):
        scheduler.enqueue(sequence(tenant="many", budget=3))
    lonely = sequence(tenant="one")
    scheduler.enqueue(lonely)
    scheduler.admit()
    assert lonely in scheduler.running


def test_tenants_take_turns():
    scheduler = Scheduler(Limits(sequences=9))
    for tenant, count in (("a", 20), ("b", 20), ("c", 1)):
        for _ in range(count):
            scheduler.enqueue(sequence(tenant=tenant))
    scheduler.admit()
    assert [item.request.tenant for item in scheduler.running] == list("abcababab")


def test_a_tenants_own_requests_keep_their_order():
    scheduler = Scheduler(Limits(sequences=1))
    items = [sequence(budget=2) for _ in range(5)]
    for item in items:
        scheduler.enqueue(item)
    order = []
    while scheduler.waiting or scheduler.running:
        order += [item for item, _ in advance(scheduler) if item.ended]
    assert [id(item) for item in order] == [id(item) for item in items]


def test_a_large_request_is_not_overtaken_endlessly_by_small_ones():
    """Blocks that become free are kept for the tenant whose turn it is."""
    scheduler = Scheduler(Limits(blocks=4, context=256))
    for budget in (3, 5, 8, 8):  # so that they never all end together
        scheduler.enqueue(sequence(budget=budget, tenant="small"))
    scheduler.admit()
    large = sequence(prompt=256, tenant="large")
    scheduler.enqueue(large)
    for _ in range(30):
        scheduler.enqueue(sequence(budget=8, tenant="small"))
        advance(scheduler)
        if large in scheduler.running or large.ended:
            return
    pytest.fail("the large request never ran")


def test_a_long_prompt_does_not_stop_those_that_decode():
    scheduler = Scheduler(Limits(prefill_rows=16))
    talker = sequence(budget=40)
    scheduler.enqueue(talker)
    advance(scheduler)
    scheduler.enqueue(sequence(prompt=200, tenant="b"))
    for step in range(12):
        plan = advance(scheduler)
        assert [count for item, count in plan if item is talker] == [1]
        assert sum(count for item, count in plan if item is not talker) <= 16, step


def test_prompts_share_a_steps_rows_and_all_get_their_turn():
    scheduler = Scheduler(Limits(prefill_rows=10))
    items = [sequence(prompt=25, tenant=str(n)) for n in range(4)]
    for item in items:
        scheduler.enqueue(item)
    steps = 0
    while any(item.ended is None for item in items):
        assert sum(count for _, count in advance(scheduler)) <= 10 + len(items)
        steps += 1
    assert steps <= 12


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    """Prompts of one token to five blocks; many begin with the same blocks, some differ in one token of them."""
    prompt = [draw(st.integers(1, 2))] * draw(st.integers(1, 300))
    if draw(st.booleans()):
        prompt[draw(st.integers(0, len(prompt) - 1))] = 3
    return tuple(prompt)


class Machine(RuleBasedStateMachine):
    """Arrivals, steps and cancellations in any order, against books and answers of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(
            sequences=5, queue=12, queue_per_tenant=6, prefill_rows=32, blocks=7, context=320
        )
        self.scheduler = Scheduler(self.limits)
        self.memory = FakeMemory()
        self.alive: list[SequenceState] = []

    @rule(prompt=prompts(), budget=st.integers(1, 40), tenant=st.sampled_from("abc"))
    def arrive(self, prompt: tuple[int, ...], budget: int, tenant: str) -> None:
        item = sequence(prompt, budget, tenant)
        own = len(self.scheduler._waiting.get(tenant, ()))
        if item.longest > 320:
            assert refusal(self.scheduler.check, len(prompt), budget).code is Code.INVALID_ARGUMENT
        elif self.scheduler.waiting >= 12 or own >= 6:
            assert refusal(self.scheduler.enqueue, item).code is Code.OVERLOADED
        else:
            self.scheduler.check(len(prompt), budget)
            self.scheduler.enqueue(item)
            self.alive.append(item)

    @rule()
    def step(self) -> None:
        first = next(iter(self.scheduler.running), None)
        plan = advance(self.scheduler, self.memory)
        assert bool(plan) == bool(self.alive)
        if first is not None:
            assert first in [item for item, _ in plan]
        for item in self.alive:
            if item.ended is not None:
                budget = item.request.settings.max_tokens
                output, activations = expected(item.request.prompt_ids, budget)
                assert (tuple(item.output), item.hasher.finish()) == (output, activations)
        self.alive = [item for item in self.alive if item.ended is None]
        counts = [count for _, count in plan if count > 1]
        assert sum(counts) <= 32
        assert all(count > 0 for _, count in plan)
        assert max(Counter(id(item) for item, _ in plan).values(), default=1) == 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
        item.ended = FinishReason.CANCELLED
        assert list(self.scheduler.remove_ended()) == [item]
        assert item.blocks == []

    @invariant()
    def the_books_are_right(self) -> None:
        check_books(self.scheduler)
        everyone = list(self.scheduler.everyone())
        assert set(everyone) == set(self.alive)
        assert len(everyone) == len(self.scheduler.running) + self.scheduler.waiting

    def teardown(self) -> None:
        """All that arrived ends, and all blocks are free again."""
        steps = sum(item.longest for item in self.alive) + len(self.alive)
        for _ in range(steps):
            self.step()
        assert not self.alive
        assert self.scheduler.free_blocks == self.limits.blocks


TestAnyOrderOfEvents = Machine.TestCase
TestAnyOrderOfEvents.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
