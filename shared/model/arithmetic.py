"""The decoder's operations over torch tensors, each the native kernel's (native/kernels.h).

Every result element is one chain of multiply-adds in a fixed order (native/tile.h), so it depends on its own row and weights and on
nothing else: not on other rows, their number, the threads, or the instruction set.

Inputs of products are in the compute dtype: bfloat16 for bfloat16 checkpoints, else float32. The states between layers
are float32 throughout.
"""

from typing import Final

import torch
from torch import Tensor

from shared.model.native.library import LANES, Matrix, kernels

KERNELS: Final = "chain-1"
"""Names the order of every sum (native/tile.h) and every function's definition (native/vector.h) in the numeric profile."""


def pairs_of(dtype: torch.dtype) -> int:
    """Return 1 where a unit of four bytes holds two elements."""
    assert dtype in {torch.bfloat16, torch.float32}
    return int(dtype == torch.bfloat16)


def pointer(tensor: Tensor | None) -> int | None:
    """Return a contiguous tensor's address."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


class Packed:
    """A weight (out, in) in panels of 16 outputs, with its bias (out,) in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        rows, columns = weight.shape
        self.dtype = weight.dtype
        pairs = pairs_of(self.dtype)
        assert columns % (pairs + 1) == 0
        units, panels = columns // (pairs + 1), -(-rows // LANES)
        self._data = torch.empty(panels * units * LANES, dtype=torch.int32)
        kernels().pack(pointer(weight.contiguous()), rows, columns, pairs, pointer(self._data))
        self._bias = None
        if bias is not None:  # whole panels are read
            self._bias = torch.zeros(panels * LANES)
            self._bias[:rows] = bias.float()
        self.rows, self.columns = rows, columns
        self.matrix = Matrix(pointer(self._data), pointer(self._bias), rows, units)

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Return rows of the weight as float32 (R, in); tokens are int64 and in the vocabulary."""
        assert tokens_R.dtype == torch.int64
        assert 0 <= int(tokens_R.min()) <= int(tokens_R.max()) < self.rows
        out = torch.empty(len(tokens_R), self.columns)
        kernels().embed(
            self.matrix, pointer(tokens_R), len(tokens_R), pairs_of(self.dtype), pointer(out)
        )
        return out

    def linear(self, x_RD: Tensor) -> Tensor:
        """Return x · weightᵀ + bias as float32 (R, out)."""
        assert x_RD.dtype == self.dtype
        assert x_RD.shape[1] == self.columns
        out = torch.empty(len(x_RD), self.rows)
        kernels().linear(self.matrix, pointer(x_RD), len(x_RD), pairs_of(self.dtype), pointer(out))
        return out


class Rotary:
    """Rotary position embedding (rotate-half form): tables (positions, head width / 2) in float32.

    Angles are exact products of a position and a float32 frequency; sine and cosine are computed with plain
    operations of float64, so the table does not depend on a mathematical library.
    """

    def __init__(self, frequencies: Tensor, positions: int, magnitude: float = 1.0) -> None:
        frequencies = frequencies.float().contiguous()
        self.positions = positions
        self.cosines = torch.empty(positions, len(frequencies))
        self.sines = torch.empty(positions, len(frequencies))
        kernels().rotary(
            pointer(frequencies),
            len(frequencies),
            positions,
            magnitude,
            pointer(self.cosines),
            pointer(self.sines),
        )
