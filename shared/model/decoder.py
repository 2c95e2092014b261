"""The decoder: embedding, a range of layers, and the head. Serving, replay and disputes run these same classes.

Each part is made from the tensors that it needs and no others, so that a node can hold the embedding, some layers or the head
alone. Run one after the other, parts cut anywhere give the bits of the whole.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.model.backend import Backend, Cache, Look, Packed, Rows, Span
from shared.model.config import ModelConfig
from shared.model.weights import (
    EMBEDDING,
    HEAD,
    NORM,
    Weights,
    WeightsLoader,
    compute_dtype,
    load_weights,
)


class Embedding:
    """Tokens to states. If the head next to it has the same table (`head`), that one is used, not a second copy."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        backend: Backend,
        *,
        head: "Head | None" = None,
    ) -> None:
        self._vocabulary = config.vocab_size
        self._backend = backend
        self._table: Packed | Tensor
        if head is not None and config.tie_word_embeddings:
            self._table = head.matrix
        else:
            self._table = backend.to_device(weights[EMBEDDING].to(compute_dtype(config)))

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Return states (R, D); ValueError for a token outside the vocabulary."""
        numbers = np.array(tokens, dtype=np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self._vocabulary):
            raise ValueError("a token is outside the vocabulary")
        return self._backend.embed(self._table, torch.from_numpy(numbers))


class Stage:
    """The layers [first, last). Not for use by two threads at once."""

    def __init__(
        self, config: ModelConfig, weights: Weights, backend: Backend, first: int, last: int
    ) -> None:
        assert 0 <= first <= last <= config.layers
        self.first, self.last = first, last
        self._config, self._backend = config, backend
        self._layers = backend.layers(config, weights, first, last)

    def cache(self, blocks: int) -> Cache:
        """Make room for the keys and values of these layers: this many usable blocks and the null block."""
        return self._backend.cache(self._config, blocks, layers=self.last - self.first)

    def __call__(
        self, states_RD: Tensor, rows: Sequence[Rows], cache: Cache, look: Look | None = None
    ) -> Tensor:
        """Return the states after these layers; those given may be overwritten. ValueError as `backend.Layers` says."""
        if look is None:
            return self._layers(states_RD, rows, cache)
        count = self.last - self.first
        look.at(0, states_RD)
        states_RD = self._layers(states_RD, rows, cache, look.within(count))
        look.at(count, states_RD)
        return states_RD


class Head:
    """The final norm and the output head."""

    def __init__(self, config: ModelConfig, weights: Weights, backend: Backend) -> None:
        self._backend = backend
        self._eps, self._dtype = config.rms_norm_eps, compute_dtype(config)
        name = EMBEDDING if config.tie_word_embeddings else HEAD
        self.matrix = backend.pack(weights[name].to(self._dtype))
        self._norm = backend.to_device(weights[NORM].float())

    def hidden(self, states_RD: Tensor) -> Tensor:
        """Return the hidden states (R, D), which commitments hash, of the last layer's states."""
        return self._backend.norm(states_RD, self._norm, self._eps, self._dtype)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Return float32 logits (R, V) on the host."""
        return self._backend.logits(hidden_RD, self.matrix)


class Ends:
    """The two ends of a model on one backend: the embedding and the head, and no layers. Not for use by two threads at once."""

    def __init__(self, config: ModelConfig, weights: Weights, backend: Backend) -> None:
        self.config = config
        self.backend = backend
        self.dtype = compute_dtype(config)
        """Of hidden states, keys and values."""
        self._head = Head(config, weights, backend)
        self._embedding = Embedding(config, weights, backend, head=self._head)

    def embed(self, spans: Sequence[Span]) -> Tensor:
        """Return the states (R, D) of all spans' tokens in order; ValueError for a token outside the vocabulary."""
        return self._embedding([token for span in spans for token in span.tokens])

    def hidden(self, states_RD: Tensor) -> Tensor:
        """Return the hidden states (R, D), which commitments hash, of the last layer's states."""
        return self._head.hidden(states_RD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Return float32 logits (R, V) on the host."""
        return self._head.logits(hidden_RD)


class Decoder(Ends):
    """A whole model on one backend. Not for use by two threads at once."""

    def __init__(self, config: ModelConfig, weights: Weights, backend: Backend) -> None:
        super().__init__(config, weights, backend)
        self.forward_passes = 0
        """How many passes this decoder has made."""
        self.stage = Stage(config, weights, backend, 0, config.layers)
        """All of its layers."""

    def cache(self, blocks: int) -> Cache:
        """Make room for this many usable blocks of keys and values, and the null block."""
        return self.stage.cache(blocks)

    def forward(self, spans: Sequence[Span], cache: Cache) -> Tensor:
        """Return the hidden states (R, D) of all spans' tokens in order, in one pass.

        ValueError for anything outside the model's positions, its vocabulary or the cache.
        """
        return self.looked_into(spans, cache, None)

    def looked_into(self, spans: Sequence[Span], cache: Cache, look: Look | None) -> Tensor:
        """Do the same; `look` sees states before, between and after layers."""
        self.forward_passes += 1
        states = self.stage(self.embed(spans), [span.rows for span in spans], cache, look)
        return self.hidden(states)


def load_decoder(
    folder: Path, *, backend: Backend, weights_loader: WeightsLoader = load_weights
) -> Decoder:
    """Load a checkpoint folder; errors as `ModelConfig.from_folder` and `load_weights` raise them."""
    config = ModelConfig.from_folder(folder)
    return Decoder(config, weights_loader(folder, config), backend)
