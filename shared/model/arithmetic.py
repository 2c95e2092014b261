"""What the CPU backend does to torch tensors, each operation the native kernel's (native/kernels.h).

Every result element is one chain of multiply-adds in a fixed order (native/product.h), so it depends on its own row and
weights and on nothing else: not on other rows, their number, the threads, or the instruction set.

Inputs of products are in the compute dtype: bfloat16 for bfloat16 checkpoints, else float32. The states between layers
are float32 throughout.
"""

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.native.library import LANES, Matrix, kernels


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


def filled(width: int) -> int:
    """Return a width with the zeros that fill it up to whole lanes."""
    return -(-width // LANES) * LANES


def fill(tensor: Tensor, axis: int, width: int) -> Tensor:
    """Fill every block of `width` along an axis up to whole lanes, with +0 after it; what needs none is returned as it is.

    The zeros take part in the sums (protocol §7.2): fma(+0, +0, acc) makes +0 of an acc that is −0, and changes no other.
    """
    missing = filled(width) - width
    if not missing:
        return tensor
    blocks = tensor.unflatten(axis, (-1, width)).movedim(axis + 1, -1)
    wider = functional.pad(blocks, (0, missing)).movedim(-1, axis + 1)
    return wider.flatten(axis, axis + 1).contiguous()


class Packed:
    """A weight (out, in) in panels of 16 outputs, its rows filled up to whole lanes, with its bias (out,) in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        rows, own = weight.shape
        weight = fill(weight, 1, own)
        columns = weight.shape[1]
        self.dtype = weight.dtype
        pairs = pairs_of(self.dtype)
        units, panels = columns // (pairs + 1), -(-rows // LANES)
        self._data = torch.empty(panels * units * LANES, dtype=torch.int32)
        kernels().pack(pointer(weight.contiguous()), rows, columns, pairs, pointer(self._data))
        self._bias = None
        if bias is not None:  # whole panels are read
            self._bias = torch.zeros(panels * LANES)
            self._bias[:rows] = bias.float()
        self.rows, self.columns = rows, own
        self.matrix = Matrix(pointer(self._data), pointer(self._bias), rows, units)

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Return rows of the weight as float32 (R, in); tokens are int64 and in the vocabulary."""
        assert tokens_R.dtype == torch.int64
        assert not len(tokens_R) or 0 <= int(tokens_R.min()) <= int(tokens_R.max()) < self.rows
        out = torch.empty(len(tokens_R), filled(self.columns))
        kernels().embed(
            self.matrix, pointer(tokens_R), len(tokens_R), pairs_of(self.dtype), pointer(out)
        )
        return out[:, : self.columns].contiguous()

    def linear(self, x_RD: Tensor) -> Tensor:
        """Return x · weightᵀ + bias as float32 (R, out)."""
        assert x_RD.dtype == self.dtype
        assert x_RD.shape[1] == self.columns
        x_RD = fill(x_RD, 1, self.columns)
        out = torch.empty(len(x_RD), self.rows)
        kernels().linear(self.matrix, pointer(x_RD), len(x_RD), pairs_of(self.dtype), pointer(out))
        return out
