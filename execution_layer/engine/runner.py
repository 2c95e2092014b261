"""One step's arithmetic: lay out rows, run the decoder once, hash states, sample."""

import time
from collections.abc import Sequence

from torch import Tensor

from execution_layer.engine.sequence import SequenceState
from shared.model.backend import Cache, Span
from shared.model.decoder import Decoder
from shared.model.sampler import Sampled


class Runner:
    """Owns the decoder and the cache."""

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder = decoder
        self._cache = cache

    def run(self, plan: Sequence[tuple[SequenceState, int]]) -> list[tuple[SequenceState, Sampled]]:
        """Advance every planned sequence; return (sequence, sampled) for those whose next token was sampled."""
        begun = time.perf_counter()
        layout: list[Span] = []
        spans: list[tuple[SequenceState, int, int]] = []
        rows = 0
        for sequence, count in plan:
            tokens = sequence.next_tokens(count)
            layout.append(Span(tokens, sequence.computed, sequence.blocks))
            spans.append((sequence, rows, rows + len(tokens)))
            rows += len(tokens)
        hidden = self._decoder.forward(layout, self._cache)
        ready = [
            (item, last - 1)
            for item, first, last in spans
            if item.computed + last - first == item.length
        ]
        sampled = self._sample(hidden[[row for _, row in ready]], [item for item, _ in ready])
        states = memoryview(self._decoder.backend.to_host(hidden))
        size = len(states) // rows
        for sequence, first, last in spans:  # after sampling: states are hashed with their token
            fresh = first + sequence.hashed_of(last - first)
            sequence.hasher.append(states[fresh * size : last * size])
            sequence.computed += last - first
        share = (time.perf_counter() - begun) / rows
        for sequence, first, last in spans:
            sequence.compute_s += share * (last - first)
        return sampled

    def _sample(
        self, hidden: Tensor, sequences: Sequence[SequenceState]
    ) -> list[tuple[SequenceState, Sampled]]:
        if not sequences:
            return []
        logits = self._decoder.logits(hidden).numpy()
        return [
            (sequence, sequence.sampler.sample(row, sequence.output))
            for sequence, row in zip(sequences, logits, strict=True)
        ]
