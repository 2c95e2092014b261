"""Memory as it is needed: blocks are counted, given up under pressure, and everything still ends with its own answer."""

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from execution_layer.engine.blocks import BlockPool
from execution_layer.engine.prefix import PrefixCache
from execution_layer.engine.protocol import FinishReason
from execution_layer.engine.scheduler import Limits, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.model.backend import blocks_for
from tests.execution_layer.engine.steps import (
    FakeMemory,
    advance,
    check_books,
    distinct,
    expected,
    run_all,
    sequence,
)

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


def enqueued(scheduler: Scheduler, *items: SequenceState) -> tuple[SequenceState, ...]:
    for item in items:
        scheduler.enqueue(item)
    return items


def test_a_block_is_free_again_when_its_last_holder_lets_go():
    pool = BlockPool(2, cache := PrefixCache())
    block = pool.allocate()
    cache.put(b"key", block, ())
    pool.hold(block)
    pool.release(block)
    assert pool.available == 1
    pool.release(block)
    assert (pool.available, pool.is_idle(block)) == (2, True)


def test_a_block_that_nobody_holds_cannot_be_released_or_shared():
    pool = BlockPool(2, PrefixCache())
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError):
        pool.release(block)
    with pytest.raises(KeyError):
        pool.hold(block)


def test_an_empty_pool_says_so_before_it_is_asked():
    pool = BlockPool(1, PrefixCache())
    assert pool.can_allocate(1)
    assert not pool.can_allocate(2)
    pool.allocate()
    assert not pool.can_allocate(1)
    with pytest.raises(AssertionError):
        pool.allocate()


def test_cached_blocks_are_overwritten_last_and_the_least_recently_used_first():
    pool = BlockPool(4, cache := PrefixCache())
    blocks = [pool.allocate() for _ in range(3)]
    for block in blocks:
        cache.put(bytes([block]), block, ())
        pool.release(block)
    pool.hold(blocks[0])
    pool.release(blocks[0])
    assert pool.allocate() not in blocks
    assert [pool.allocate() for _ in range(3)] == [blocks[1], blocks[2], blocks[0]]
    assert len(cache) == 0


def test_a_sequence_holds_what_it_has_computed_and_not_what_it_may_need():
    scheduler = Scheduler(Limits(blocks=32, context=640, prefill_rows=100))
    (item,) = enqueued(scheduler, sequence(130, 400))
    held = []
    while item.ended is None:
        advance(scheduler)
        held.append((item.computed, len(item.blocks)))
    assert all(
        blocks == blocks_for(computed, scheduler.limits.block) for computed, blocks in held[:-1]
    )
    assert held[0] == (100, 2)
    assert scheduler.free_blocks == 32


def test_more_sequences_run_together_than_their_worst_cases_would_permit():
    scheduler = Scheduler(Limits(blocks=8, context=512))
    items = enqueued(scheduler, *(sequence(20, 480) for _ in range(6)))
    advance(scheduler)
    assert scheduler.running == list(items)


def test_the_last_admitted_gives_way_and_runs_again_before_any_new_one():
    scheduler = Scheduler(Limits(blocks=3, context=192))
    first, second, third = enqueued(scheduler, *(sequence(size, 60) for size in (60, 40, 20)))
    while not scheduler.preemptions:
        advance(scheduler)
    assert scheduler.running == [first, second]
    assert third.blocks == []
    new = sequence(1, 1)
    scheduler.enqueue(new)
    while not third.ended:
        advance(scheduler)
        assert new not in scheduler.running or third in scheduler.running or third.ended


def test_the_tenant_that_holds_most_gives_way_first():
    scheduler = Scheduler(Limits(blocks=6, context=384))
    enqueued(scheduler, sequence(60, 200, "first"))
    scheduler.admit()
    many = enqueued(scheduler, *(sequence(distinct(n, 60), 200, "many") for n in range(3)))
    scheduler.admit()
    (late,) = enqueued(scheduler, sequence(60, 200, "late"))
    while not scheduler.preemptions:
        advance(scheduler)
    assert late in scheduler.running
    assert [item in scheduler.running for item in many] == [True, True, False]


def test_the_first_admitted_is_never_preempted():
    scheduler = Scheduler(Limits(blocks=4, context=256))
    (first,) = enqueued(scheduler, sequence(distinct(1, 60), 190, "greedy"))
    scheduler.admit()
    enqueued(scheduler, *(sequence(distinct(n, 60), 100, "b") for n in range(2, 8)))
    while first.ended is None:
        assert first in [item for item, _ in advance(scheduler)]
    assert scheduler.preemptions


@pytest.mark.parametrize("where", ["running", "preempted", "waiting"])
def test_an_ended_sequence_gives_everything_back_wherever_it_stands(where):
    scheduler = Scheduler(Limits(blocks=3, context=192, sequences=3))
    items = enqueued(scheduler, *(sequence(distinct(n, 60), 20) for n in range(4)))
    while not scheduler.preemptions:
        advance(scheduler)
    place = {"running": items[1], "preempted": items[2], "waiting": items[3]}[where]
    place.ended = FinishReason.CANCELLED
    assert list(scheduler.remove_ended()) == [place]
    assert place not in list(scheduler.everyone())
    check_books(scheduler)


def test_a_preempted_sequence_is_hashed_once_and_finds_its_own_blocks_again():
    budget = 150
    limits = Limits(blocks=6, context=384)
    items = [sequence(distinct(n, 100), budget) for n in range(2)]
    scheduler, memory = Scheduler(limits), FakeMemory()
    enqueued(scheduler, *items)
    while any(item.ended is None for item in items):
        advance(scheduler, memory)
        for item in items:
            assert item.hasher.position >= item.computed
    assert scheduler.preemptions
    for item in items:
        assert (tuple(item.output), item.hasher.finish()) == expected(
            item.request.prompt_ids, budget
        )
    assert (
        scheduler.prefix_hits
    )  # its second half waited until the first one ended, in blocks that stayed
    assert [item.cached for item in items] == [0, 0]  # it computed them itself, once


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Limits, list[SequenceState]]:
    """Sequences with common beginnings, and any memory, in any backend's blocks, that holds each of them alone."""
    items = []
    for _ in range(draw(st.integers(1, 9))):
        base = draw(st.integers(0, 2))
        prompt = list(distinct(base, draw(st.integers(2, 260))))
        if draw(st.booleans()):
            prompt[draw(st.integers(0, len(prompt) - 1))] = 255
        items.append(
            sequence(tuple(prompt), draw(st.integers(1, 150)), draw(st.sampled_from("aab")))
        )
    block = draw(st.sampled_from([32, 64, 128]))
    least = max(blocks_for(item.longest, block) for item in items)
    limits = Limits(
        sequences=draw(st.integers(1, 9)),
        prefill_rows=draw(st.integers(1, 300)),
        blocks=draw(st.integers(least, least + 6)),
        block=block,
        context=512,
    )
    return limits, items


@settings(relaxed, max_examples=150)
@given(crowds(), st.booleans())
def test_all_end_with_their_own_answers_in_any_memory_that_holds_each_alone(crowd, at_once):
    scheduler = run_all(*crowd, at_once=at_once)
    event(f"preempted: {scheduler.preemptions > 0}")
    event(f"found in the cache: {scheduler.prefix_hits > 0}")
    assert scheduler.free_blocks == crowd[0].blocks
