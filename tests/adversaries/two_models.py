"""A cheap model beside the honest one: which of the two does what.

The cheap model has half of the honest one's layers. Its tokens are as fluent as those of a much smaller model, and its keys
and values have the same shape, so that both can use one cache.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from execution_layer.engine import engine as engine_module
from execution_layer.engine.runner import Runner
from execution_layer.engine.sequence import SequenceState
from shared.model.backend import Backend, Cache, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, load_decoder
from shared.model.sampler import Sampled
from shared.model.weights import Weights, load_weights
from tests.adversaries.adversary import patched
from tests.adversaries.weights import first_half

When = Callable[[SequenceState], bool]


@dataclass
class Loaded:
    """What the node loaded: enough to make more decoders of it."""

    config: ModelConfig | None = None
    weights: Weights = field(default_factory=dict)

    def decoder(self, backend: Backend, alter: Callable[[Weights], Weights] = dict) -> Decoder:
        """Return another decoder of the same checkpoint."""
        assert self.config is not None, "nothing has been loaded"
        return Decoder(self.config, alter(self.weights), backend)


@contextmanager
def loading(serve: Callable[[Weights], Weights] = dict) -> Iterator[Loaded]:
    """Remember the weights that the node loads; it serves what `serve` makes of them."""
    loaded = Loaded()

    def load(folder: Path, config: ModelConfig) -> Weights:
        loaded.config, loaded.weights = config, load_weights(folder, config)
        return serve(loaded.weights)

    with mock.patch.dict(load_decoder.__kwdefaults__, weights_loader=load):
        yield loaded


class _Draft:
    """One sequence in the cheap model, with a cache of its own."""

    def __init__(self, decoder: Decoder, longest: int) -> None:
        count = blocks_for(longest, decoder.backend.block)
        self._decoder, self._cache = decoder, decoder.cache(count)
        self._blocks = range(1, count + 1)
        self._computed = 0

    def sample(self, sequence: SequenceState) -> Sampled:
        """Return the cheap model's choice of the next token."""
        tokens = sequence.tokens(self._computed, sequence.length)
        hidden = self._decoder.forward([Span(tokens, self._computed, self._blocks)], self._cache)
        self._computed = sequence.length
        logits = self._decoder.logits(hidden[-1:]).numpy()[0]
        return sequence.sampler.sample(logits, sequence.output)


class DraftingRunner(Runner):
    """Computes and commits to the honest model's states, and takes some tokens from the cheap one."""

    def __init__(self, loaded: Loaded, when: When, decoder: Decoder, cache: Cache) -> None:
        super().__init__(decoder, cache)
        self._cheap = loaded.decoder(decoder.backend, first_half)
        self._when = when
        self._drafts: dict[SequenceState, _Draft] = {}

    def _sample(
        self, hidden: Tensor, sequences: Sequence[SequenceState]
    ) -> list[tuple[SequenceState, Sampled]]:
        self._drafts = {item: one for item, one in self._drafts.items() if item.ended is None}
        return [
            (item, self._drafted(item) if self._when(item) else honest)
            for item, honest in super()._sample(hidden, sequences)
        ]

    def _drafted(self, sequence: SequenceState) -> Sampled:
        if sequence not in self._drafts:
            self._drafts[sequence] = _Draft(self._cheap, sequence.longest)
        return self._drafts[sequence].sample(sequence)


@contextmanager
def drafting(when: When) -> Iterator[None]:
    """Take the cheap model's token wherever `when` says so; every state is the honest model's, given those tokens."""
    with (
        loading() as loaded,
        patched((engine_module, "Runner", partial(DraftingRunner, loaded, when))),
    ):
        yield


class _EarlyExit:
    """A decoder that leaves the model half-way while it decodes, and computes prompts whole."""

    def __init__(self, honest: Decoder, cheap: Decoder) -> None:
        self._honest, self._cheap = honest, cheap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def forward(self, spans: Sequence[Span], cache: Cache) -> Tensor:
        """Return the states of all spans in order; both kinds go to the same cache."""
        rows: list[Tensor] = [torch.empty(0)] * len(spans)
        for decoder, decodes in ((self._honest, False), (self._cheap, True)):
            chosen = [n for n, span in enumerate(spans) if (len(span.tokens) == 1) is decodes]
            if chosen:
                hidden = decoder.forward([spans[n] for n in chosen], cache)
                parts = hidden.split([len(spans[n].tokens) for n in chosen])
                for n, part in zip(chosen, parts, strict=True):
                    rows[n] = part
        return torch.cat(rows)


@contextmanager
def early_exit() -> Iterator[None]:
    """Decode with the first half of the layers."""
    with loading() as loaded:

        def runner(decoder: Decoder, cache: Cache) -> Runner:
            cheap = loaded.decoder(decoder.backend, first_half)
            wrapped: Any = _EarlyExit(decoder, cheap)
            return Runner(wrapped, cache)

        with patched((engine_module, "Runner", runner)):
            yield
