"""Protocol §7.2.4 in numpy: the fused arithmetics, written from its text."""

from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tests.shared.model.operations import INFINITY, Floats, bfloat16, padded, quiet
from tests.shared.model.reference import Arithmetic

Integers = NDArray[np.int64]
NOTHING = -100_000
"""Stands for the exponent of c = 0, which has none."""
SEGMENT = 128


def exponent(x: Floats) -> Integers:
    """Return the exponents of binary32 or bfloat16 numbers, −126 for subnormal ones and zeros."""
    field = (x.view(np.uint32) >> 23 & 0xFF).astype(np.int64)
    return np.maximum(field, 1) - 127


def significand(x: Floats) -> Integers:
    """Return signed integers: x is each times 2^(exponent − 23)."""
    bits = x.view(np.uint32)
    size = (bits & 0x7FFFFF).astype(np.int64) + np.where(bits >> 23 & 0xFF, 1 << 23, 0)
    return np.where(bits >> 31, -size, size)


def shifted(x: Integers, left: Integers) -> Integers:
    """Return x · 2^left, truncated toward zero."""
    size = np.abs(x)
    moved = np.where(left >= 0, size << np.clip(left, 0, 40), size >> np.clip(-left, 0, 62))
    return np.where(x < 0, -moved, moved)


def truncated(total: Integers, unit: Integers) -> Floats:
    """Return total · 2^unit as binary32, truncated toward zero; totals are below 2^53."""
    exact = np.ldexp(total.astype(np.float64), unit.astype(np.int32))
    short = (exact.view(np.uint64) & ~np.uint64((1 << 29) - 1)).view(np.float64)  # 24 bits
    coarse = np.ldexp(np.trunc(np.ldexp(exact, 149)), -149)
    return np.where(np.abs(exact) < 2.0**-126, coarse, short).astype(np.float32)


def fused(c: Floats, x: Floats, w: Floats, fraction: int) -> Floats:
    """Return the fused sum of c (…) and of the products of x and w (…, group)."""
    x, w = (np.broadcast_to(each, np.broadcast_shapes(x.shape, w.shape)).copy() for each in (x, w))
    own = np.where(c == 0, NOTHING, exponent(c))
    products = exponent(x) + exponent(w)
    most = np.maximum(own, products.max(axis=-1))
    factors = (significand(x) >> 16) * (significand(w) >> 16)  # times 2^(products − 14)
    total = shifted(factors, products - 14 - (most[..., None] - fraction)).sum(axis=-1)
    total += np.where(c == 0, 0, shifted(significand(c), own - 23 - (most - fraction)))
    return truncated(total, most - fraction)


@dataclass(frozen=True)
class Fused(Arithmetic):
    """fused-16 or fused-8."""

    flushes: ClassVar[bool] = False

    @property
    def group(self) -> int:
        """Pairs of one fused sum."""
        return int(self.name.removeprefix("fused-"))

    @property
    def fraction(self) -> int:
        """Bits below the largest exponent that are kept of each term."""
        return {16: 25, 8: 24}[self.group]

    def rounded(self, x: Floats) -> Floats:
        """Limit and round to bfloat16."""
        return bfloat16(np.clip(x, -(2.0**40), 2.0**40), flushes=False)

    def stored(self, x: Floats) -> Floats:
        """Return keys as they are stored."""
        return self.rounded(x)

    def stored_value(self, x: Floats) -> Floats:
        """Return values as they are stored."""
        return self.rounded(
            np.where(np.abs(x) < 2.0**-60, np.float32(0), np.clip(x, -(2.0**20), 2.0**20))
        )

    def product(self, x: Floats, w: Floats, bias: Floats | None = None) -> Floats:
        """Return sums (…) over the last axis."""
        x, w = padded(x, self.group), padded(w, self.group)
        out = np.zeros(np.broadcast_shapes(x.shape, w.shape)[:-1], np.float32)
        for first in range(0, x.shape[-1], self.group):
            part = slice(first, first + self.group)
            out = fused(out, x[..., part], w[..., part], self.fraction)
        out = self.add(out, 0)
        return out if bias is None else self.add(out, bias)

    @quiet
    def norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        """Return the norm of rows (…, D), not rounded to bfloat16."""
        bits = self.multiply(x, x).view(np.uint32).astype(np.int64)
        field = bits >> 23
        most = field.max(axis=-1, keepdims=True)
        size = np.where(field > 0, (bits & 0x7FFFFF | 0x800000) << 17, 0)
        total = (size >> np.minimum(most - field, 63)).sum(axis=-1).astype(np.float32)
        power = np.where(most[..., 0] > 40, np.ldexp(1.0, most[..., 0].astype(np.int32) - 167), 0)
        mean = self.multiply(self.divide(total, np.float32(x.shape[-1])), power)
        r = self.divide(np.float32(1), self.root(self.add(mean, np.float32(eps))))
        return self.multiply(self.multiply(x, r[..., None]), weight)

    @quiet
    def attention(
        self, queries: Floats, keys: Floats, values: Floats, first: int, window: int
    ) -> Floats:
        """Return outputs as `Arithmetic.attention`, segment by segment."""
        heads, width = queries.shape[1:]
        own = np.arange(heads) // (heads // keys.shape[1])
        scale = np.float32(float(1 / Decimal(width).sqrt()))
        shape = queries.shape[:2]
        largest, total = np.full(shape, -INFINITY), np.zeros(shape, np.float32)
        out = np.zeros(queries.shape, np.float32)
        row = np.arange(first, first + len(queries))[:, None, None]
        for begin in range(0, first + len(queries), SEGMENT):
            part = slice(begin, begin + SEGMENT)
            place = np.arange(begin, begin + len(keys[part]))
            seen = (place <= row) & ((place > row - window) | (window == 0))  # (R, 1, positions)
            live = np.any(seen, axis=-1)
            products = self.product(queries[:, :, None], keys[part, own].swapaxes(0, 1)[None])
            scores = np.where(seen, self.multiply(products, scale), -INFINITY)
            most = np.where(live, scores.max(axis=-1), np.float32(0))
            distance = self.add(scores, -most[..., None])
            weights = self.rounded(self.exp(np.where(distance < -27, -INFINITY, distance)))
            counted = self.add(self.add(weights, 1), -1).astype(np.float64) * 2.0**23
            units = counted.sum(axis=-1).astype(np.float32)
            columns = values[part, own].transpose(1, 2, 0)[None]
            now = self.product(weights[:, :, None], columns)
            d = self.exp(-np.abs(self.add(largest, -most)))
            one = np.float32(1)
            a, b = np.where(most > largest, d, one), np.where(most > largest, one, d)
            total = np.where(live, self.fma(b, units * 2.0**-23, self.multiply(a, total)), total)
            merged = self.fma(b[..., None], now, self.multiply(a[..., None], out))
            out = np.where(live[..., None], merged, out)
            largest = np.where(live, np.maximum(largest, most), largest)
        return self.rounded(self.divide(out, total[..., None]))


def arithmetic(name: str, dtype: str) -> Arithmetic:
    """Return the arithmetic of that name."""
    return (Fused if name.startswith("fused") else Arithmetic)(name, dtype)
