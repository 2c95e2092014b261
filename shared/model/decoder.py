"""The decoder: embedding, a range of layers, final norm, output head. Serving, replay and disputes run this one class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared.model.arithmetic import TILE, Rotary, gated, linear, rms_norm
from shared.model.attention import attend
from shared.model.config import ModelConfig
from shared.model.kv import BLOCK, NULL_BLOCK, KVCache
from shared.model.weights import Weights, WeightsLoader, load_weights


@dataclass(frozen=True, slots=True)
class Row:
    """One token of one sequence: its position, and the blocks that hold the sequence's keys and values."""

    token: int
    position: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class Tile:
    """Up to 16 rows as tensors; missing rows point at the null block."""

    tokens_R: Tensor
    positions_R: Tensor
    slots_R: Tensor
    blocks_RB: Tensor
    lengths_R: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Tile":
        """Lay out rows; all positions of one sequence must come in order."""
        assert 0 < len(rows) <= TILE
        missing = TILE - len(rows)
        needed = max(row.position // BLOCK + 1 for row in rows)
        blocks = [
            [*row.blocks[: row.position // BLOCK + 1]]
            + [NULL_BLOCK] * (needed - row.position // BLOCK - 1)
            for row in rows
        ]
        slots = [row.blocks[row.position // BLOCK] * BLOCK + row.position % BLOCK for row in rows]
        return cls(
            tokens_R=torch.tensor([row.token for row in rows] + [0] * missing),
            positions_R=torch.tensor([row.position for row in rows] + [0] * missing),
            slots_R=torch.tensor(slots + [NULL_BLOCK] * missing),
            blocks_RB=torch.tensor(blocks + [[NULL_BLOCK] * needed] * missing),
            lengths_R=torch.tensor([row.position + 1 for row in rows] + [1] * missing),
        )


class Layer:
    """One transformer layer with fused projections."""

    def __init__(self, weights: Weights, index: int, config: ModelConfig) -> None:
        prefix = f"model.layers.{index}."

        def fused(*names: str, part: str = "weight") -> Tensor:
            return torch.cat([weights[f"{prefix}{name}.{part}"] for name in names]).contiguous()

        self._config = config
        self._norm_in = weights[prefix + "input_layernorm.weight"]
        self._norm_out = weights[prefix + "post_attention_layernorm.weight"]
        qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self._qkv = fused(*qkv)
        self._qkv_bias = fused(*qkv, part="bias") if config.qkv_bias else None
        self._q_norm, self._k_norm = (
            weights[f"{prefix}self_attn.{name}.weight"] if config.qk_norm else None
            for name in ("q_norm", "k_norm")
        )
        self._window = config.layer_windows[index]
        self._o = fused("self_attn.o_proj")
        self._gate_up = fused("mlp.gate_proj", "mlp.up_proj")
        self._down = fused("mlp.down_proj")

    def __call__(
        self, x_RD: Tensor, tile: Tile, cache: KVCache, slot: int, rotary: Rotary
    ) -> Tensor:
        """Return the tile's states after this layer, having stored its keys and values at cache layer `slot`."""
        config = self._config
        normed = rms_norm(x_RD, self._norm_in, config.rms_norm_eps)
        qkv = linear(normed, self._qkv, self._qkv_bias).view(TILE, -1, config.head_dim)
        q, k, v = qkv.split([config.heads, config.kv_heads, config.kv_heads], dim=1)
        if self._q_norm is not None and self._k_norm is not None:
            q = rms_norm(q, self._q_norm, config.rms_norm_eps)
            k = rms_norm(k, self._k_norm, config.rms_norm_eps)
        cache.write(slot, tile.slots_R, rotary(k, tile.positions_R), v)
        attended = attend(
            rotary(q, tile.positions_R),
            cache.keys[slot],
            cache.values[slot],
            tile.blocks_RB,
            tile.lengths_R,
            self._window,
        )
        x_RD = x_RD + linear(attended, self._o)
        normed = rms_norm(x_RD, self._norm_out, config.rms_norm_eps)
        return x_RD + linear(gated(linear(normed, self._gate_up)), self._down)


class Stage:
    """A contiguous range of layers [first, last)."""

    def __init__(self, weights: Weights, config: ModelConfig, first: int, last: int) -> None:
        assert 0 <= first <= last <= config.layers
        self._layers = [Layer(weights, index, config) for index in range(first, last)]
        self._rotary = Rotary(config.head_dim, config.rope, config.max_positions)

    def __call__(self, states: list[Tensor], tiles: Sequence[Tile], cache: KVCache) -> list[Tensor]:
        """Run all tiles through each layer in turn, so that a layer's weights stay in the processor's cache."""
        for slot, layer in enumerate(self._layers):
            states = [
                layer(x_RD, tile, cache, slot, self._rotary)
                for x_RD, tile in zip(states, tiles, strict=True)
            ]
        return states


class Decoder:
    """A whole model. Not for use by two threads at once."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.forward_passes = 0
        """How many passes this decoder has made."""
        self._embedding = weights["model.embed_tokens.weight"]
        self._head = self._embedding if config.tie_word_embeddings else weights["lm_head.weight"]
        self._norm = weights["model.norm.weight"]
        self._stage = Stage(weights, config, 0, config.layers)

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row], cache: KVCache) -> Tensor:
        """Return the final hidden states (rows, D), after the final norm, in one pass."""
        self.forward_passes += 1
        tiles = [Tile.of(rows[start : start + TILE]) for start in range(0, len(rows), TILE)]
        states = [self._embedding[tile.tokens_R] for tile in tiles]
        states = self._stage(states, tiles, cache)
        normed = [rms_norm(x_RD, self._norm, self.config.rms_norm_eps) for x_RD in states]
        return torch.cat(normed)[: len(rows)]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits (rows, V) of final hidden states."""
        rows = hidden.shape[0]
        padded = torch.zeros((-(-rows // TILE) * TILE, hidden.shape[1]), dtype=hidden.dtype)
        padded[:rows] = hidden
        parts = [linear(padded[i : i + TILE], self._head) for i in range(0, len(padded), TILE)]
        return torch.cat(parts)[:rows].float()


def load_decoder(
    folder: Path, *, weights_loader: WeightsLoader = load_weights, threads: int | None = None
) -> Decoder:
    """Load a checkpoint folder. `threads` sets torch's thread count for the whole process."""
    if threads is not None:
        torch.set_num_threads(threads)
    config = ModelConfig.from_folder(folder)
    return Decoder(config, weights_loader(folder, config))


def state_bytes(hidden: Tensor) -> bytes:
    """Return states as they are hashed: little-endian bytes, row by row."""
    flat = hidden.contiguous().view(torch.uint8)
    return flat.numpy().tobytes()
