"""Random traffic for an engine that is stepped by hand, and what must hold for every sequence of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from hypothesis import event
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from execution_layer.engine.engine import LocalEngine, LocalGeneration, StepsOf
from execution_layer.engine.protocol import (
    Finished,
    FinishReason,
    GenerationRequest,
    Resumed,
    TokenChunk,
)
from execution_layer.engine.scheduler import Limits
from shared.model.backend import blocks_for
from shared.model.decoder import Decoder, Ends
from shared.model.replay import replay
from shared.statements.request import PPM, SamplingSettings
from shared.text.stream import stop_length
from shared.text.tokenizer import Tokenizer
from tests.shared.model import tiny

CONTEXT = 256
FROM_OUTSIDE = {FinishReason.CANCELLED, FinishReason.DEADLINE}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(Backend.from_str(tiny.tokenizer_json()), tiny.TEMPLATE, (tiny.END,))


@dataclass(frozen=True)
class Arrival:
    """One sequence, and the steps before which it arrives, is cancelled and has its deadline.

    With `after` it arrives once that earlier one has ended, and its prompt continues the other's prompt and answer.
    `resumed` is what an earlier engine made of it.
    """

    prompt: tuple[int, ...]
    settings: SamplingSettings
    seed: bytes
    at: int = 0
    cancelled: int | None = None
    tenant: str = "a"
    deadline: int | None = None
    after: int | None = None
    delivered: int = 0
    resumed: Resumed | None = None


@dataclass
class Served:
    """What one sequence's consumer saw."""

    prompt: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    chunks: list[TokenChunk] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    @property
    def end(self) -> Finished:
        assert len(self.finished) == 1
        return self.finished[0]


@dataclass(frozen=True)
class Mix:
    """Arrivals and the engine's limits."""

    arrivals: tuple[Arrival, ...]
    sequences: int = 16
    prefill_rows: int = 64
    blocks: int = 64


def request(arrival: Arrival, name: str = "r") -> GenerationRequest:
    return GenerationRequest(
        name,
        arrival.tenant,
        arrival.prompt,
        arrival.settings,
        arrival.seed,
        deadline=arrival.deadline,
        delivered=arrival.delivered,
        resumed=arrival.resumed,
    )


def drain(generation: LocalGeneration, into: Served) -> None:
    """Take what has been delivered so far."""
    queue = generation._events
    while not queue.empty():
        event = queue.get_nowait()
        if isinstance(event, TokenChunk):
            assert not into.finished
            into.tokens += event.token_ids
            into.text += event.text
            into.chunks.append(event)
        else:
            into.finished.append(event)


async def serve(
    decoder: Ends,
    mix: Mix,
    seen: Counter[str] | None = None,
    steps: StepsOf | None = None,
) -> list[Served]:
    """Step until all have ended; return what each consumer saw, in order of `mix.arrivals`.

    `seen` counts cache hits and preemptions. `steps` computes the steps instead of the decoder.
    """
    limits = Limits(
        sequences=mix.sequences, prefill_rows=mix.prefill_rows, blocks=mix.blocks, context=CONTEXT
    )
    step = 0
    engine = LocalEngine(decoder, tokenizer(), limits, clock=lambda: step, steps=steps)
    waiting = dict(enumerate(mix.arrivals))
    generations: dict[int, LocalGeneration] = {}
    served = [Served() for _ in mix.arrivals]
    while waiting or any(not served[place].finished for place in generations):
        for place, arrival in list(waiting.items()):
            if arrival.at <= step and (arrival.after is None or served[arrival.after].finished):
                del waiting[place]
                arrives = going_on(arrival, served)
                served[place].prompt = arrives.prompt
                generations[place] = engine.submit(request(arrives, str(place)))
        for place, generation in generations.items():
            if mix.arrivals[place].cancelled == step:
                generation.cancel()
        did = engine.step()
        await asyncio.sleep(0 if did or steps is None else 0.001)
        for place, generation in generations.items():
            drain(generation, served[place])
        step += 1
    assert engine.load == (0, 0, limits.blocks)
    await engine.stop()
    if seen is not None:
        seen.update(hits=engine.stats.prefix_hits, preemptions=engine.stats.preemptions)
    return served


def going_on(arrival: Arrival, served: Sequence[Served]) -> Arrival:
    """Return an arrival with its whole prompt, cut to the context."""
    if arrival.after is None:
        return arrival
    before = served[arrival.after]
    prompt = (*before.prompt, *before.end.output_ids, *arrival.prompt)
    return replace(arrival, prompt=prompt[: CONTEXT - arrival.settings.max_tokens])


def common(prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the length of the common beginning of two lists of tokens."""
    pairs = enumerate(zip(prompt, tokens, strict=False))
    shorter = min(len(prompt), len(tokens))
    return next((place for place, (one, other) in pairs if one != other), shorter)


def check(
    decoder: Decoder, mix: Mix, seen: Counter[str] | None = None, steps: StepsOf | None = None
) -> None:
    """Every sequence gets the tokens it gets alone, and the states that one replay computes.

    What was not computed for it was the beginning of another sequence of its tenant.
    """
    everyone = asyncio.run(serve(decoder, mix, seen, steps))
    for place, (arrival, served) in enumerate(zip(mix.arrivals, everyone, strict=True)):
        output = served.end.output_ids
        assert tuple(served.tokens) == output
        passes = decoder.forward_passes
        replayed = replay(decoder, served.prompt, output, arrival.settings, arrival.seed)
        assert decoder.forward_passes == passes + 1
        assert replayed.chosen == output
        outside = served.end.finish_reason in FROM_OUTSIDE
        if not outside or output:
            assert replayed.activations == served.end.activations
        else:  # the prompt was cut short: its first whole blocks
            kept = served.end.activations.prompt_blocks
            assert kept == replayed.activations.prompt_blocks[: len(kept)]
            assert served.end.activations.output_blocks == ()
        if outside:  # an answer that has come to its own end is called so
            assert len(output) < arrival.settings.max_tokens
            assert stop_length(tokenizer(), output, arrival.settings.stop) is None
        others = [
            common(served.prompt, (*other.prompt, *other.end.output_ids))
            for number, other in enumerate(everyone)
            if number != place and mix.arrivals[number].tenant == arrival.tenant
        ]
        assert served.end.cached_prompt_tokens <= min(
            len(served.prompt) - 1, max(others, default=0)
        )


def check_alone(decoder: Decoder, mix: Mix) -> None:
    """Served in company and served alone are the same, to the last hash."""
    for arrival, served in zip(mix.arrivals, asyncio.run(serve(decoder, mix)), strict=True):
        alone = Arrival(served.prompt, arrival.settings, arrival.seed)
        [lonely] = asyncio.run(serve(decoder, Mix((alone,))))
        output = served.end.output_ids
        assert output == lonely.end.output_ids[: len(output)]
        if served.end.finish_reason not in FROM_OUTSIDE:
            assert served.end.activations == lonely.end.activations
            assert served.text == lonely.text


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """One token to more than two blocks of keys; half of them begin as others do, but for a token here and there."""
    fresh = st.integers(1, 100).flatmap(
        lambda size: st.binary(min_size=32, max_size=32).map(lambda raw: tokens_of(raw, size))
    )

    def like_others(base: int, size: int, changed: int | None) -> tuple[int, ...]:
        prompt = list(tokens_of(bytes([base]) * 32, size))
        if changed is not None:
            prompt[changed % size] ^= 1
        return tuple(prompt)

    alike = st.builds(
        like_others, st.integers(0, 1), st.integers(60, 150), st.none() | st.integers(0, 150)
    )
    return fresh | alike


def tokens_of(raw: bytes, size: int) -> tuple[int, ...]:
    return tuple((raw[i % 32] * (i // 32 + 1) + i) % 256 for i in range(size))


def arrivals() -> st.SearchStrategy[Arrival]:
    """Prompts of all kinds; filters, stop strings, cancellations, deadlines."""
    settings = st.builds(
        SamplingSettings,
        st.integers(1, 14) | st.integers(1, 14) | st.integers(50, 70),
        temperature_ppm=st.sampled_from([0, PPM // 2, PPM]),
        top_k=st.sampled_from([0, 5]),
        top_p_ppm=st.sampled_from([PPM, 900_000]),
        stop=st.sampled_from([(), ("a",), ("e", "the")]),
    )
    return st.builds(
        Arrival,
        prompts(),
        settings,
        st.binary(min_size=32, max_size=32),
        at=st.integers(0, 6),
        cancelled=st.one_of(st.none(), st.none(), st.integers(0, 10)),
        tenant=st.sampled_from("aab"),
        deadline=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 20)),
    )


@st.composite
def mixes(draw: st.DrawFn, least: int = 1) -> Mix:
    """Arrivals, some of them the next turn after an earlier one, and memory that may hold no two of them."""
    chosen = draw(st.lists(arrivals(), min_size=least, max_size=9))
    for place in range(1, len(chosen)):
        if draw(st.integers(0, 3)) == 0:
            chosen[place] = replace(chosen[place], after=draw(st.integers(0, place - 1)))
    return Mix(
        tuple(chosen),
        sequences=draw(st.integers(1, 16)),
        prefill_rows=draw(st.integers(1, 80)),
        blocks=draw(st.sampled_from([blocks_for(CONTEXT, tiny.BACKEND.block), 5, 7, 64])),
    )


def note(seen: Counter[str]) -> None:
    """Record in hypothesis's statistics what a mix led to."""
    event(f"found in the cache: {seen['hits'] > 0}")
    event(f"preempted: {seen['preemptions'] > 0}")


def fixed(count: int, *, tokens: int = 10, prompt: int = 20) -> Sequence[Arrival]:
    """Return plain sequences that differ in seed and prompt."""
    return [
        Arrival(
            tuple((7 * place + 3 * i) % 256 for i in range(prompt + place)),
            SamplingSettings(tokens),
            bytes([place]) * 32,
        )
        for place in range(count)
    ]
