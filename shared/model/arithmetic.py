"""What the CPU backend does to torch tensors, each operation by a native kernel (native/kernels.h).

Every result element is a sum in a fixed order (native/product.h), so it depends on its own row and weights and on nothing
else: not on other rows, their number, the threads, or the instruction set.

Inputs of products are in the compute dtype: bfloat16 for bfloat16 checkpoints, else float32. The states between layers
are float32 throughout.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.fused import FUSED, FUSED_8, FUSED_16, check_eps, check_tensor
from shared.model.native import library
from shared.model.native.library import LANES, Matrix, kernels
from shared.runtime.errors import Code, CounterfoilError


@dataclass(frozen=True, slots=True)
class Kind:
    """How the kernels compute products of one dtype under one arithmetic (protocol §7.2)."""

    arithmetic: str
    dtype: torch.dtype
    number: int
    """The kernels' own."""
    group: int
    """Widths of products are padded to multiples of this many elements."""

    @property
    def per_unit(self) -> int:
        """Elements of one unit of four bytes."""
        return 4 // self.dtype.itemsize

    def check(self, tensor: Tensor) -> Tensor:
        """Return a tensor of a model; UNSUPPORTED where the arithmetic is not defined for what is in it."""
        if self.arithmetic in FUSED:
            check_tensor(tensor)
        return tensor

    def check_eps(self, eps: float) -> float:
        """Return a norm's eps; UNSUPPORTED as for `check`."""
        if self.arithmetic in FUSED:
            check_eps(eps)
        return eps

    def filled(self, width: int) -> int:
        """Return a width with its padding."""
        return -(-width // self.group) * self.group

    def fill(self, tensor: Tensor, axis: int, width: int) -> Tensor:
        """Pad every run of `width` along an axis with +0; a tensor that needs no padding is returned unchanged.

        The zeros take part in the sums (protocol §7.2): fma(+0, +0, acc) turns an acc of −0 into +0, and changes no other.
        A group of padding adds +0 under pairs-32, and under the fused arithmetics its exponent is below any that cuts a bit off.
        """
        missing = self.filled(width) - width
        if not missing:
            return tensor
        blocks = tensor.unflatten(axis, (-1, width)).movedim(axis + 1, -1)
        wider = functional.pad(blocks, (0, missing)).movedim(-1, axis + 1)
        return wider.flatten(axis, axis + 1).contiguous()


CHAIN_1: Final = "chain-1"
PAIRS_32: Final = "pairs-32"
KINDS: Final = (
    Kind(CHAIN_1, torch.float32, library.SINGLES, 16),
    Kind(CHAIN_1, torch.bfloat16, library.PAIRS_CHAIN, 16),
    Kind(PAIRS_32, torch.bfloat16, library.PAIRS_32, 32),
    Kind(FUSED_16, torch.bfloat16, library.FUSED_16, 16),
    Kind(FUSED_8, torch.bfloat16, library.FUSED_8, 16),
)
ARITHMETICS: Final = tuple(dict.fromkeys(kind.arithmetic for kind in KINDS))


def kind_of(arithmetic: str, dtype: torch.dtype) -> Kind:
    """Return how an arithmetic computes with a dtype; UNSUPPORTED where it does not define that."""
    for kind in KINDS:
        if (kind.arithmetic, kind.dtype) == (arithmetic, dtype):
            return kind
    raise CounterfoilError(
        Code.UNSUPPORTED,
        f"the arithmetic {arithmetic} is not defined for {str(dtype).removeprefix('torch.')}",
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Return a contiguous tensor's address."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


class Packed:
    """A weight (out, in) in panels of 16 outputs, its rows padded, with its bias (out,) in float32."""

    def __init__(self, kind: Kind, weight: Tensor, bias: Tensor | None = None) -> None:
        assert weight.dtype == kind.dtype
        rows, own = weight.shape
        weight = kind.fill(kind.check(weight), 1, own)
        columns = weight.shape[1]
        self.kind = kind
        units, panels = columns // kind.per_unit, -(-rows // LANES)
        self._data = torch.empty(panels * units * LANES, dtype=torch.int32)
        kernels().pack(
            pointer(weight.contiguous()), rows, columns, kind.number, pointer(self._data)
        )
        self._bias = None
        if bias is not None:  # whole panels are read
            self._bias = torch.zeros(panels * LANES)
            self._bias[:rows] = kind.check(bias.float())
        self.rows, self.columns = rows, own
        self.matrix = Matrix(pointer(self._data), pointer(self._bias), rows, units)

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Return rows of the weight as float32 (R, in); tokens are int64 and in the vocabulary."""
        assert tokens_R.dtype == torch.int64
        assert not len(tokens_R) or 0 <= int(tokens_R.min()) <= int(tokens_R.max()) < self.rows
        out = torch.empty(len(tokens_R), self.kind.filled(self.columns))
        kernels().embed(
            self.matrix, pointer(tokens_R), len(tokens_R), self.kind.number, pointer(out)
        )
        return out[:, : self.columns].contiguous()

    def linear(self, x_RD: Tensor) -> Tensor:
        """Return x · weightᵀ + bias as float32 (R, out)."""
        assert x_RD.dtype == self.kind.dtype
        assert x_RD.shape[1] == self.columns
        x_RD = self.kind.fill(x_RD, 1, self.columns)
        out = torch.empty(len(x_RD), self.rows)
        kernels().linear(self.matrix, pointer(x_RD), len(x_RD), self.kind.number, pointer(out))
        return out
