"""The exponential of attention and gate on single numbers (protocol §7.2.6)."""

import math
from typing import Final

from shared.disputes.binary32 import add, fma

_hex = float.fromhex
_EXP: Final = tuple(
    map(_hex, ("0x1.111112p-7", "0x1.555556p-5", "0x1.555556p-3", "0x1p-1", "0x1p+0", "0x1p+0"))
)


def exp(x: float) -> float:
    """Return the exponential of a binary32 number up to 0; NaN for one above, which no right pass asks for."""
    if math.isnan(x) or x > 0:
        return math.nan
    if x < -86:
        return 0.0
    n = add(fma(x, _hex("0x1.715476p+0"), _hex("0x1.8p+23")), -_hex("0x1.8p+23"))
    r = fma(n, -_hex("0x1.7f7d1cp-20"), fma(n, -_hex("0x1.62e4p-1"), x))
    p = _hex("0x1.6c16c2p-10")
    for c in _EXP:
        p = fma(p, r, c)
    return math.ldexp(p, int(n))
