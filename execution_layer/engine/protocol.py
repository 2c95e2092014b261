"""What a node asks of an engine: submit, stream, cancel."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.commitments.exact import Activations
from shared.statements.logprobs import TokenLogprobs
from shared.statements.request import SamplingSettings


class FinishReason(StrEnum):
    """Why a sequence ended; the texts are those of a receipt's `finish`."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Resumed:
    """What an earlier engine made of a sequence, and showed: its output tokens, and their text or the beginning of it."""

    output_ids: tuple[int, ...] = ()
    text: str = ""
    cached: int = 0
    """The prompt positions that it found in its prefix cache; it has no meaning without output."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. `seed` has 32 bytes; `choice` distinguishes several answers under one seed.

    `deadline` is the value of time.monotonic() at which the sequence ends; without it only its own rules or somebody's
    wish end it. The last `delivered` tokens of the prompt count as the first ones of the output for positions, penalties,
    stops and text (protocol §3.3.1), but not for `max_tokens`, and they are not returned again.
    A sequence that is `resumed` goes on as if it had never been interrupted: what was shown is not shown again, and it
    counts in everything.
    """

    request_id: str
    tenant: str
    prompt_ids: tuple[int, ...]
    settings: SamplingSettings
    seed: bytes
    choice: int = 0
    deadline: float | None = None
    delivered: int = 0
    resumed: Resumed | None = None


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens and the text that they settle; text never splits a character or shows a stop string.

    A sequence that was ended from outside may end with a chunk of held-back text and no token.
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token where the settings ask for them, else empty."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a sequence: everything a receipt needs.

    `cached_prompt_tokens` counts prompt positions that were not computed for it; the last one always is. `compute_ms` is
    the sequence's share of this engine's steps.
    """

    finish_reason: FinishReason
    output_ids: tuple[int, ...]
    activations: Activations
    prompt_tokens: int
    cached_prompt_tokens: int
    compute_ms: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing, and has done since its start."""

    running: int
    waiting: int
    free_blocks: int
    """KV blocks that nobody holds, including those of the prefix cache."""
    cached_blocks: int
    """KV blocks whose contents a later prompt may use."""
    prefix_hits: int
    """Positions that were found in the prefix cache."""
    prefix_misses: int
    """Prompt positions that were computed."""
    preemptions: int
    """How often a sequence gave up its blocks for another one."""
    steps: int
    failures: int
    """Steps that failed, one after the other, since one succeeded; their sequences have ended as FAILED."""


class Generation(Protocol):
    """One submitted sequence."""

    @property
    def cached_prompt_tokens(self) -> int:
        """As in `Finished`; it does not change any more once there is a token."""

    def __aiter__(self) -> AsyncIterator[TokenChunk | Finished]:
        """Yield chunks, then exactly one Finished, also for a sequence that was cancelled or failed."""

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End the sequence; its memory is free after the step in progress. Safe from any thread, at any time.

        A sequence that reaches a stop or its budget in that step ends as STOP or LENGTH; one with several reasons, by
        the first of them.
        """


class Engine(Protocol):
    """Generates many sequences at once. All methods are called from the event loop's thread."""

    async def start(self) -> None:
        """Begin to step."""

    async def stop(self) -> None:
        """End all sequences as FAILED and stop stepping."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Accept a sequence.

        Raises INVALID_ARGUMENT when prompt and budget exceed the context or the memory, OVERLOADED (with a hint when to
        try again) when the queue, or the tenant's part of it, is full. One that is resumed had its place before; CORRUPT
        when its tokens cannot have been shown with that text.
        """

    @property
    def stats(self) -> EngineStats:
        """Return its current state."""
