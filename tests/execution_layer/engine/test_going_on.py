"""An answer that was cut and goes on from its prefix is the answer in one piece: tokens, text, log-probabilities, end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest, TokenChunk
from execution_layer.engine.scheduler import Limits
from shared.model.decoder import Decoder
from shared.model.replay import replay
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.logprobs import TokenLogprobs
from shared.statements.request import PPM, SamplingSettings
from tests.execution_layer.engine.traffic import tokenizer
from tests.shared.model import tiny

SEED = bytes(range(32))
PROMPT = tuple((11 * place + 3) % 256 for place in range(40))
PENALTIES: dict[str, Any] = {
    "repetition_penalty_ppm": 1_300_000,
    "presence_penalty_ppm": 600_000,
    "frequency_penalty_ppm": 400_000,
}
GREEDY = SamplingSettings(24, temperature_ppm=0)
SAMPLED = SamplingSettings(24, temperature_ppm=1_500_000, top_p_ppm=980_000)
WAYS = {
    "greedy": GREEDY,
    "greedy-with-penalties": replace(GREEDY, **PENALTIES),
    "sampled": SAMPLED,
    "with-penalties": replace(SAMPLED, **PENALTIES),
    "with-logprobs": replace(SAMPLED, logprobs=3, **PENALTIES),
}


@dataclass(frozen=True)
class Answer:
    """What a consumer saw: each token's chunk, what was held back, and the end."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    """One for each token, and what came at the end."""
    logprobs: tuple[TokenLogprobs, ...]
    end: Finished

    def after(self, place: int) -> tuple[object, ...]:
        return self.tokens[place:], self.texts[place:], self.logprobs[place:]


def request(
    prompt: Sequence[int], how: SamplingSettings, delivered: int = 0, choice: int = 0
) -> GenerationRequest:
    return GenerationRequest("r", "a", tuple(prompt), how, SEED, choice, None, delivered)


async def serve(decoder: Decoder, requests: Sequence[GenerationRequest]) -> list[Answer]:
    """Serve all at once."""
    engine = LocalEngine(decoder, tokenizer(), Limits(prefill_rows=64, blocks=64, context=256))
    running = [engine.submit(item) for item in requests]
    while engine.step():
        pass
    await asyncio.sleep(0)
    answers = []
    for generation in running:
        events = [event async for event in generation]
        chunks = [event for event in events if isinstance(event, TokenChunk)]
        tokens = tuple(token for chunk in chunks for token in chunk.token_ids)
        texts = [chunk.text for chunk in chunks if chunk.token_ids]
        rest = "".join(chunk.text for chunk in chunks if not chunk.token_ids)
        logprobs = tuple(item for chunk in chunks for item in chunk.logprobs)
        assert isinstance(events[-1], Finished)
        answers.append(Answer(tokens, (*texts, rest), logprobs, events[-1]))
    return answers


def cut_everywhere(decoder: Decoder, how: SamplingSettings, choice: int = 0) -> Answer:
    """Check that every rest of an answer is its rest; return the answer in one piece."""
    [whole] = asyncio.run(serve(decoder, [request(PROMPT, how, choice=choice)]))
    places = range(1, len(whole.tokens))
    rests = asyncio.run(
        serve(
            decoder,
            [
                request(
                    (*PROMPT, *whole.tokens[:place]),
                    replace(how, max_tokens=how.max_tokens - place),
                    place,
                    choice,
                )
                for place in places
            ],
        )
    )
    for place, rest in zip(places, rests, strict=True):
        assert (rest.tokens, rest.texts, rest.logprobs) == whole.after(place)
        assert rest.end.finish_reason is whole.end.finish_reason
        assert rest.end.prompt_tokens == len(PROMPT) + place
        again = replay(
            decoder,
            (*PROMPT, *whole.tokens[:place]),
            rest.tokens,
            replace(how, max_tokens=how.max_tokens - place),
            SEED,
            choice=choice,
            delivered=place,
        )
        assert (again.chosen, again.logprobs) == (rest.tokens, rest.logprobs)
        assert again.activations == rest.end.activations
    return whole


@pytest.mark.parametrize("way", WAYS)
def test_cut_at_any_token_the_rest_is_the_rest(way):
    whole = cut_everywhere(tiny.decoder("bfloat16"), WAYS[way], choice=1)
    assert len(whole.tokens) > 10


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=st.integers(2, 12), size=st.integers(2, 6), how=st.sampled_from([*WAYS.values()]))
def test_a_stop_string_across_the_cut_ends_the_answer_where_it_would_have_ended(start, size, how):
    """The stop string is one that the answer itself would have shown; the cut falls at each of its places."""
    decoder = tiny.decoder("bfloat16")
    [free] = asyncio.run(serve(decoder, [request(PROMPT, how)]))
    stop = "".join(free.texts)[start : start + size]
    if not stop or len(stop.encode()) > 256:
        return
    whole = cut_everywhere(decoder, replace(how, stop=(stop,)))
    assert stop not in "".join(whole.texts)
    assert whole.end.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("way", ["with-penalties", "sampled"])
def test_a_prefix_that_counts_as_prompt_is_another_answer(way):
    """What an auditor would see of a node that starts positions and penalties anew."""
    decoder, how = tiny.decoder("bfloat16"), WAYS[way]
    [whole] = asyncio.run(serve(decoder, [request(PROMPT, how)]))
    rest = replace(how, max_tokens=12)
    [wrong] = asyncio.run(serve(decoder, [request((*PROMPT, *whole.tokens[:12]), rest)]))
    assert wrong.tokens != whole.tokens[12:]
    prompt = (*PROMPT, *whole.tokens[:12])
    again = replay(decoder, prompt, wrong.tokens, rest, SEED, delivered=12)
    assert again.chosen != wrong.tokens


async def test_an_answer_that_ends_before_its_first_token_still_says_what_was_held_back():
    how = SamplingSettings(8, stop=("abc",))
    engine = LocalEngine(tiny.decoder("bfloat16"), tokenizer(), Limits(blocks=64, context=256))
    generation = engine.submit(request((1, 2, *tokenizer().encode("xab")), how, 3))
    generation.cancel()
    engine.step()
    await asyncio.sleep(0)
    chunk, end = [event async for event in generation]
    assert (chunk.token_ids, chunk.text) == ((), "ab")
    assert (end.output_ids, end.finish_reason) == ((), FinishReason.CANCELLED)


async def test_a_prefix_that_is_a_whole_answer_is_refused():
    engine = LocalEngine(tiny.decoder("bfloat16"), tokenizer(), Limits(blocks=64, context=256))
    with pytest.raises(CounterfoilError) as caught:
        engine.submit(request((1, 2, tiny.END), SamplingSettings(8, temperature_ppm=PPM), 1))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert engine.load == (0, 0, 64)
