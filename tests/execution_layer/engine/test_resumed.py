"""A sequence that goes on in another engine, wherever it was cut: nobody can tell it from one that was never interrupted."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import FinishReason, GenerationRequest, Resumed
from execution_layer.engine.scheduler import Limits
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher
from shared.model.sampler import Sampler
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM, SamplingSettings
from shared.text.stream import TextStream, frames_say
from tests.execution_layer.engine.traffic import (
    Arrival,
    Mix,
    Served,
    drain,
    request,
    serve,
    tokenizer,
    tokens_of,
)
from tests.shared.model import tiny
from tests.shared.text import backends

few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
PROMPTS = st.builds(tokens_of, st.sampled_from([bytes(32), bytes(range(32))]), st.integers(1, 150))
SETTINGS = st.builds(
    SamplingSettings,
    st.integers(1, 14) | st.integers(50, 80),
    temperature_ppm=st.sampled_from([0, PPM]),
    top_p_ppm=st.sampled_from([PPM, 900_000]),
    stop=st.sampled_from([(), ("a",), ("e", "the")]),
    repetition_penalty_ppm=st.sampled_from([None, 1_300_000]),
    frequency_penalty_ppm=st.sampled_from([None, -200_000]),
    presence_penalty_ppm=st.sampled_from([None, 700_000]),
    logprobs=st.sampled_from([None, 0, 3]),
)
ARRIVALS = st.builds(
    Arrival,
    PROMPTS,
    SETTINGS,
    st.sampled_from([bytes(32), b"\1" * 32]),
    at=st.integers(0, 3),
    tenant=st.sampled_from("aab"),
)
GOING_ON = st.builds(
    lambda arrival, count: replace(
        arrival,
        settings=replace(arrival.settings, stop=()),
        delivered=min(count, len(arrival.prompt) - 1),
    ),
    ARRIVALS,
    st.integers(1, 9),
)
"""Their own beginning came from another node."""


def cut(arrival: Arrival, served: Served, count: int) -> tuple[Arrival, Served]:
    """Return the sequence after its first `count` chunks, and what is left of it."""
    head, rest = served.chunks[:count], served.chunks[count:]
    resumed = Resumed(
        tuple(token for chunk in head for token in chunk.token_ids),
        "".join(chunk.text for chunk in head),
        served.end.cached_prompt_tokens,
    )
    return replace(arrival, resumed=resumed), Served(chunks=rest, finished=served.finished)


@few
@given(
    arrivals=st.lists(ARRIVALS | GOING_ON, min_size=1, max_size=5),
    prefill_rows=st.integers(1, 80),
    blocks=st.sampled_from([5, 7, 64]),
    data=st.data(),
)
def test_what_is_resumed_anywhere_in_any_company_ends_as_if_it_had_not_been_interrupted(
    arrivals, prefill_rows, blocks, data
):
    decoder = data.draw(st.sampled_from([tiny.decoder("bfloat16"), tiny.endless("bfloat16")]))
    whole = asyncio.run(serve(decoder, Mix(tuple(arrivals), blocks=blocks)))
    cuts = [
        cut(arrival, served, data.draw(st.integers(0, len(served.chunks))))
        for arrival, served in zip(arrivals, whole, strict=True)
    ]
    mix = Mix(tuple(arrival for arrival, _ in cuts), prefill_rows=prefill_rows, blocks=blocks)
    for (arrival, left), served in zip(cuts, asyncio.run(serve(decoder, mix)), strict=True):
        assert served.chunks == left.chunks  # tokens, text and log-probabilities
        expected = replace(left.end, compute_ms=served.end.compute_ms)
        if not arrival.resumed.output_ids:  # it is computed from the beginning, in other company
            expected = replace(expected, cached_prompt_tokens=served.end.cached_prompt_tokens)
        assert served.end == expected


STOPS = st.lists(st.sampled_from(("a", "the", "an t", "😀", "é", "\ufffd")), max_size=3)
TOKENS = st.lists(
    st.sampled_from(backends.byte_tokens("tiny", b"\xc3\xe2\xf0\x9f\x98\x80\xa9\xffthe an")),
    min_size=1,
    max_size=24,
)


def sequence(how: SamplingSettings, resumed: Resumed | None = None) -> SequenceState:
    state = SequenceState(
        request=GenerationRequest("r", "a", (1,), how, bytes(32), resumed=resumed),
        stream=TextStream(backends.tokenizer("tiny"), how.stop),
        hasher=ActivationHasher(1, 8),
        sampler=Sampler(how, bytes(32)),
    )
    if resumed is not None:
        state.resume(resumed)
    return state


def spoken(state: SequenceState, tokens: list[int]) -> list[tuple[tuple[int, ...], str]]:
    """Return the chunks of a sequence that chooses these tokens, to its end."""
    chunks: list[tuple[tuple[int, ...], str]] = []
    for token in tokens:
        if state.ended is not None:
            break
        chunks.append(((token,), state.take(token)))
    return chunks


@settings(max_examples=300, deadline=None)
@given(tokens=TOKENS, stop=STOPS, budget=st.integers(1, 24), data=st.data())
def test_the_text_goes_on_in_the_middle_of_a_character_or_a_stop_string(tokens, stop, budget, data):
    how = SamplingSettings(budget, stop=tuple(stop))
    usual = sequence(how)
    chunks = spoken(usual, tokens)
    count = data.draw(st.integers(1, len(chunks)))
    said = "".join(text for _, text in chunks[:count])
    shown = data.draw(st.integers(0, len(said)) | st.just(len(said)))
    again = sequence(how, Resumed(tuple(tokens[:count]), said[:shown]))
    assert again.output_ids == tuple(tokens[:count])
    assert again.repeat(tokens[count - 1]) == said[shown:]
    rest = spoken(again, tokens[count:])
    assert rest == chunks[count:]
    assert (again.ended, again.output) == (usual.ended, usual.output)
    assert again.rest() == usual.rest()
    ended = usual.ended is not None
    assert frames_say(backends.tokenizer("tiny"), [*chunks[:count], *rest], how.stop, ended=ended)


@pytest.mark.parametrize(
    "resumed",
    [
        Resumed((104, 105), "h "),  # a text that was not shown
        Resumed((104,), "hi"),
        Resumed((104, 105, 106, 107, 108), "hijkl"),  # more than the budget
        Resumed((104, 120, 105), "h"),  # a token after the stop string
        Resumed((104, 260, 105), "hi"),  # a token after the stop token
        Resumed((), "h"),
        Resumed((104, 5000), "h"),  # a token outside the vocabulary
    ],
)
def test_what_cannot_have_been_shown_is_not_resumed(resumed):
    engine = LocalEngine(tiny.decoder("bfloat16"), tokenizer())
    how = SamplingSettings(4, stop=("x",))
    wanted = GenerationRequest("r", "a", (1, 2), how, bytes(32), resumed=resumed)

    async def submitted():
        engine.submit(wanted)

    with pytest.raises(CounterfoilError) as caught:
        asyncio.run(submitted())
    assert caught.value.code in {Code.CORRUPT, Code.INVALID_ARGUMENT}
    assert engine.load[:2] == (0, 0)


@pytest.fixture(scope="module")
def interrupted() -> tuple[Arrival, Served]:
    """A sequence of 60 tokens that was cut after 40, and what is left of it."""
    usual = Arrival(tokens_of(bytes(32), 100), SamplingSettings(60, temperature_ppm=0), bytes(32))
    [whole] = asyncio.run(serve(tiny.endless("bfloat16"), Mix((usual,))))
    return cut(usual, whole, 40)


@pytest.mark.parametrize("prompt", [40, 100])
def test_the_cache_may_hold_what_was_shown_but_its_hashes_are_those_of_no_output_block(prompt):
    how = SamplingSettings(120, temperature_ppm=0)
    usual = Arrival(tokens_of(bytes(32), prompt), how, bytes(32))
    [whole] = asyncio.run(serve(tiny.endless("bfloat16"), Mix((usual,))))
    arrival, left = cut(usual, whole, 110)
    mix = Mix((arrival, replace(arrival, at=9)), prefill_rows=40)
    for served in asyncio.run(serve(tiny.endless("bfloat16"), mix, seen := Counter[str]())):
        assert served.chunks == left.chunks
        assert served.end == replace(left.end, compute_ms=served.end.compute_ms)
    assert seen["hits"] == prompt // 64 * 64


def test_a_node_whose_numbers_have_changed_says_failed_instead_of_going_on(interrupted):
    arrival, _ = interrupted
    other = replace(arrival, seed=b"\7" * 32, settings=SamplingSettings(60))
    [served] = asyncio.run(serve(tiny.endless("bfloat16"), Mix((other,))))
    assert served.end.finish_reason is FinishReason.FAILED
    assert served.end.output_ids == arrival.resumed.output_ids
    assert served.chunks == []


def test_what_is_cancelled_or_late_before_it_has_caught_up_commits_to_all_that_was_shown(
    interrupted,
):
    arrival, left = interrupted
    for early in (replace(arrival, cancelled=0), replace(arrival, deadline=0)):
        [served] = asyncio.run(serve(tiny.endless("bfloat16"), Mix((early,), prefill_rows=8)))
        ended = served.end
        assert ended.finish_reason in {FinishReason.CANCELLED, FinishReason.DEADLINE}
        assert ended.output_ids == arrival.resumed.output_ids
        assert "".join(chunk.text for chunk in served.chunks) == ""
        whole = left.end.activations
        assert ended.activations.prompt_blocks == whole.prompt_blocks
        assert ended.activations.output_blocks[0] == whole.output_blocks[0]
        assert len(ended.activations.output_blocks) == 2


async def test_resumed_sequences_have_their_places_and_an_engine_that_stops_fails_them(
    interrupted,
):
    arrival, _ = interrupted
    limits = Limits(queue=1, queue_per_tenant=1, context=256, blocks=64)
    engine = LocalEngine(tiny.endless("bfloat16"), tokenizer(), limits)
    generations = [engine.submit(request(arrival, str(place))) for place in range(5)]
    with pytest.raises(CounterfoilError) as caught:
        engine.submit(request(replace(arrival, resumed=None)))
    assert caught.value.code is Code.OVERLOADED
    await engine.stop()
    await asyncio.sleep(0)
    for generation in generations:
        drain(generation, served := Served())
        assert served.end.finish_reason is FinishReason.FAILED
        assert served.end.output_ids == arrival.resumed.output_ids
