"""Attention of a tile over paged keys and values, exact for each row by itself.

Scores are computed block by block of 64 positions in float32. The maximum is exact in any order; sums run over the 64 places
of a block first and then over blocks in order, starting from +0. A block beyond a row's length adds exact zeros, so a
row's result does not depend on how many blocks its neighbours need.
"""

import torch
from torch import Tensor

from shared.model.kv import BLOCK


def attend(
    q_RHE: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks_RB: Tensor,
    lengths_R: Tensor,
    window: int = 0,
) -> Tensor:
    """Return (R, H·E). `keys` is (blocks, K, E, S), `values` (blocks, K, S, E); lengths count the row's own position.

    With a window a row attends to its own position and the `window` - 1 before it only.
    """
    rows, heads, width = q_RHE.shape
    kv_heads, blocks = keys.shape[1], blocks_RB.shape[1]
    group = heads // kv_heads
    k_RBKES = keys[blocks_RB].float()
    v_RBKSE = values[blocks_RB].float()
    q = q_RHE.float().view(rows, 1, kv_heads, group, width) * width**-0.5
    s_RBKGS = torch.matmul(q.expand(rows, blocks, kv_heads, group, width), k_RBKES)
    place = torch.arange(blocks * BLOCK).view(1, blocks, 1, 1, BLOCK)
    lengths = lengths_R.view(rows, 1, 1, 1, 1)
    beyond = place >= lengths
    if window:
        beyond = beyond | (place < lengths - window)
    s_RBKGS = s_RBKGS.masked_fill(beyond, float("-inf"))
    p_RBKGS = torch.exp(s_RBKGS - s_RBKGS.amax(dim=(1, 4), keepdim=True))
    sums = p_RBKGS.sum(-1, keepdim=True)
    products = torch.matmul(p_RBKGS, v_RBKSE)
    weight, total = torch.zeros_like(sums[:, 0]), torch.zeros_like(products[:, 0])
    for block in range(blocks):
        weight = weight + sums[:, block]
        total = total + products[:, block]
    return (total / weight).view(rows, heads * width).to(q_RHE.dtype)
