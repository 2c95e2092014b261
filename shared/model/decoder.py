"""The decoder: embedding, a range of layers, final norm, output head. Serving, replay and disputes run this one class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.model import rope
from shared.model.arithmetic import Packed, Rotary, fill, filled, pairs_of, pointer
from shared.model.config import ModelConfig
from shared.model.kv import BLOCK, KVCache
from shared.model.native import library
from shared.model.native.library import kernels
from shared.model.weights import Weights, WeightsLoader, compute_dtype, load_weights

SHORT = 4096
"""Positions whose angles are there from the start."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence: the first one's position, and the blocks that hold the sequence's keys and values."""

    tokens: Sequence[int]
    position: int
    blocks: Sequence[int]


class Batch:
    """The spans of one pass as the kernels read them. Raises ValueError for what lies outside cache or positions."""

    def __init__(self, tokens: Tensor, table: NDArray[np.int64], blocks: NDArray[np.int32]) -> None:
        self.tokens = tokens
        self.positions = int((table[:, 1] + table[:, 2]).max())
        """One more than the highest position."""
        self._table, self._blocks = table, blocks  # kept while the kernels read them
        self.struct = library.Batch(len(tokens), len(table), table.ctypes.data)

    @classmethod
    def of(cls, spans: Sequence[Span], cache: KVCache, positions: int) -> Self:
        """Lay spans out row after row."""
        counts = np.array([len(span.tokens) for span in spans], dtype=np.int64)
        places = np.array([span.position for span in spans], dtype=np.int64)
        held = np.array([len(span.blocks) for span in spans], dtype=np.int64)
        tokens = np.array([token for span in spans for token in span.tokens], dtype=np.int64)
        blocks = np.array([block for span in spans for block in span.blocks], dtype=np.int32)
        ends = places + counts
        if not spans or counts.min() < 1 or places.min() < 0 or ends.max() > positions:
            raise ValueError("a span lies outside the positions of this model")
        if (
            (held * BLOCK < ends).any()
            or not len(blocks)
            or blocks.min() < 1
            or blocks.max() > cache.blocks
        ):
            raise ValueError("a span's blocks lie outside the cache, or are too few")
        starts = blocks.ctypes.data + 4 * (np.cumsum(held) - held)
        table = np.stack([np.cumsum(counts) - counts, counts, places, starts], axis=1)
        return cls(torch.from_numpy(tokens), np.ascontiguousarray(table), blocks)


class Stage:
    """A contiguous range of layers [first, last). Not for use by two threads at once."""

    def __init__(self, weights: Weights, config: ModelConfig, first: int, last: int) -> None:
        assert 0 <= first <= last <= config.layers
        self.positions = config.max_positions
        self._frequencies = torch.from_numpy(rope.inverse_frequencies(config.head_dim, config.rope))
        self._shape = library.Shape(
            pairs=pairs_of(compute_dtype(config)),
            hidden=filled(config.hidden_size),
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=filled(config.head_dim),
            inner=filled(config.intermediate_size),
            eps=config.rms_norm_eps,
            scale=config.head_dim**-0.5,
            own_hidden=config.hidden_size,
            own_head_dim=config.head_dim,
        )
        self._reach(min(self.positions, SHORT))
        self._kept: list[Packed | Tensor] = []
        self._layers = (library.Layer * (last - first))(
            *(self._layer(weights, config, index) for index in range(first, last))
        )
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self._bound: KVCache | None = None

    def _reach(self, positions: int) -> None:
        """Make the angles of so many positions: not of all at once, which for a long context are gigabytes."""
        self._rotary = Rotary(self._frequencies, positions)
        self._shape.cosines = pointer(self._rotary.cosines)
        self._shape.sines = pointer(self._rotary.sines)

    def _layer(self, weights: Weights, config: ModelConfig, index: int) -> library.Layer:
        prefix, dtype = f"model.layers.{index}.", compute_dtype(config)

        def packed(*names: str, out: int, into: int, biased: bool = False) -> library.Matrix:
            """Join weights; `out` and `into` are the widths of which their axes are made, each filled up by itself."""
            parts = [fill(weights[f"{prefix}{n}.weight"].to(dtype), 0, out) for n in names]
            biases = [fill(weights[f"{prefix}{n}.bias"], 0, out) for n in names if biased]
            matrix = Packed(fill(torch.cat(parts), 1, into), torch.cat(biases) if biased else None)
            self._kept.append(matrix)
            return matrix.matrix

        def norm(name: str, width: int) -> int | None:
            vector = fill(weights[f"{prefix}{name}.weight"].float().contiguous(), 0, width)
            self._kept.append(vector)
            return pointer(vector)

        hidden, head, inner = config.hidden_size, config.head_dim, config.intermediate_size
        attention = [f"self_attn.{name}_proj" for name in "qkv"]
        return library.Layer(
            qkv=packed(*attention, out=head, into=hidden, biased=config.qkv_bias),
            o=packed("self_attn.o_proj", out=hidden, into=head),
            gate=packed("mlp.gate_proj", out=inner, into=hidden),
            up=packed("mlp.up_proj", out=inner, into=hidden),
            down=packed("mlp.down_proj", out=hidden, into=inner),
            norm_in=norm("input_layernorm", hidden),
            norm_out=norm("post_attention_layernorm", hidden),
            norm_q=norm("self_attn.q_norm", head) if config.qk_norm else None,
            norm_k=norm("self_attn.k_norm", head) if config.qk_norm else None,
            window=config.layer_windows[index],
        )

    def __call__(self, states_RD: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """Return float32 states after the layers (in place, where it can be); keys and values go to the cache's layers 0, 1, …"""
        assert states_RD.dtype == torch.float32
        assert states_RD.shape == (batch.struct.rows, self._shape.own_hidden)
        states_RD = self._wide(states_RD)
        if cache is not self._bound:
            assert len(cache.keys) == len(self._layers)
            for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
                layer.keys, layer.values = pointer(keys), pointer(values)
            self._bound = cache
        if batch.positions > self._rotary.positions:
            self._reach(min(self.positions, 2 * batch.positions))
        needed = kernels().workspace(self._shape, len(self._layers), batch.struct)
        if needed > len(self._workspace):
            self._workspace = torch.empty(needed + needed // 4, dtype=torch.uint8)
        kernels().layers(
            self._shape,
            self._layers,
            len(self._layers),
            batch.struct,
            pointer(states_RD),
            pointer(self._workspace),
            len(self._workspace),
        )
        return self._own(states_RD)

    def norm(self, states_RD: Tensor, weight_D: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the root-mean-square norm of float32 states, in the compute dtype."""
        states_RD, weight_D = self._wide(states_RD), self._wide(weight_D)
        out = torch.empty(states_RD.shape, dtype=dtype)
        kernels().norm(
            self._shape, pointer(states_RD), pointer(weight_D), len(states_RD), pointer(out)
        )
        return self._own(out)

    def _wide(self, states: Tensor) -> Tensor:
        """Fill up what is as wide as the model."""
        return fill(states, states.dim() - 1, self._shape.own_hidden)

    def _own(self, states_RD: Tensor) -> Tensor:
        """Leave away what fills it up."""
        return states_RD[:, : self._shape.own_hidden].contiguous()


class Decoder:
    """A whole model. Not for use by two threads at once."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.dtype = compute_dtype(config)
        """Of hidden states, keys and values."""
        self.forward_passes = 0
        """How many passes this decoder has made."""
        table = weights["model.embed_tokens.weight"].to(self.dtype)
        tied = config.tie_word_embeddings
        self._head = Packed(table if tied else weights["lm_head.weight"].to(self.dtype))
        self._embedding = None if tied else table
        """None where the head's packed weight is the table: it is not kept twice."""
        self._norm = weights["model.norm.weight"].float().contiguous()
        self._stage = Stage(weights, config, 0, config.layers)

    def forward(self, spans: Sequence[Span], cache: KVCache) -> Tensor:
        """Return the final hidden states (rows, D), after the final norm, of all spans' tokens in order, in one pass."""
        self.forward_passes += 1
        batch = Batch.of(spans, cache, self._stage.positions)
        states = self._stage(self._embed(batch.tokens), batch, cache)
        return self._stage.norm(states, self._norm, self.dtype)

    def _embed(self, tokens_R: Tensor) -> Tensor:
        if int(tokens_R.min()) < 0 or int(tokens_R.max()) >= self.config.vocab_size:
            raise ValueError("a token lies outside the vocabulary")
        if self._embedding is None:
            return self._head.embed(tokens_R)
        return self._embedding[tokens_R].float()

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits (rows, V) of final hidden states."""
        return self._head.linear(hidden)


def load_decoder(
    folder: Path, *, weights_loader: WeightsLoader = load_weights, threads: int | None = None
) -> Decoder:
    """Load a checkpoint folder. `threads` sets how many threads passes use, for the whole process."""
    if threads is not None:
        kernels().threads(threads)
    config = ModelConfig.from_folder(folder)
    return Decoder(config, weights_loader(folder, config))


def state_bytes(hidden: Tensor) -> bytes:
    """Return states as they are hashed: little-endian bytes, row by row."""
    return hidden.contiguous().view(torch.uint8).numpy().tobytes()
