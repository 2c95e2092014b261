"""What a node takes of a card's memory, worked out before anything is loaded."""

from dataclasses import dataclass
from math import prod
from typing import Final, Self

import torch

from shared.model.config import ModelConfig
from shared.model.cuda.shape import Shape
from shared.model.cuda.tiles import filled
from shared.model.fused import SEGMENT
from shared.model.weights import EMBEDDING, HEAD, expected_shapes
from shared.runtime.errors import Code, CounterfoilError

GIB: Final = 2**30
RUNTIME: Final = 1 << 30
"""Bytes for compiled kernels, graphs, and what the allocator cannot use."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes."""

    weights: int
    cache: int
    workspace: int

    @classmethod
    def of(cls, config: ModelConfig, cache: int, *, rows: int, batch: int, context: int) -> Self:
        """Plan for a model, a cache of that many bytes, passes of up to so many rows, of which `batch` decode, and a context."""
        shape = Shape.of(config)
        wide = shape.hidden_filled
        layer = wide * (shape.qkv + shape.attended + 3 * shape.inner)
        tables = [
            size for name, size in expected_shapes(config).items() if name in (EMBEDDING, HEAD)
        ]
        vocabulary = filled(config.vocab_size)
        weights = 2 * (config.layers * layer + len(tables) * vocabulary * wide)
        angles = 4 * 2 * context * (config.head_dim // 2)
        row = 4 * (2 * wide + shape.qkv) + 2 * (wide + 2 * shape.attended + shape.inner)
        segments = -(-context // SEGMENT)
        heads = prod((batch, segments, shape.heads, shape.head_filled + 2))
        logits = 2 * 4 * batch * vocabulary
        return cls(weights, cache, RUNTIME + angles + rows * row + 4 * heads + logits)

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace

    def check(self, free: int) -> None:
        """Raise CONFIGURATION unless it fits into the free memory of a card."""
        if self.total > free:
            parts = " + ".join(
                f"{size / GIB:.1f} GiB of {name}"
                for name, size in (
                    ("weights", self.weights),
                    ("keys and values", self.cache),
                    ("workspace", self.workspace),
                )
            )
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the node needs {parts}, and the GPU has {free / GIB:.1f} GiB free",
                remedy="Set kv_memory_mib, max_model_len, max_batch or prefill_rows lower, or use a GPU with more memory.",
            )


def free_memory() -> int:
    """Return the free bytes of the card."""
    return torch.cuda.mem_get_info()[0]
