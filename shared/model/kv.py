"""Keys and values in blocks of 64 positions; block 0 belongs to nobody."""

import torch
from torch import Tensor

from shared.model.arithmetic import filled
from shared.model.config import ModelConfig
from shared.model.weights import compute_dtype

BLOCK = 64
NULL_BLOCK = 0


def blocks_for(positions: int) -> int:
    """Return how many blocks hold this many positions."""
    return -(-positions // BLOCK)


def block_bytes(config: ModelConfig) -> int:
    """Return the bytes that one block of all layers takes."""
    element = compute_dtype(config).itemsize
    return 2 * config.layers * config.kv_heads * filled(config.head_dim) * BLOCK * element


class KVCache:
    """Storage for `blocks` usable blocks and the null block, for each layer of a range.

    Keys are (blocks, kv heads, head width, 64) and values (blocks, kv heads, 64, head width) in units of four bytes: two
    neighbouring elements of the head (keys) or positions (values) share a unit in bfloat16. The head width is filled up to whole
    lanes. What the kernels store is finite.
    """

    def __init__(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> None:
        count = config.layers if layers is None else layers
        self.dtype = compute_dtype(config)
        shape = (blocks + 1, config.kv_heads, filled(config.head_dim) * BLOCK)
        self.keys: list[Tensor] = [torch.zeros(shape, dtype=self.dtype) for _ in range(count)]
        self.values: list[Tensor] = [torch.zeros(shape, dtype=self.dtype) for _ in range(count)]
        self.blocks = blocks
