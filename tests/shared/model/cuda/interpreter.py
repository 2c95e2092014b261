"""Triton's interpreter, made to compute what a card does, so that the kernels run without one.

As it is, the interpreter rounds to bfloat16 wrongly, rounds an fma twice, and sums products in whatever order numpy does. `patched`
replaces these three: the first two by the operations of IEEE 754, `dot` by the chain of fused sums of protocol §7.2.4. What it
cannot show is whether the compiler keeps the order of operations; `test_compiled` looks at that.

Triton reads TRITON_INTERPRET when it is imported; tests/conftest.py sets it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
FOLDS = {"fused-16": (16, 25), "fused-8": (8, 24)}
"""Of each arithmetic, the products of one fused sum and the bits of its fraction."""
PIECE = 1 << 16
"""Products that are summed at once: what fits into a processor's cache."""


def exponents(x: Doubles) -> NDArray[np.int32]:
    """Return the exponents of numbers; −126 where they are subnormal in float32, or zero."""
    return np.where(x == 0, -126, np.maximum(np.frexp(x)[1] - 1, -126)).astype(np.int32)


def fused(sums: Doubles, a: Doubles, b: Doubles, fraction: int) -> Doubles:
    """Return one fused sum for each row of a (M, G) and of b (N, G), begun at sums (M, N).

    Zeros are negative: their sign is not defined, and nothing may depend on it. Doubles hold all of it exactly: products of 16
    bits, and sums of multiples of 2^(E−F) that are below 2^5 · 2^F.
    """
    largest = (exponents(a)[:, None] + exponents(b)[None]).max(-1)
    largest = np.where(sums == 0, largest, np.maximum(largest, exponents(sums)))
    up = np.ldexp(1.0, fraction - largest)
    found = np.trunc(a[:, None] * b[None] * up[..., None]).sum(-1) + np.trunc(sums * up)
    bits = (found.view(np.int64) & -(1 << 29)).view(np.float64)  # 24 bits of 53
    down = bits / up
    small = np.trunc(down * 2.0**149) * 2.0**-149
    down = np.where(np.abs(down) < 2.0**-126, small, down)
    return np.where(down == 0, -0.0, down)


def chain(x: Floats, y: Floats, start: Floats, fold: tuple[int, int]) -> Floats:
    """Return start (M, N) and the products of x (M, K) with y (K, N), in fused sums of ascending k."""
    group, fraction = fold
    a, b = x.astype(np.float64), y.T.astype(np.float64)
    sums = start.astype(np.float64)
    rows = max(1, PIECE // (group * len(b)))
    for first in range(0, len(a), rows):
        part = slice(first, first + rows)
        for k in range(0, a.shape[1], group):
            sums[part] = fused(sums[part], a[part, k : k + group], b[:, k : k + group], fraction)
    return sums.astype(np.float32)


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return a · b + c, rounded once.

    The sum in float64 is rounded to the odd one of its neighbours, which lies on the same side of every float32, and of the middle
    of every two, as the exact one does.
    """
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + addend
    part = total - product
    rest = (product - (total - part)) + (addend - part)
    inexact = np.isfinite(rest) & (rest != 0) & (total.view(np.int64) & 1 == 0)
    return np.where(inexact, np.nextafter(total, np.copysign(np.inf, rest)), total).astype(
        np.float32
    )


def narrowed(x: Floats) -> NDArray[np.uint16]:
    """Return float32 as the bits of bfloat16, rounded to nearest, ties to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(x: NDArray[np.uint16]) -> Floats:
    """Return bits of bfloat16 as float32."""
    return (x.astype(np.uint32) << 16).view(np.float32)


@contextmanager
def patched(arithmetic: str = "fused-16") -> Iterator[None]:
    """Let the interpreter compute as a card of this arithmetic does."""
    from triton.language import core
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    plain, fold = builder.cast_impl, FOLDS[arithmetic]

    def cast(self: Any, source: Any, kind: Any) -> Any:
        scalar = kind.scalar
        if (source.dtype.scalar, scalar) == (core.float32, core.bfloat16):
            return handle(narrowed(np.ascontiguousarray(source.data)), scalar)
        if (source.dtype.scalar, scalar) == (core.bfloat16, core.float32):
            return handle(widened(np.ascontiguousarray(source.data)), scalar)
        return plain(self, source, kind)

    def dot(_self: Any, a: Any, b: Any, start: Any, *_precision: Any) -> Any:
        assert a.dtype.scalar == b.dtype.scalar == core.bfloat16
        found = chain(widened(a.data), widened(b.data), start.data, fold)
        return handle(found, start.dtype.scalar)

    def fused_multiply_add(_self: Any, a: Any, b: Any, c: Any) -> Any:
        return handle(fma(a.data, b.data, c.data), c.dtype.scalar)

    names = {
        "cast_impl": cast,
        "create_dot": dot,
        "create_fma": fused_multiply_add,
        **dict.fromkeys(("create_fp_ext", "create_fp_trunc"), cast),
        "create_fp_to_fp": lambda self, source, kind, _rounding: cast(self, source, kind),
    }
    before = {name: builder.__dict__[name] for name in names}
    try:
        for name, function in names.items():
            setattr(builder, name, function)
        with np.errstate(all="ignore"):  # infinities and NaN of rows that nobody reads
            yield
    finally:
        for name, function in before.items():
            setattr(builder, name, function)
