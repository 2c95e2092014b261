"""The engine at work: sequences share passes, join and leave freely, and give everything back when they leave."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from torch import Tensor

from execution_layer.engine.engine import LocalEngine, LocalGeneration
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest, TokenChunk
from execution_layer.engine.scheduler import Limits
from shared.commitments.exact import COMMITMENT_BLOCK
from shared.model.backend import Cache, Span
from shared.model.decoder import Decoder
from shared.model.replay import replay
from shared.model.sampler import Sampler
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import SamplingSettings
from shared.text.tokenizer import Tokenizer
from tests.execution_layer.engine.traffic import (
    Arrival,
    Mix,
    Served,
    drain,
    fixed,
    request,
    serve,
    tokenizer,
)
from tests.shared.model import tiny

LIMITS = Limits(sequences=16, prefill_rows=64, blocks=32, context=256)


class FakeDecoder(Decoder):
    """The tiny decoder; it notes each pass's spans, and fails or waits when told to."""

    calls: list[list[Span]]
    broken: bool
    gate: threading.Event

    def forward(self, spans: Sequence[Span], cache: Cache) -> Tensor:
        self.gate.wait(60)
        self.calls.append(list(spans))
        if self.broken:
            raise RuntimeError("the device fell off the bus")
        return super().forward(spans, cache)


def decoder(dtype: str = "bfloat16") -> FakeDecoder:
    copy = object.__new__(FakeDecoder)
    copy.__dict__.update(tiny.endless(dtype).__dict__)
    copy.calls, copy.broken, copy.gate = [], False, threading.Event()
    copy.gate.set()
    return copy


def engine(of: Decoder | None = None, limits: Limits = LIMITS) -> LocalEngine:
    """Its tokenizer has no stop tokens, so that greedy answers use their whole budget."""
    endless = Tokenizer(Backend.from_str(tiny.tokenizer_json()), None, ())
    return LocalEngine(of or decoder(), endless, limits)


def long(tokens: int = 40, prompt: int = 20, tenant: str = "a") -> GenerationRequest:
    """Greedy: it runs until its budget is used or somebody ends it."""
    how = SamplingSettings(tokens, temperature_ppm=0)
    return request(Arrival(tuple(range(40, 40 + prompt)), how, bytes(32), tenant=tenant))


async def seen(generation: LocalGeneration) -> Served:
    """Consume to the end."""
    result = Served()
    async for event in generation:
        if isinstance(event, TokenChunk):
            result.tokens += event.token_ids
            result.text += event.text
        else:
            result.finished.append(event)
    return result


def rows_in(spans: Sequence[Span]) -> int:
    return sum(len(span.tokens) for span in spans)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
async def test_eight_requests_advance_together_in_every_pass(dtype):
    counted = decoder(dtype)
    working = engine(counted)
    how = SamplingSettings(12, temperature_ppm=0)
    requests = [request(Arrival((place + 1,), how, bytes(32))) for place in range(8)]
    generations = [working.submit(item) for item in requests]
    await working.start()
    served = await asyncio.gather(*(seen(generation) for generation in generations))
    await working.stop()
    assert [len(spans) for spans in counted.calls] == [8] * 12
    assert all(rows_in(spans) == 8 for spans in counted.calls)
    tokens = sum(len(one.tokens) for one in served)
    assert tokens / len(counted.calls) == 8
    assert counted.forward_passes == len(counted.calls)


async def test_prompts_and_decoding_share_a_pass():
    counted = decoder()
    working = engine(counted)
    working.submit(long(prompt=1))
    working.step()
    working.submit(long(prompt=50))
    working.step()
    assert [rows_in(spans) for spans in counted.calls] == [1, 1 + 50]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
async def test_joining_and_leaving_changes_no_bit_of_anybodys_answer(dtype):
    base = fixed(8, tokens=24, prompt=30)
    arrivals = [
        Arrival(one.prompt, one.settings, one.seed, at=3 * place, cancelled=cancelled)
        for place, (one, cancelled) in enumerate(
            zip(base, (None, 9, None, 12, None, 40, None, 22), strict=True)
        )
    ]
    company = await serve(decoder(dtype), Mix(tuple(arrivals), prefill_rows=17))
    assert {one.end.finish_reason for one in company} >= {FinishReason.CANCELLED}
    for arrival, served in zip(base, company, strict=True):
        [alone] = await serve(decoder(dtype), Mix((arrival,)))
        count = len(served.tokens)
        assert served.tokens == alone.tokens[:count]
        if served.end.finish_reason is not FinishReason.CANCELLED:
            assert served.end.activations == alone.end.activations
            assert served.text == alone.text
        elif count:
            again = replay(
                tiny.decoder(dtype), arrival.prompt, served.tokens, arrival.settings, arrival.seed
            )
            assert again.activations == served.end.activations


async def test_cancelling_frees_the_sequence_and_its_blocks_at_the_next_step():
    working = engine()
    stays, leaves = working.submit(long(prompt=100)), working.submit(long(prompt=100))
    for _ in range(6):
        working.step()
    held = working.load
    assert held == (2, 0, 32 - 1 - 2)  # the first block is the same
    leaves.cancel()
    working.step()
    assert working.load == (1, 0, 32 - 2)
    assert (leaves.state.blocks, leaves.state.ended) == ([], FinishReason.CANCELLED)
    await asyncio.sleep(0)
    result = Served()
    drain(leaves, result)
    assert result.end.finish_reason is FinishReason.CANCELLED
    assert result.end.output_ids == tuple(result.tokens)
    assert stays.state.ended is None


async def test_a_cancelled_sequences_memory_lets_the_next_one_in():
    working = engine(limits=Limits(blocks=2, context=128, prefill_rows=64))
    first, second = (
        working.submit(long(prompt=100, tokens=20)),
        working.submit(long(prompt=100, tokens=9, tenant="b")),
    )
    while not first.state.output:
        working.step()
    assert working.load == (1, 1, 0)
    first.cancel()
    working.step()
    assert working.load == (1, 0, 1)
    assert second.state.computed == 64


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.DEADLINE])
async def test_a_waiting_sequence_can_be_ended_before_it_ever_runs(reason):
    working = engine(limits=Limits(sequences=1, blocks=8, context=256))
    working.submit(long())
    waits = working.submit(long())
    working.step()
    waits.cancel(reason)
    working.step()
    assert working.load[1] == 0
    result = await seen(waits)
    assert result.end.finish_reason is reason
    assert (result.end.output_ids, result.end.activations.leaves()) == ((), ())
    assert result.text == ""


class FakeMoment(FakeDecoder):
    """The tiny decoder; in the middle of a given pass, something happens."""

    happens: Callable[[], None]
    in_pass: int

    def forward(self, spans: Sequence[Span], cache: Cache) -> Tensor:
        if len(self.calls) == self.in_pass:
            self.happens()
        return super().forward(spans, cache)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 8), st.sampled_from(["cancelled", "deadline", "both"]))
def test_an_end_from_outside_never_renames_an_answer_that_is_complete(tokens, in_pass, how):
    async def main() -> None:
        moment = FakeMoment.__new__(FakeMoment)
        moment.__dict__.update(decoder().__dict__)
        now, moment.in_pass = [0.0], in_pass
        endless = Tokenizer(Backend.from_str(tiny.tokenizer_json()), None, ())
        working = LocalEngine(moment, endless, LIMITS, clock=lambda: now[0])
        generation = working.submit(replace(long(tokens=tokens, prompt=3), deadline=1.0))

        def happens() -> None:
            if how != "deadline":
                generation.cancel()
            if how != "cancelled":
                now[0] = 2.0

        moment.happens = happens
        while working.step():
            pass
        end = (await seen(generation)).end
        complete = in_pass + 1 >= tokens  # pass n, counted from 0, gives token n
        wanted = FinishReason.DEADLINE if how == "deadline" else FinishReason.CANCELLED
        assert end.finish_reason is (FinishReason.LENGTH if complete else wanted)
        assert len(end.output_ids) == min(tokens, in_pass + 1)

    asyncio.run(main())


async def test_a_stop_in_the_pass_in_which_it_is_cancelled_is_a_stop():
    moment = FakeMoment.__new__(FakeMoment)
    moment.__dict__.update(decoder().__dict__)
    moment.in_pass = 1
    working = LocalEngine(moment, tokenizer(), LIMITS)
    generation = working.submit(request(Arrival((7,), SamplingSettings(30), bytes(32))))
    generation.state.sampler = FakeSampler((*tokenizer().encode("x"), tiny.END))
    moment.happens = generation.cancel
    while working.step():
        pass
    assert (await seen(generation)).end.finish_reason is FinishReason.STOP


async def test_of_two_reasons_to_end_the_first_one_stands():
    working = engine()
    generation = working.submit(long())
    working.step()
    generation.cancel(FinishReason.CANCELLED)
    generation.cancel(FinishReason.FAILED)
    working.step()
    assert (await seen(generation)).end.finish_reason is FinishReason.CANCELLED


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 64, 99])
async def test_a_prompt_that_is_cut_short_commits_to_the_blocks_that_were_computed(rows):
    working = engine(limits=replace(LIMITS, prefill_rows=rows))
    generation = working.submit(long(prompt=100))
    working.step()
    generation.cancel()
    working.step()
    end = (await seen(generation)).end
    assert end.output_ids == ()
    whole = rows // COMMITMENT_BLOCK if rows < 99 else 4
    assert len(end.activations.prompt_blocks) == whole
    again = replay(
        tiny.endless("bfloat16"), long(prompt=100).prompt_ids, (0,), SamplingSettings(1), bytes(32)
    )
    assert end.activations.prompt_blocks == again.activations.prompt_blocks[:whole]


async def test_cancelling_after_the_end_changes_nothing():
    working = engine()
    generation = working.submit(long(tokens=2, prompt=2))
    while working.step():
        pass
    generation.cancel()
    working.step()
    result = await seen(generation)
    assert result.end.finish_reason is FinishReason.LENGTH
    assert generation._events.empty()
    assert working.load == (0, 0, LIMITS.blocks)


class FakeSampler(Sampler):
    """Chooses what it is told to."""

    def __init__(self, tokens: Sequence[int]) -> None:
        super().__init__(SamplingSettings(1), bytes(32))
        self.tokens = tokens

    def choose(self, logits: NDArray[np.float32], position: int, output: Sequence[int] = ()) -> int:
        return self.tokens[position]


async def test_ending_from_outside_shows_what_a_stop_string_held_back():
    how = SamplingSettings(30, stop=("abc",))
    working = engine()
    generation = working.submit(request(Arrival((7,), how, bytes(32))))
    generation.state.sampler = FakeSampler(tokenizer().encode("xab"))
    for _ in range(3):
        working.step()
    await asyncio.sleep(0)
    result = Served()
    drain(generation, result)
    assert (len(result.tokens), result.text) == (3, "x")
    generation.cancel()
    working.step()
    await asyncio.sleep(0)
    drain(generation, result)
    assert result.text == "xab"
    assert result.end.finish_reason is FinishReason.CANCELLED


async def test_a_stop_string_or_a_stop_token_ends_the_answer_with_its_token():
    for stop, tokens, text in (
        (("abc",), tokenizer().encode("xabcd"), "x"),
        ((), (*tokenizer().encode("xy"), tiny.END, 1), "xy"),
    ):
        working = LocalEngine(decoder(), tokenizer(), LIMITS)
        generation = working.submit(
            request(Arrival((7,), SamplingSettings(30, stop=stop), bytes(32)))
        )
        generation.state.sampler = FakeSampler(tokens)
        while working.step():
            pass
        result = await seen(generation)
        assert result.end.finish_reason is FinishReason.STOP
        assert result.end.output_ids == tokens[:-1]
        assert result.text == text


async def test_cancellation_from_another_thread_reaches_a_running_engine():
    working = engine()
    await working.start()
    generation = working.submit(long(tokens=200))
    first = await anext(aiter(generation))
    assert isinstance(first, TokenChunk)
    await asyncio.to_thread(generation.cancel)
    result = await seen(generation)
    assert result.end.finish_reason in {FinishReason.CANCELLED, FinishReason.LENGTH}
    await working.stop()
    assert working.load == (0, 0, LIMITS.blocks)


async def test_a_consumer_that_stops_listening_holds_nobody_up():
    working = engine()
    await working.start()
    working.submit(long(tokens=5))  # nobody reads it
    result = await seen(working.submit(long(tokens=5)))
    assert result.end.finish_reason is FinishReason.LENGTH
    await working.stop()
    assert working.load == (0, 0, LIMITS.blocks)


async def test_stopping_ends_running_and_waiting_sequences_as_failed():
    held = decoder()
    held.gate.clear()
    working = engine(held, Limits(sequences=1, blocks=8, context=256))
    await working.start()
    generations = [working.submit(long(tokens=100)) for _ in range(3)]
    stopping = asyncio.create_task(working.stop())
    await asyncio.sleep(0)
    with pytest.raises(CounterfoilError) as caught:
        working.submit(long())
    assert caught.value.code is Code.DRAINING
    held.gate.set()
    await stopping
    for generation in generations:
        assert (await seen(generation)).end.finish_reason is FinishReason.FAILED
    assert working.load == (0, 0, 8)


async def test_an_engine_that_never_started_can_be_stopped():
    working = engine()
    generation = working.submit(long())
    await working.stop()
    assert (await seen(generation)).end.finish_reason is FinishReason.FAILED


async def test_a_failed_pass_ends_its_sequences_and_the_engine_continues(caplog):
    breaking = decoder()
    working = engine(breaking, Limits(sequences=1, blocks=8, context=256))
    failed, next_one = working.submit(long(tokens=3)), working.submit(long(tokens=3))
    breaking.broken = True
    working.step()
    assert working.stats.failures == 1
    breaking.broken = False
    while working.step():
        pass
    assert working.stats.failures == 0
    end = (await seen(failed)).end
    assert (end.finish_reason, end.output_ids) == (FinishReason.FAILED, ())
    assert (await seen(next_one)).end.finish_reason is FinishReason.LENGTH
    assert working.load == (0, 0, 8)
    assert "a step failed" in caplog.text


async def test_a_token_that_cannot_be_added_fails_its_own_sequence_alone(caplog, monkeypatch):
    working = engine()
    unlucky, other = working.submit(long(tokens=4)), working.submit(long(tokens=4))

    def refuse(token: int) -> str:
        raise RuntimeError("no text for this")

    monkeypatch.setattr(unlucky.state.stream, "push", refuse)
    while working.step():
        pass
    assert (await seen(unlucky)).end.finish_reason is FinishReason.FAILED
    assert (await seen(other)).end.finish_reason is FinishReason.LENGTH
    assert working.load == (0, 0, LIMITS.blocks)
    assert "could not be added" in caplog.text


async def test_a_consumer_whose_loop_has_closed_stops_nobody():
    working = engine()

    def elsewhere() -> None:
        async def submit() -> None:
            working.submit(long(tokens=4))

        asyncio.run(submit())

    await asyncio.to_thread(elsewhere)
    other = working.submit(long(tokens=4))
    while working.step():
        pass
    assert (await seen(other)).end.finish_reason is FinishReason.LENGTH
    assert working.load == (0, 0, LIMITS.blocks)


@pytest.mark.parametrize("prompt", [(), (tiny.VOCABULARY,), (-1,), (5, 2**40)])
async def test_a_prompt_without_tokens_of_the_model_is_refused(prompt):
    refused = GenerationRequest("r", "a", prompt, SamplingSettings(1), bytes(32))
    with pytest.raises(CounterfoilError) as caught:
        engine().submit(refused)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("prompt", "tokens"), [(257, 1), (200, 58), (1, 2**20)])
async def test_an_over_long_prompt_or_budget_is_refused_and_leaves_nothing_behind(prompt, tokens):
    working = engine()
    how = SamplingSettings(tokens)
    with pytest.raises(CounterfoilError, match="256 positions") as caught:
        working.submit(request(Arrival((1,) * prompt, how, bytes(32))))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert working.load == (0, 0, LIMITS.blocks)
    assert not working.step()


async def test_the_models_context_bounds_the_engines():
    generous = engine(limits=Limits(context=10**6, blocks=64))
    assert generous.limits.context == tiny.config().max_positions


async def test_a_full_queue_refuses_and_forgets():
    working = engine(limits=Limits(sequences=1, queue=2, blocks=8, context=256))
    for _ in range(2):
        working.submit(long(tokens=1))
    with pytest.raises(CounterfoilError) as caught:
        working.submit(long())
    assert caught.value.code is Code.OVERLOADED
    assert len(working._generations) == 2
    while working.step():
        pass
    assert working.load == (0, 0, 8)
    assert not working._generations


async def test_the_end_says_what_a_receipt_needs():
    working = engine()
    generation = working.submit(long(tokens=35, prompt=70))
    while working.step():
        pass
    result = await seen(generation)
    end = result.end
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.cached_prompt_tokens) == (70, 0)
    assert end.output_ids == tuple(result.tokens)
    assert len(end.output_ids) == 35
    assert len(end.activations.output_blocks) == 2
    assert len(end.activations.prompt_blocks) == 3
    assert end.compute_ms >= 0


async def finished(working: LocalEngine, *requests: GenerationRequest) -> list[Finished]:
    """Serve requests one after the other."""
    ends = []
    for item in requests:
        generation = working.submit(item)
        while working.step():
            pass
        ends.append((await seen(generation)).end)
    return ends


async def test_the_end_says_how_much_of_the_prompt_was_not_computed():
    first, again, elsewhere = await finished(
        engine(), long(tokens=3, prompt=130), long(tokens=3, prompt=130), long(3, 130, "b")
    )
    assert [end.cached_prompt_tokens for end in (first, again, elsewhere)] == [0, 128, 0]
    assert first.activations == again.activations == elsewhere.activations
    assert first.output_ids == again.output_ids == elsewhere.output_ids


async def test_the_stats_report_what_happened():
    working = engine(limits=Limits(blocks=5, context=256, prefill_rows=64))
    both = [working.submit(long(tokens=100, prompt=60, tenant=tenant)) for tenant in "ab"]
    working.submit(long(tokens=100, prompt=60, tenant="c"))
    working.step()
    stats = working.stats
    assert (stats.running, stats.waiting, stats.steps) == (3, 0, 1)
    assert (stats.free_blocks, stats.cached_blocks, stats.preemptions) == (2, 0, 0)
    while working.step():
        pass
    await finished(working, long(tokens=1, prompt=60))
    stats = working.stats
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, 5)
    assert stats.preemptions > 0
    assert stats.cached_blocks > 0
    assert stats.prefix_misses >= 4 * 59
    for generation in both:
        assert (await seen(generation)).end.finish_reason is FinishReason.LENGTH


class FakeClock:
    """A clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def due(at: float) -> GenerationRequest:
    return replace(long(), deadline=at)


async def test_the_deadline_ends_a_running_and_a_waiting_sequence_at_the_next_step():
    clock = FakeClock()
    working = LocalEngine(
        decoder(), tokenizer(), Limits(sequences=1, blocks=8, context=256), clock=clock
    )
    runs, waits, stays = (
        working.submit(due(5.0)),
        working.submit(due(4.0)),
        working.submit(long(tokens=2)),
    )
    clock.now = 3.9
    working.step()
    assert working.load[:2] == (1, 2)
    clock.now = 4.0
    working.step()
    assert working.load[:2] == (1, 1)
    clock.now = 5.0
    working.step()
    assert working.load[:2] == (1, 0)
    assert [one.state.ended for one in (runs, waits)] == [FinishReason.DEADLINE] * 2
    result = await seen(runs)
    assert result.end.finish_reason is FinishReason.DEADLINE
    assert len(result.end.output_ids) == 2
    assert (await seen(waits)).end.output_ids == ()
    while working.step():
        pass
    assert (await seen(stays)).end.finish_reason is FinishReason.LENGTH


async def test_a_full_queue_says_when_there_may_be_room():
    clock = FakeClock()
    limits = Limits(sequences=1, queue=8, queue_per_tenant=4, blocks=8, context=256)
    working = LocalEngine(decoder(), tokenizer(), limits, clock=clock)
    for _ in range(5):
        await finished(working, long(tokens=1, prompt=1))
        clock.now += 3.0
    for _ in range(4):
        working.submit(long())
    with pytest.raises(CounterfoilError) as caught:
        working.submit(long())
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_s == pytest.approx(4 * 15 / 4)
    working.submit(long(tenant="b"))


async def test_wrong_bookkeeping_ends_everything_as_failed(monkeypatch, caplog):
    working = engine()
    generations = [working.submit(long()) for _ in range(3)]

    def lose(*_: object) -> None:
        raise AssertionError("a block belongs to two")

    monkeypatch.setattr(working._scheduler, "plan", lose)
    await working.start()
    for generation in generations:
        assert (await seen(generation)).end.finish_reason is FinishReason.FAILED
    with pytest.raises(CounterfoilError) as caught:
        working.submit(long())
    assert caught.value.code is Code.DRAINING
    assert "bookkeeping is wrong" in caplog.text
    await working.stop()


def kept(working: LocalEngine) -> dict[str, int]:
    """Return the size of everything that an engine keeps."""
    scheduler = working._scheduler
    parts = {"engine": working, "scheduler": scheduler, "cache": scheduler.cache}
    parts |= {"pool": scheduler._pool, "service": scheduler._service}
    return {
        f"{part}.{name}": len(value)
        for part, holder in parts.items()
        for name, value in vars(holder).items()
        if isinstance(value, list | dict | set | deque)
    } | {"pace": len(scheduler._pace)}


async def test_nothing_grows_with_the_number_of_requests():
    working = engine(limits=Limits(blocks=6, context=256, prefill_rows=256))
    sizes = []
    for turn in range(4):
        for n in range(80):
            how = SamplingSettings(2, temperature_ppm=0)
            prompt = (turn, n, *range(70 if n % 8 == 0 else 4))
            arrival = Arrival(prompt, how, bytes(32), tenant=f"t{turn}-{n}")
            generation = working.submit(request(arrival))
            if n % 9 == 0:
                generation.cancel()
            if n % 8 == 7:
                while working.step():
                    pass
                await asyncio.sleep(0)
        sizes.append(kept(working))
    assert sizes[1:] == [sizes[0]] * 3
    assert sizes[0]["engine._generations"] == sizes[0]["service._served"] == 0
    assert sizes[0]["cache._entries"] <= 6


async def test_penalties_and_log_probabilities_are_those_of_the_replay_in_any_batch_and_after_preemption():
    how = SamplingSettings(
        40,
        min_p_ppm=1000,
        repetition_penalty_ppm=1_200_000,
        frequency_penalty_ppm=300_000,
        presence_penalty_ppm=-100_000,
        logprobs=3,
    )
    working = engine(
        limits=Limits(sequences=4, queue=8, blocks=6, context=128)
    )  # they do not all fit
    running = [
        working.submit(GenerationRequest("r", "a", (1, 2, 3), how, bytes(32), choice))
        for choice in range(4)
    ]
    while working.step():
        pass
    await asyncio.sleep(0)
    for choice, generation in enumerate(running):
        events = [event async for event in generation]
        chunks = [event for event in events if isinstance(event, TokenChunk)]
        tokens = tuple(token for chunk in chunks for token in chunk.token_ids)
        entries = tuple(item for chunk in chunks for item in chunk.logprobs)
        again = replay(tiny.decoder("bfloat16"), (1, 2, 3), tokens, how, bytes(32), choice=choice)
        assert (again.chosen, again.logprobs) == (tokens, entries)
        assert len(entries) == len(tokens) > 0


async def test_a_stop_token_of_the_request_ends_the_answer_with_that_token():
    working = engine()
    how = SamplingSettings(30, stop_token_ids=(5, 99, 2**32 - 1))
    generation = working.submit(request(Arrival((7,), how, bytes(32))))
    generation.state.sampler = FakeSampler((6, 8, 99, 1))
    while working.step():
        pass
    result = await seen(generation)
    assert result.end.finish_reason is FinishReason.STOP
    assert result.end.output_ids == (6, 8, 99)


async def test_choices_of_one_request_are_their_own():
    how = SamplingSettings(12)
    working = engine()
    both = [
        working.submit(GenerationRequest("r", "a", (1, 2, 3), how, bytes(32), choice))
        for choice in (0, 1)
    ]
    while working.step():
        pass
    first, second = [await seen(generation) for generation in both]
    assert first.tokens != second.tokens
    for choice, one in enumerate((first, second)):
        again = replay(
            tiny.decoder("bfloat16"), (1, 2, 3), one.tokens, how, bytes(32), choice=choice
        )
        assert again.chosen == one.end.output_ids
        assert again.activations == one.end.activations
