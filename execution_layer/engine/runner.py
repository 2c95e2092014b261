"""One step's arithmetic: lay out rows, compute their states, hash these, sample."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from execution_layer.engine.sequence import SequenceState
from shared.model.backend import Backend, Cache, Span
from shared.model.decoder import Decoder
from shared.model.sampler import Sampled

Planned = Sequence[tuple[SequenceState, int]]
Chosen = list[tuple[SequenceState, Sampled]]
"""Sequences whose next token was sampled."""


class LostError(Exception):
    """What computes the steps has lost its keys and values: everything that runs is computed again, from its tokens."""


class Steps(Protocol):
    """Computes steps, in the order in which they begin; several may be under way."""

    def depth(self, running: int, chunks: int) -> int:
        """Return how many may be under way, at least 1, while so many sequences run, whose prompts are to be computed in so
        many steps.
        """

    def begin(self, step: "Step") -> None:
        """Let a step begin."""

    def end(self, step: "Step") -> Chosen | None:
        """Advance the sequences of the oldest step under way, and return what was chosen; None while it goes on.

        Any error ends the sequences of the step as failed, but `LostError`.
        """

    def close(self) -> None:
        """Let go of what computes: no step begins or ends after this."""


class Logits(Protocol):
    """Computes logits."""

    def logits(self, hidden: Tensor, /) -> Tensor:
        """Return float32 logits (R, V) on the host."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of a step that belong to one sequence."""

    sequence: SequenceState
    first: int
    """Its first row of the step."""
    last: int
    """The row after its last one."""
    whole: bool
    """Whether the last row's logits choose the sequence's next token."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one step."""

    spans: tuple[Span, ...]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.parts[-1].last

    @property
    def plan(self) -> list[tuple[SequenceState, int]]:
        """What it was laid out from, less the sequences that have ended since."""
        return [(p.sequence, p.last - p.first) for p in self.parts if p.sequence.ended is None]


def lay_out(plan: Planned) -> Step:
    """Return the step that advances every planned sequence, which is under way from now on."""
    spans: list[Span] = []
    parts: list[Part] = []
    rows = 0
    for sequence, count in plan:
        tokens = sequence.next_tokens(count)
        spans.append(Span(tokens, sequence.sent, tuple(sequence.blocks)))
        sequence.begin(len(tokens))
        parts.append(Part(sequence, rows, rows + len(tokens), sequence.left == 0))
        rows += len(tokens)
    return Step(tuple(spans), tuple(parts))


class Finishing:
    """The end of a step: hash its states, and sample."""

    def __init__(self, logits: Logits, backend: Backend) -> None:
        self._logits = logits
        self._backend = backend

    def finish(self, step: Step, hidden: Tensor, seconds: float) -> Chosen:
        """Advance the step's sequences by their hidden states (R, D), which took `seconds` of this process; of those that have
        ended since, nothing is kept.
        """
        begun = time.perf_counter()
        parts = [part for part in step.parts if part.sequence.ended is None]
        ready = [part for part in parts if part.whole]
        chosen = self._sample(
            hidden[[part.last - 1 for part in ready]], [part.sequence for part in ready]
        )
        states = memoryview(self._backend.to_host(hidden))
        size = len(states) // step.rows
        for part in parts:  # after sampling: states are hashed with their token
            sequence, count = part.sequence, part.last - part.first
            fresh = part.first + sequence.hashed_of(count)
            sequence.hasher.append(states[fresh * size : part.last * size])
            sequence.advance(count)
        share = (seconds + time.perf_counter() - begun) / step.rows
        for part in parts:
            part.sequence.compute_s += share * (part.last - part.first)
        return chosen

    def _sample(self, hidden: Tensor, sequences: Sequence[SequenceState]) -> Chosen:
        if not sequences:
            return []
        logits = self._logits.logits(hidden).numpy()
        return [
            (sequence, sequence.sampler.sample(row, sequence.output))
            for sequence, row in zip(sequences, logits, strict=True)
        ]


class Runner(Finishing):
    """Computes one step at a time, with a decoder and a cache of its own."""

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        super().__init__(decoder, decoder.backend)
        self._decoder = decoder
        self._cache = cache

    def depth(self, running: int, chunks: int) -> int:  # noqa: ARG002  # whatever is to be done
        """One."""
        return 1

    def begin(self, step: Step) -> None:
        """There is nothing to begin: a step is computed at its end."""

    def close(self) -> None:
        """There is nothing to let go of."""

    def end(self, step: Step) -> Chosen:
        """Run the decoder once."""
        begun = time.perf_counter()
        hidden = self._decoder.forward(step.spans, self._cache)
        return self.finish(step, hidden, time.perf_counter() - begun)
