"""Operations whose result for one row does not depend on the other rows.

The rule: every operation sees a tile of exactly TILE rows, so each matrix product has one shape for a given weight, whatever
the batch; rows that are missing are padding. Within one shape, a row's result is the same in every place of the tile and beside
any neighbours (tests hold this against permuted and lonely rows). Tiles are whole multiples of every vector width, so no
element is ever computed by a scalar tail.

Shape suffixes: R rows of a tile (16), D model width, H heads, K key-value heads, G heads per key-value head, E head
width, B key-value blocks, S positions of a block (64), V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.rope import Rope, inverse_frequencies

TILE = 16
KERNELS = "tile16-block64-v2"
"""Names this module's and `attention`'s reduction orders in the numeric profile."""


def linear(x_RD: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply one tile with a weight (out, in), and add a bias (out)."""
    assert x_RD.shape[0] == TILE
    product = functional.linear(x_RD, weight)
    return product if bias is None else product + bias


def rms_norm(x_RD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm: statistics and product in float32, result in the tile's dtype."""
    x = x_RD.float()
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (x * scale).to(x_RD.dtype) * weight_D


def gated(gate_up: Tensor) -> Tensor:
    """Return silu(gate) · up of a tile whose columns are gate, then up.

    silu is written out, g / (1 + exp(-g)) in float32: torch's own ends every thread's share of the tile in a scalar tail
    whose exponential is another one, so a row's bits would depend on where the shares meet.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    g = gate.float()
    return g.div(g.neg().exp_().add_(1.0)).to(gate_up.dtype) * up


class Rotary:
    """Rotary position embedding (rotate-half form), tables in float32."""

    def __init__(self, head_dim: int, rope: Rope, positions: int) -> None:
        frequencies = torch.from_numpy(inverse_frequencies(head_dim, rope))
        angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
        table = torch.cat([angles, angles], dim=-1)
        self._cos, self._sin = table.cos().float(), table.sin().float()

    def __call__(self, x_RHE: Tensor, positions_R: Tensor) -> Tensor:
        """Rotate each row by its position."""
        cos, sin = self._cos[positions_R].unsqueeze(1), self._sin[positions_R].unsqueeze(1)
        x = x_RHE.float()
        low, high = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-high, low], dim=-1) * sin).to(x_RHE.dtype)
