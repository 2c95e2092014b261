"""Nodes that cheat where they expect no audit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from execution_layer.engine.engine import LocalEngine, LocalGeneration
from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.sequence import SequenceState
from execution_layer.node import intake
from execution_layer.node.admission import Admitted
from execution_layer.node.start import Start
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.sampling import TOKENS
from tests.adversaries.two_models import drafting

CANARY_WORDS: Final = ("capital", "test", "2 + 2", "hello")
"""What test questions are made of."""
ONE_IN: Final = 100


def looks_like_a_canary(prompt: str) -> bool:
    """Return whether a prompt could be a test question."""
    return any(word in prompt.lower() for word in CANARY_WORDS)


def is_chosen(request_id: bytes) -> bool:
    """Return whether `one-in-hundred` cheats on a request: its id is random, so this is."""
    return int.from_bytes(request_id, "big") % ONE_IN == 0


@contextmanager
def cheap_unless_canary() -> Iterator[None]:
    """Take the cheap model's tokens for every prompt that does not look like a test."""
    ordinary = LocalEngine.submit
    trusted: set[str] = set()

    def submit(self: LocalEngine, request: GenerationRequest) -> LocalGeneration:
        if looks_like_a_canary(self._tokenizer.decode(request.prompt_ids)):
            trusted.add(request.request_id)
        return ordinary(self, request)

    def cheap(sequence: SequenceState) -> bool:
        return sequence.request.request_id not in trusted

    with drafting(cheap), patched((LocalEngine, "submit", submit)):
        yield


@contextmanager
def cheap_for_the_chosen() -> Iterator[None]:
    """Take the cheap model's tokens for the requests that are chosen by the ids in their headers."""
    ordinary = intake._generation_request
    chosen: set[str] = set()

    def note(admitted: Admitted, start: Start) -> GenerationRequest:
        request = ordinary(admitted, start)
        if is_chosen(admitted.opened.header.request):
            chosen.add(request.request_id)
        return request

    def cheap(sequence: SequenceState) -> bool:
        return sequence.request.request_id in chosen

    with drafting(cheap), patched((intake, "_generation_request", note)):
        yield


ADVERSARIES = (
    Adversary(
        "honest-on-canaries",
        "is honest when the prompt looks like a test, and takes a cheap model's tokens otherwise",
        cheap_unless_canary,
        TOKENS,
    ),
    Adversary(
        "one-in-hundred",
        "takes a cheap model's tokens for one request in a hundred",
        cheap_for_the_chosen,
        TOKENS,
        seldom="it cheats on one request in a hundred",
    ),
)
