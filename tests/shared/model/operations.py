"""The operations of protocol §7.2 in numpy, each computed exactly or nearly so in float64 and rounded once.

Numbers are float32 arrays, those of type T included (each bfloat16 is a float32). A product of two float32 is exact in float64, and
sums, quotients and roots that are rounded to 53 bits round to 24 or fewer as the exact ones do. Only the sum of an fma needs
more (see `fma`).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
LEAST: Final = 2.0**-126
"""The smallest normal float32."""
TINY: Final = LEAST * (1 - 2.0**-25)
"""A magnitude below this rounds to less than LEAST, with 24 bits and unbounded exponent."""
INFINITY: Final = np.float32(np.inf)
NAN: Final = np.array(0x7FC00000, np.uint32).view(np.float32)[()]
Function = TypeVar("Function", bound=Callable[..., Any])


def quiet(function: Function) -> Function:
    """Let infinities and NaN arise without a warning."""

    @wraps(function)
    def within(*arguments: Any, **named: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments, **named)

    return within  # type: ignore[return-value]


class Operations:
    """Operations that round once, to nearest."""

    flushes: ClassVar[bool] = True
    """Whether subnormal operands and results are zeros (§7.2.2, rules 2(a) and 2(b))."""

    def read(self, x: ArrayLike) -> Doubles:
        """Return operands as float64."""
        wide = np.asarray(x, np.float32).astype(np.float64)
        return np.where(self.flushes & (np.abs(wide) < LEAST), np.copysign(0.0, wide), wide)

    def single(self, x: Doubles) -> Floats:
        """Round a result to float32."""
        tiny = self.flushes & (np.abs(x) < TINY)
        with np.errstate(all="ignore"):
            return np.where(tiny, np.copysign(0.0, x), x).astype(np.float32)

    @quiet
    def add(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """Return a + b."""
        return self.single(self.read(a) + self.read(b))

    @quiet
    def multiply(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """Return a · b."""
        return self.single(self.read(a) * self.read(b))

    @quiet
    def divide(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """Return a / b."""
        return self.single(self.read(a) / self.read(b))

    @quiet
    def root(self, a: ArrayLike) -> Floats:
        """Return the square root."""
        return self.single(np.sqrt(self.read(a)))

    @quiet
    def fma(self, a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
        """Return a · b + c, rounded once.

        The sum may have more than 53 bits. It is rounded to the odd one of its two neighbours in float64: this lies on the same
        side of every float32, and of the middle of every two, as the exact sum does.
        """
        product, addend = self.read(a) * self.read(b), self.read(c)
        total = product + addend
        part = total - product
        rest = (product - (total - part)) + (addend - part)  # total + rest is exact
        even = total.view(np.int64) & 1 == 0
        inexact = np.isfinite(rest) & (rest != 0)
        toward = np.nextafter(total, np.copysign(np.inf, rest))
        return self.single(np.where(inexact & even, toward, total))

    def exp(self, x: ArrayLike) -> Floats:
        """Return the exponential of float32 numbers up to 0 (§7.2.6)."""
        x = np.asarray(x, np.float32)
        near = np.where(x >= -86, x, np.float32(0))
        t = self.fma(near, float.fromhex("0x1.715476p+0"), float.fromhex("0x1.8p+23"))
        n = self.add(t, -float.fromhex("0x1.8p+23"))
        r = self.fma(n, -float.fromhex("0x1.62e4p-1"), near)
        r = self.fma(n, -float.fromhex("0x1.7f7d1cp-20"), r)
        p = np.full_like(near, float.fromhex("0x1.6c16c2p-10"))
        for c in ("0x1.111112p-7", "0x1.555556p-5", "0x1.555556p-3", "0x1p-1", "0x1p+0", "0x1p+0"):
            p = self.fma(p, r, float.fromhex(c))
        scaled = np.ldexp(p, n.astype(np.int32))
        return np.where(np.isnan(x), x, np.where(x < -86, np.float32(0), scaled))

    def by_halves(self, lanes: Floats) -> Floats:
        """Return the sum of sixteen lanes (…, 16)."""
        while (half := lanes.shape[-1] // 2) > 0:
            lanes = self.add(lanes[..., :half], lanes[..., half:])
        return lanes[..., 0]


def bfloat16(x: ArrayLike, *, flushes: bool = True) -> Floats:
    """Round to bfloat16."""
    values = np.asarray(x, np.float32)
    bits = values.view(np.uint32)
    kept, rest = bits & np.uint32(0xFFFF0000), bits & np.uint32(0xFFFF)
    up = (rest > 0x8000) | ((rest == 0x8000) & (kept & np.uint32(0x10000) != 0))
    rounded = np.where(up & ~np.isnan(values), kept + np.uint32(0x10000), kept).view(np.float32)
    tiny = flushes & (np.abs(values) < LEAST)
    rounded = np.where(tiny, np.copysign(np.float32(0), values), rounded)
    return np.where(np.isnan(values), NAN, rounded)


def padded(x: Floats, group: int) -> Floats:
    """Return rows with +0 after each, up to a multiple of `group`."""
    missing = -x.shape[-1] % group
    return np.concatenate([x, np.zeros((*x.shape[:-1], missing), np.float32)], axis=-1)


def lanes_of(x: Floats) -> list[Floats]:
    """Return the elements (…, N) that go to the sixteen lanes, sixteen at a time."""
    wide = padded(x, 16)
    return [wide[..., at : at + 16] for at in range(0, wide.shape[-1], 16)]
