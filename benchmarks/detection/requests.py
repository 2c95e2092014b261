"""The requests: conversations of the kind on which the shipped model was trained, each with a seed and wishes of its own."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from benchmarks.training.grammar import documents, messages_of
from shared.statements.request import Message, RequestBody, SamplingSettings
from tests.adversaries.trial import Ask

TEMPERATURES: Final = (1_000_000, 700_000, 0, 1_300_000)
"""In millionths, in turn."""


def requests(seed: int, length: int) -> Iterator[Ask]:
    """Yield an endless stream of requests for at most `length` tokens; streams of different seeds share no sampling seed.

    A quarter is greedy; some have filters, stop strings or log-probabilities, since that is what some nodes meddle with.
    Every hundredth request id is one on which `one-in-hundred` cheats.
    """
    for place, messages in enumerate(conversations(seed)):
        settings = SamplingSettings(
            length,
            temperature_ppm=TEMPERATURES[place % 4],
            top_k=40 if place % 8 == 1 else 0,
            top_p_ppm=950_000 if place % 8 == 4 else 1_000_000,
            stop=(" the",) if place % 16 == 3 else (),
            logprobs=1 if place % 6 == 0 else None,
        )
        drawn = sha256(f"detection {seed} {place}".encode()).digest()
        body = RequestBody(settings, messages, seed=drawn)
        yield Ask(body, (seed * 10**6 + place).to_bytes(16, "big"))


def conversations(seed: int) -> Iterator[tuple[Message, ...]]:
    """Yield conversations up to the user's last turn."""
    for document in documents(seed):
        turns = messages_of(document.text)
        if turns:  # prose has none
            yield tuple(Message(role, content) for role, content in turns[:-1])
