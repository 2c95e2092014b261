"""The operations of protocol §7.2.2 on single numbers, exact to the bit, in plain Python.

A binary32 number is the Python float (binary64) of the same value. The product of two is exact in binary64, and sums, quotients
and roots that are rounded to 53 bits round to 24 as the exact ones do. Only the sum of an fma needs more: it is rounded to the
odd one of its two neighbours in binary64, which lies on the same side of every binary32 number, and of the middle of every two,
as the exact sum does.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final

LEAST: Final = 2.0**-126
"""The smallest normal binary32 number."""
TINY: Final = LEAST * (1 - 2.0**-25)
"""A magnitude below this is tiny (rule 2(b))."""
LARGEST: Final = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float32": (2 - 2.0**-23) * 2.0**127}
"""The largest finite number of each type."""
_SINGLE: Final = struct.Struct("<f")
_DOUBLE: Final = struct.Struct("<d")
_WORD: Final = struct.Struct("<I")


def read(x: float) -> float:
    """Return an operand: a subnormal number is the zero of its sign (rule 2(a))."""
    return math.copysign(0.0, x) if -LEAST < x < LEAST else x


def read_all(values: Iterable[float]) -> list[float]:
    """Return operands."""
    return [math.copysign(0.0, x) if -LEAST < x < LEAST else x for x in values]


def single(x: float) -> float:
    """Round a result to binary32; a tiny one is the zero of its sign (rule 2(b))."""
    if -TINY < x < TINY:
        return math.copysign(0.0, x)
    return nearest(x)


def nearest(x: float) -> float:
    """Round to the nearest binary32 number, ties to even, subnormal ones included; beyond the largest to infinity."""
    try:
        value: float = _SINGLE.unpack(_SINGLE.pack(x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)
    return value


def add(a: float, b: float) -> float:
    """Return a + b."""
    return single(read(a) + read(b))


def multiply(a: float, b: float) -> float:
    """Return a · b."""
    return single(read(a) * read(b))


def divide(a: float, b: float) -> float:
    """Return a / b; 0 / 0 is NaN."""
    a, b = read(a), read(b)
    if b == 0:
        neither = a == 0 or math.isnan(a)
        return math.nan if neither else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return single(a / b)


def root(a: float) -> float:
    """Return the square root; NaN below 0."""
    a = read(a)
    return math.nan if a < 0 else single(math.sqrt(a))


def fma(a: float, b: float, c: float) -> float:
    """Return a · b + c, rounded once."""
    return chain((read(a),), (read(b),), read(c))


def chain(x: Iterable[float], w: Iterable[float], acc: float = 0.0) -> float:
    """Return acc = fma(x_k, w_k, acc) over all k; `x`, `w` and `acc` have been `read`, and there are as many of each."""
    pack, unpack = _SINGLE.pack, _SINGLE.unpack
    for a, b in zip(x, w, strict=True):
        product = a * b
        total = product + acc
        part = total - product
        rest = (product - (total - part)) + (acc - part)  # total + rest is exact
        if rest:
            total = _odd(total, rest)
        if -TINY < total < TINY:
            acc = math.copysign(0.0, total)
        else:
            try:
                acc = unpack(pack(total))[0]
            except OverflowError:
                acc = math.copysign(math.inf, total)
    return acc


def _odd(total: float, rest: float) -> float:
    """Return the odd one of the neighbours in binary64 of total + rest, which is not exact."""
    if not math.isfinite(rest) or _DOUBLE.pack(total)[0] & 1:
        return total
    return math.nextafter(total, math.copysign(math.inf, rest))


def to_bfloat16(x: float) -> float:
    """Round a binary32 number to bfloat16 (rule 3); NaN stays NaN."""
    if -LEAST < x < LEAST:
        return math.copysign(0.0, x)
    if not math.isfinite(x):
        return x
    bits: int = _WORD.unpack(_SINGLE.pack(x))[0]
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    value: float = _SINGLE.unpack(_WORD.pack(rounded))[0]
    return value


def widened(data: bytes, dtype: str) -> tuple[float, ...]:
    """Return little-endian numbers of bfloat16, float16 or float32 as they are."""
    if dtype == "bfloat16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return struct.unpack(f"<{len(data) // 2}f", wide)
    if dtype == "float16":
        return struct.unpack(f"<{len(data) // 2}e", data)
    return struct.unpack(f"<{len(data) // 4}f", data)


def narrowed(values: Sequence[float], dtype: str) -> bytes:
    """Return numbers of a type as their little-endian bytes; they are numbers of that type already."""
    data = struct.pack(f"<{len(values)}f", *values)
    if dtype == "float32":
        return data
    short = bytearray(len(data) // 2)
    short[0::2], short[1::2] = data[2::4], data[3::4]
    return bytes(short)
