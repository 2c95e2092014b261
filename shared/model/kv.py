"""Keys and values in blocks of 64 positions; block 0 belongs to padding rows."""

import torch
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.weights import dtype_of

BLOCK = 64
NULL_BLOCK = 0


def blocks_for(positions: int) -> int:
    """Return how many blocks hold this many positions."""
    return -(-positions // BLOCK)


class KVCache:
    """Storage for `blocks` usable blocks and the null block, for each layer of a range."""

    def __init__(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> None:
        count = config.layers if layers is None else layers
        shape = (blocks + 1, config.kv_heads, config.head_dim, BLOCK)
        self.keys = [torch.zeros(shape, dtype=dtype_of(config)) for _ in range(count)]
        self.values = [
            torch.zeros(
                (blocks + 1, config.kv_heads, BLOCK, config.head_dim), dtype=dtype_of(config)
            )
            for _ in range(count)
        ]
        self.blocks = blocks

    def write(self, layer: int, slots_R: Tensor, k_RKE: Tensor, v_RKE: Tensor) -> None:
        """Store one tile's keys and values at slots (block · 64 + place).

        Stored values are finite: attention multiplies those beyond a row's length with zero, and a neighbour's overflow must
        not make that anything but zero.
        """
        block, place = slots_R // BLOCK, slots_R % BLOCK
        self.keys[layer][block, :, :, place] = k_RKE
        self.values[layer][block, :, place, :] = v_RKE.nan_to_num()
