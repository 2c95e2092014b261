"""Our engine with determinism switched off, only here: the price of batch invariance is how far ours falls short of it.

`RelaxedDecoder` stands in for the decoder: one product over all rows at once, whose order of summation may change with their
number, and torch's fused attention. Everything but arithmetic (scheduler, sampler, hashes, text) stays.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.engine.sides.ours import OursSide
from benchmarks.engine.sides.wire import serve
from shared.model.backend import Cache, Span
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.rope import inverse_frequencies
from shared.model.weights import Weights, load_weights

BLOCK = 64
Group = tuple[Tensor, Tensor, Tensor]
"""Rows of the step as (sequences, queries), slots of their keys (sequences, keys), mask (sequences, 1, queries, keys)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token of one sequence: its position, and the blocks that hold the sequence's keys and values."""

    token: int
    position: int
    blocks: Sequence[int]


class RelaxedDecoder(Decoder):
    """The Llama and Qwen3 families, using torch's own operations on whole batches."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.backend = CpuBackend()
        self.dtype = torch.bfloat16
        self.forward_passes = 0
        self._weights = weights
        self._head_weight = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        self._fused = [self._fuse(layer) for layer in range(config.layers)]
        self._stored: list[tuple[Tensor, Tensor]] = []
        frequencies = torch.from_numpy(inverse_frequencies(config.head_dim, config.rope))
        places = torch.arange(config.max_positions).double()
        angles = torch.outer(places, frequencies).repeat(1, 2)
        self._cos, self._sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    @torch.inference_mode()
    def forward(self, spans: Sequence[Span], cache: Cache) -> Tensor:
        """Return the final states; only the cache's number of blocks is used."""
        rows = [
            Row(token, place, span.blocks)
            for span in spans
            for place, token in enumerate(span.tokens, span.position)
        ]
        self.forward_passes += 1
        if not self._stored:
            shape = ((cache.blocks + 1) * BLOCK, self.config.kv_heads, self.config.head_dim)
            self._stored = [
                (torch.zeros(shape).bfloat16(), torch.zeros(shape).bfloat16()) for _ in self._fused
            ]
        places = torch.tensor([row.position for row in rows])
        slots = torch.tensor([_slots(row)[row.position] for row in rows])
        turn = self._cos[places].unsqueeze(1), self._sin[places].unsqueeze(1)
        groups = _groups(rows)
        x = self._weights["model.embed_tokens.weight"][torch.tensor([row.token for row in rows])]
        for layer in range(len(self._fused)):
            x = self._layer(layer, x, turn, slots, groups)
        return self._norm_by("model.norm", x)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits."""
        return functional.linear(hidden, self._head_weight).float()

    def _fuse(self, layer: int) -> tuple[Tensor, Tensor]:
        prefix, weights = f"model.layers.{layer}.", self._weights
        return (
            torch.cat([weights[f"{prefix}self_attn.{each}_proj.weight"] for each in "qkv"]),
            torch.cat([weights[f"{prefix}mlp.{each}_proj.weight"] for each in ("gate", "up")]),
        )

    def _norm_by(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return functional.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def _layer(
        self, layer: int, x: Tensor, turn: tuple[Tensor, Tensor], slots: Tensor, groups: list[Group]
    ) -> Tensor:
        config, prefix, weights = self.config, f"model.layers.{layer}.", self._weights
        qkv, gate_up = self._fused[layer]
        normed = self._norm_by(prefix + "input_layernorm", x)
        heads = functional.linear(normed, qkv).view(len(x), -1, config.head_dim)
        q, k, v = heads.split([config.heads, config.kv_heads, config.kv_heads], dim=1)
        if prefix + "self_attn.q_norm.weight" in weights:
            q = self._norm_by(prefix + "self_attn.q_norm", q)
            k = self._norm_by(prefix + "self_attn.k_norm", k)
        keys, values = self._stored[layer]
        keys[slots], values[slots] = _turned(k, *turn), v
        q, attended = _turned(q, *turn), torch.empty_like(q)
        for members, places, mask in groups:
            found = functional.scaled_dot_product_attention(
                q[members].transpose(1, 2),
                keys[places].transpose(1, 2),
                values[places].transpose(1, 2),
                attn_mask=mask,
                enable_gqa=True,
            )
            attended[members] = found.transpose(1, 2)
        x = x + functional.linear(
            attended.reshape(len(x), -1), weights[prefix + "self_attn.o_proj.weight"]
        )
        normed = self._norm_by(prefix + "post_attention_layernorm", x)
        gate, up = functional.linear(normed, gate_up).chunk(2, dim=-1)
        down = weights[prefix + "mlp.down_proj.weight"]
        return x + functional.linear(functional.silu(gate) * up, down)


def _groups(rows: Sequence[Row]) -> list[Group]:
    """Return one group of all sequences with one row, and one for each sequence with more."""
    sequences: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        sequences.setdefault(id(row.blocks), []).append(place)
    single = [places for places in sequences.values() if len(places) == 1]
    more = [[places] for places in sequences.values() if len(places) > 1]
    return [_group(rows, each) for each in ([single] if single else []) + more]


def _group(rows: Sequence[Row], members: list[list[int]]) -> Group:
    longest = max(rows[places[-1]].position for places in members) + 1
    slots = torch.zeros((len(members), longest), dtype=torch.int64)
    for line, places in zip(slots, members, strict=True):
        own = _slots(rows[places[-1]])
        line[: len(own)] = own
    last = torch.tensor([[rows[place].position for place in places] for places in members])
    mask = torch.arange(longest) <= last.unsqueeze(-1)
    return torch.tensor(members), slots, mask.unsqueeze(1)


def _slots(row: Row) -> Tensor:
    """Return where a row's sequence keeps its keys, up to the row's own."""
    blocks = torch.as_tensor(row.blocks[: row.position // BLOCK + 1])
    every = blocks.unsqueeze(1) * BLOCK + torch.arange(BLOCK)
    return every.flatten()[: row.position + 1]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def relaxed_side(folder: Path, threads: int) -> OursSide:
    """Return our engine around the relaxed decoder."""
    torch.set_num_threads(threads)
    config = ModelConfig.from_folder(folder)
    return OursSide(folder, threads, RelaxedDecoder(config, load_weights(folder, config)))


if __name__ == "__main__":
    serve(relaxed_side, sys.argv[1:])
