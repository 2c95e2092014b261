"""Random traffic for an engine that is stepped by hand, and what must hold for every sequence of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from execution_layer.engine.engine import LocalEngine, LocalGeneration
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest, TokenChunk
from execution_layer.engine.scheduler import Limits
from shared.model.decoder import Decoder
from shared.model.replay import replay
from shared.statements.request import PPM, SamplingSettings
from shared.text.tokenizer import Tokenizer
from tests.shared.model import tiny


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(Backend.from_str(tiny.tokenizer_json()), tiny.TEMPLATE, (tiny.END,))


@dataclass(frozen=True)
class Arrival:
    """One sequence, the step before which it arrives, and the step before which it is cancelled."""

    prompt: tuple[int, ...]
    settings: SamplingSettings
    seed: bytes
    at: int = 0
    cancelled: int | None = None
    tenant: str = "a"


@dataclass
class Served:
    """What one sequence's consumer saw."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
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


def request(arrival: Arrival, name: str = "r") -> GenerationRequest:
    return GenerationRequest(name, arrival.tenant, arrival.prompt, arrival.settings, arrival.seed)


def drain(generation: LocalGeneration, into: Served) -> None:
    """Take what has been delivered so far."""
    queue = generation._events
    while not queue.empty():
        event = queue.get_nowait()
        if isinstance(event, TokenChunk):
            assert not into.finished
            into.tokens += event.token_ids
            into.text += event.text
        else:
            into.finished.append(event)


async def serve(decoder: Decoder, mix: Mix) -> list[Served]:
    """Step until all have ended; return what each consumer saw, in order of `mix.arrivals`."""
    limits = Limits(sequences=mix.sequences, prefill_rows=mix.prefill_rows, blocks=64, context=256)
    engine = LocalEngine(decoder, tokenizer(), limits)
    waiting = dict(enumerate(mix.arrivals))
    generations: dict[int, LocalGeneration] = {}
    served = [Served() for _ in mix.arrivals]
    step = 0
    while waiting or any(not served[place].finished for place in generations):
        for place, arrival in list(waiting.items()):
            if arrival.at <= step:
                generations[place] = engine.submit(request(waiting.pop(place), str(place)))
        for place, generation in generations.items():
            if mix.arrivals[place].cancelled == step:
                generation.cancel()
        engine.step()
        await asyncio.sleep(0)
        for place, generation in generations.items():
            drain(generation, served[place])
        step += 1
    assert engine.load == (0, 0, limits.blocks)
    return served


def check(decoder: Decoder, mix: Mix) -> None:
    """Every sequence gets the tokens it gets alone, and the states that one replay computes."""
    everyone = asyncio.run(serve(decoder, mix))
    for arrival, served in zip(mix.arrivals, everyone, strict=True):
        output = served.end.output_ids
        assert tuple(served.tokens) == output
        passes = decoder.forward_passes
        replayed = replay(decoder, arrival.prompt, output, arrival.settings, arrival.seed)
        assert decoder.forward_passes == passes + 1
        assert replayed.chosen == output
        if served.end.finish_reason is not FinishReason.CANCELLED or output:
            assert replayed.activations == served.end.activations


def check_alone(decoder: Decoder, mix: Mix) -> None:
    """Served in company and served alone are the same, to the last hash."""
    for arrival, served in zip(mix.arrivals, asyncio.run(serve(decoder, mix)), strict=True):
        alone = Arrival(arrival.prompt, arrival.settings, arrival.seed)
        [lonely] = asyncio.run(serve(decoder, Mix((alone,))))
        output = served.end.output_ids
        assert output == lonely.end.output_ids[: len(output)]
        if served.end.finish_reason is not FinishReason.CANCELLED:
            assert served.end.activations == lonely.end.activations
            assert served.text == lonely.text


def arrivals() -> st.SearchStrategy[Arrival]:
    """Prompts from one token to more than a block of keys; filters, stop strings, cancellations."""
    prompts = st.integers(1, 100).flatmap(
        lambda size: st.binary(min_size=32, max_size=32).map(
            lambda raw: tuple((raw[i % 32] * (i // 32 + 1) + i) % 256 for i in range(size))
        )
    )
    settings = st.builds(
        SamplingSettings,
        st.integers(1, 14),
        temperature_ppm=st.sampled_from([0, PPM // 2, PPM]),
        top_k=st.sampled_from([0, 5]),
        top_p_ppm=st.sampled_from([PPM, 900_000]),
        stop=st.sampled_from([(), ("a",), ("e", "the")]),
    )
    return st.builds(
        Arrival,
        prompts,
        settings,
        st.binary(min_size=32, max_size=32),
        at=st.integers(0, 6),
        cancelled=st.one_of(st.none(), st.none(), st.integers(0, 10)),
        tenant=st.sampled_from("abc"),
    )


def mixes(least: int = 1) -> st.SearchStrategy[Mix]:
    return st.builds(
        Mix,
        st.lists(arrivals(), min_size=least, max_size=9).map(tuple),
        sequences=st.integers(1, 16),
        prefill_rows=st.integers(1, 80),
    )


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
