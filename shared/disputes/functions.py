"""The other functions of protocol §7.2.6 on single numbers, and the sampler's noise (§7.3)."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from shared.disputes.binary32 import nearest
from shared.disputes.claim import Definition, Rotation, number

_hex = float.fromhex
_EVEN: Final = tuple(
    map(_hex, ("0x1.39a09d078c69fp-3", "0x1.c71c51d8e78afp-3", "0x1.999999997fa04p-2"))
)
_ODD: Final = tuple(
    map(
        _hex,
        (
            "0x1.2f112df3e5244p-3",
            "0x1.7466496cb03dep-3",
            "0x1.2492494229359p-2",
            "0x1.5555555555593p-1",
        ),
    )
)
NOISE: Final = b"counterfoil/v1/sampling-noise"


def ln_64(x: float) -> float:
    """Return the natural logarithm of a normal binary64 number above 0."""
    m, k = math.frexp(x)
    if m < _hex("0x1.6a09e667f3bcdp-1"):
        m, k = 2 * m, k - 1
    f = m - 1
    s = f / (2 + f)
    z = s * s
    w = z * z
    even = odd = 0.0
    for c in _EVEN:
        even = c + w * even
    for c in _ODD:
        odd = c + w * odd
    both = w * even + z * odd
    half = (0.5 * f) * f
    low = k * _hex("0x1.a39ef35793c76p-33")
    return k * _hex("0x1.62e42feep-1") - ((half - (s * (half + both) + low)) - f)


def sine_cosine(x: float) -> tuple[float, float]:
    """Return sine and cosine of a binary64 number from 0 on."""
    q = math.floor(x * _hex("0x1.45f306dc9c883p-1") + 0.5)
    r = _fma_64(-q, _hex("0x1.921fb54442d18p+0"), x)
    r = _fma_64(-q, _hex("0x1.1a62633145c07p-54"), r)
    z = r * r
    s = c = 0.0
    for k in range(10, 0, -1):
        s = ((1 + s) * -z) / ((2 * k) * (2 * k + 1))
        c = ((1 + c) * -z) / ((2 * k - 1) * (2 * k))
    s, c = r + r * s, 1 + c
    return ((s, c), (c, -s), (-s, -c), (-c, s))[q % 4]


def _fma_64(a: float, b: float, c: float) -> float:
    return float(Fraction(a) * Fraction(b) + Fraction(c))


@lru_cache(4096)
def angle(definition: Definition, position: int, pair: int) -> tuple[float, float]:
    """Return cosine and sine of a position and a pair of a head's elements, in binary32."""
    sine, cosine = sine_cosine(position * nearest(frequency(definition, pair)))
    return nearest(cosine), nearest(sine)


def frequency(definition: Definition, pair: int) -> float:
    """Return the angle per position of a pair, in binary64."""
    with localcontext(prec=60):
        exponent = Decimal(2 * pair / definition.head_dim)
        plain = float(Decimal(number(definition.theta)) ** -exponent)
    if definition.factor is None:
        return plain
    slowed = plain / number(definition.factor)
    if definition.rope is Rotation.LINEAR:
        return slowed
    assert definition.low is not None
    assert definition.high is not None
    assert definition.original is not None
    low, high = number(definition.low), number(definition.high)
    turns = plain * (definition.original / _hex("0x1.921fb54442d18p+2"))
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return (1 - kept) * slowed + kept * plain


def scale(head_dim: int) -> float:
    """Return what scores are multiplied by: the binary32 number nearest to head_dim^−½."""
    with localcontext(prec=60):
        return nearest(float(1 / Decimal(head_dim).sqrt()))


def noise(seed: bytes, choice: int, position: int, index: int) -> float:
    """Return E_i of one output position."""
    counter = (choice << 96 | position << 32) + index // 4
    key = AES256(sha256(NOISE + seed).digest())
    block = Cipher(key, CTR(counter.to_bytes(16, "big"))).encryptor().update(bytes(16))
    word = int.from_bytes(block[4 * (index % 4) :][:4], "big")
    return -ln_64((word + 0.5) / 2.0**32)
