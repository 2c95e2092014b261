"""The prefix cache: what was computed is found again by the same tenant, by nobody else, and changes no answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.engine.blocks import BlockPool
from execution_layer.engine.prefix import PrefixCache
from execution_layer.engine.protocol import FinishReason
from execution_layer.engine.scheduler import Limits, Scheduler
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher
from tests.execution_layer.engine.steps import (
    FakeMemory,
    advance,
    check_books,
    distinct,
    expected,
    run_all,
    sequence,
)

LIMITS = Limits(blocks=32, context=512, prefill_rows=512)


def serve(
    scheduler: Scheduler,
    memory: FakeMemory,
    prompt: tuple[int, ...],
    budget: int = 1,
    tenant: str = "a",
) -> SequenceState:
    """Run one sequence to its end and check its answer."""
    item = sequence(prompt, budget, tenant)
    scheduler.enqueue(item)
    while item.ended is None:
        advance(scheduler, memory)
        check_books(scheduler)
    assert (tuple(item.output), item.hasher.finish()) == expected(prompt, budget)
    return item


@pytest.mark.parametrize(
    ("size", "cached"), [(63, 0), (64, 0), (65, 64), (128, 64), (129, 128), (200, 192)]
)
def test_whole_blocks_in_front_of_the_last_prompt_token_are_not_computed_again(size, cached):
    scheduler, memory = Scheduler(LIMITS), FakeMemory()
    assert serve(scheduler, memory, distinct(1, size)).cached == 0
    assert serve(scheduler, memory, distinct(1, size)).cached == cached
    assert scheduler.prefix_hits == cached
    assert scheduler.prefix_misses == 2 * (size - 1) - cached


def test_another_tenant_finds_nothing():
    scheduler, memory = Scheduler(LIMITS), FakeMemory()
    serve(scheduler, memory, distinct(1, 200), tenant="a")
    assert serve(scheduler, memory, distinct(1, 200), tenant="b").cached == 0
    assert serve(scheduler, memory, distinct(1, 200), tenant="a").cached == 192


def test_another_engine_finds_nothing_even_by_the_same_names():
    one, other = PrefixCache(), PrefixCache()
    assert one.root("a") != other.root("a")
    assert one.root("a") == one.root("a")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 191))
def test_one_different_token_ends_the_common_beginning_at_its_block(place):
    scheduler, memory = Scheduler(LIMITS), FakeMemory()
    prompt = distinct(1, 193)
    serve(scheduler, memory, prompt)
    changed = (*prompt[:place], 255, *prompt[place + 1 :])
    assert serve(scheduler, memory, changed).cached == place // LIMITS.block * LIMITS.block


def test_the_next_turn_of_a_chat_finds_the_answer_of_the_last_one():
    scheduler, memory = Scheduler(LIMITS), FakeMemory()
    first = serve(scheduler, memory, distinct(1, 90), budget=120)
    prompt = (*first.request.prompt_ids, *first.output, 7, 8, 9)
    assert serve(scheduler, memory, prompt, budget=3).cached == 192  # of 210 + 3


def test_requests_that_arrive_together_compute_what_they_have_in_common_once():
    scheduler, memory = Scheduler(Limits(blocks=32, context=512, prefill_rows=32)), FakeMemory()
    items = [sequence((*distinct(1, 192), n), 2) for n in range(4)]
    for item in items:
        scheduler.enqueue(item)
    while scheduler.running or scheduler.waiting:
        advance(scheduler, memory)
        check_books(scheduler)
    assert [item.cached for item in items] == [0, 192, 192, 192]
    assert scheduler.prefix_misses == 192


def test_a_sequence_that_waits_for_a_block_of_a_cancelled_one_computes_it():
    scheduler, memory = Scheduler(Limits(blocks=32, context=512, prefill_rows=32)), FakeMemory()
    first, second = (sequence(distinct(1, 129), 2) for _ in range(2))
    scheduler.enqueue(first)
    scheduler.enqueue(second)
    assert advance(scheduler, memory) == [(first, 32)]
    first.ended = FinishReason.CANCELLED
    list(scheduler.remove_ended())
    while second.ended is None:
        advance(scheduler, memory)
    assert second.cached == 0
    assert (tuple(second.output), second.hasher.finish()) == expected(distinct(1, 129), 2)


def test_blocks_in_common_are_held_once_and_stay_while_anybody_uses_them():
    scheduler, memory = Scheduler(Limits(blocks=8, context=512, prefill_rows=512)), FakeMemory()
    serve(scheduler, memory, distinct(1, 129))
    both = [sequence(distinct(1, 129), 60, "a") for _ in range(2)]
    for item in both:
        scheduler.enqueue(item)
    advance(scheduler, memory)
    assert both[0].blocks[:2] == both[1].blocks[:2]
    assert scheduler.free_blocks == 8 - 4
    both[0].ended = FinishReason.CANCELLED
    list(scheduler.remove_ended())
    check_books(scheduler)
    assert scheduler.free_blocks == 8 - 3


def test_memory_for_new_contents_is_taken_from_what_was_used_least_recently():
    scheduler, memory = Scheduler(Limits(blocks=6, context=384, prefill_rows=512)), FakeMemory()
    serve(scheduler, memory, distinct(1, 129))
    serve(scheduler, memory, distinct(2, 129))
    serve(scheduler, memory, distinct(1, 129))  # used again
    serve(scheduler, memory, distinct(3, 129))
    serve(scheduler, memory, distinct(4, 65))
    assert serve(scheduler, memory, distinct(1, 129)).cached == 128
    assert serve(scheduler, memory, distinct(2, 129)).cached == 0


def crowd() -> list[SequenceState]:
    """Pairs that differ in one token or in the tenant only, one that continues where another's answer ended, long answers."""
    base = distinct(1, 190)
    output, _ = expected(base, 30)
    return [
        sequence(base, 30, "a"),
        sequence((*base[:70], 255, *base[71:]), 30, "a"),
        sequence((*base[:63], 255, *base[64:]), 30, "a"),
        sequence(base, 30, "b"),
        sequence((*base, *output, 5), 30, "a"),
        sequence(base, 30, "a"),
        *(sequence(distinct(n, 50), 90, "c") for n in range(7, 11)),
    ]


def small_crowd() -> Scheduler:
    scheduler = run_all(Limits(blocks=5, context=320, prefill_rows=50), crowd())
    run_all(LIMITS, crowd(), at_once=False)
    return scheduler


def test_a_crowd_with_common_beginnings_hits_and_is_preempted():
    scheduler = small_crowd()
    assert scheduler.prefix_hits
    assert scheduler.preemptions


def root_without_tenant(self: PrefixCache, tenant: str) -> bytes:
    return self._secret


def child_without_a_token(self: PrefixCache, parent: bytes, tokens: tuple[int, ...]) -> bytes:
    return CHILD(self, parent, [*tokens[:6], 0, *tokens[7:]])


def child_without_its_parent(self: PrefixCache, parent: bytes, tokens: tuple[int, ...]) -> bytes:
    return CHILD(self, bytes(32), tokens)


def resume_in_the_wrong_order(self: ActivationHasher, first: int, hashes: tuple[bytes, ...]) -> int:
    return RESUME(self, first, hashes[::-1])


def resume_with_a_hash_too_few(
    self: ActivationHasher, first: int, hashes: tuple[bytes, ...]
) -> int:
    return RESUME(self, first, hashes[:1])


def hash_everything_again(self: SequenceState, count: int) -> int:
    return 0


def release_for_everybody(self: BlockPool, block: int) -> None:
    if block in self._holders:
        self._holders[block] = 1
        RELEASE(self, block)


def forget_nothing(self: PrefixCache, block: int) -> None:
    pass


CHILD, RESUME, RELEASE = PrefixCache.child, ActivationHasher.resume, BlockPool.release


@pytest.mark.parametrize(
    ("where", "name", "mutant"),
    [
        (PrefixCache, "root", root_without_tenant),
        (PrefixCache, "child", child_without_a_token),
        (PrefixCache, "child", child_without_its_parent),
        (PrefixCache, "forget", forget_nothing),
        (ActivationHasher, "resume", resume_in_the_wrong_order),
        (ActivationHasher, "resume", resume_with_a_hash_too_few),
        (SequenceState, "hashed_of", hash_everything_again),
        (BlockPool, "release", release_for_everybody),
    ],
)
def test_the_property_notices_a_cache_that_errs(where, name, mutant, monkeypatch):
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises((AssertionError, KeyError)):
        small_crowd()
