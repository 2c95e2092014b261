"""Escrow shares: Shamir's scheme over GF(2^8), byte by byte (protocol §3.1).

The field's polynomial is x^8+x^4+x^3+x+1. The coefficients are expanded from the secret, so a holder of
the secret can recompute every share. All 32 bytes are processed at once, packed in one integer; the
multipliers (x coordinates and weights) are public, so no table is ever indexed by a secret.
"""

from collections.abc import Mapping

from shared.codec.hashing import hkdf_expand, hkdf_extract, labelled_hash
from shared.runtime.errors import Code, CounterfoilError

SECRET_BYTES = 32
MAX_SHARES = 16
SALT = b"counterfoil/v1/escrow"

_LOW_BITS = int.from_bytes(b"\x7f" * SECRET_BYTES, "big")
_ONES = int.from_bytes(b"\x01" * SECRET_BYTES, "big")
_REDUCTION = 0x1B


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Return the shares at x = 1 … count, 32 bytes each; any `threshold` of them recover the secret."""
    check_numbers(threshold, count)
    if len(secret) != SECRET_BYTES:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"a secret must be {SECRET_BYTES} bytes long")
    prk = hkdf_extract(SALT, secret)
    coefficients = [secret] + [
        hkdf_expand(
            prk, "coefficient", SECRET_BYTES, bytes([threshold]), bytes([count]), bytes([j])
        )
        for j in range(1, threshold)
    ]
    packed = [int.from_bytes(coefficient, "big") for coefficient in reversed(coefficients)]
    shares = []
    for x in range(1, count + 1):
        value = 0
        for coefficient in packed:  # Horner's rule
            value = _scale(value, x) ^ coefficient
        shares.append(value.to_bytes(SECRET_BYTES, "big"))
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret from {i: share}, of which the `threshold` lowest are used.

    Wrong shares give a wrong secret: the caller checks the commitments of the result.
    """
    if threshold < 1 or len(shares) < threshold:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{len(shares)} shares are fewer than the {threshold} needed"
        )
    places = sorted(shares)[:threshold]
    if not all(1 <= x <= MAX_SHARES and len(shares[x]) == SECRET_BYTES for x in places):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"shares must be numbered 1 to {MAX_SHARES} and be 32 bytes long"
        )
    value = 0
    for x in places:
        weight = 1  # Lagrange's basis polynomial of x, at 0
        for other in places:
            if other != x:
                weight = _multiply(weight, _multiply(other, _inverse(other ^ x)))
        value ^= _scale(int.from_bytes(shares[x], "big"), weight)
    return value.to_bytes(SECRET_BYTES, "big")


def share_commitment(index: int, threshold: int, count: int, share: bytes) -> bytes:
    """Return the commitment to share `index` (from 1) that the envelope's header carries."""
    return labelled_hash("share", bytes([index]), bytes([threshold]), bytes([count]), share)


def share_commitments(secret: bytes, threshold: int, count: int) -> tuple[bytes, ...]:
    """Return the commitments to all shares of a secret."""
    return tuple(
        share_commitment(index, threshold, count, share)
        for index, share in enumerate(split(secret, threshold, count), start=1)
    )


def check_numbers(threshold: int, count: int) -> None:
    """Raise INVALID_ARGUMENT unless 1 <= threshold <= count <= 16."""
    if not 1 <= threshold <= count <= MAX_SHARES:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"a threshold of {threshold} of {count} shares: need 1 <= threshold <= count <= {MAX_SHARES}",
        )


def _scale(packed: int, factor: int) -> int:
    """Multiply each of the 32 packed bytes by `factor`."""
    product = 0
    while factor:
        if factor & 1:
            product ^= packed
        carries = (packed >> 7) & _ONES
        packed = ((packed & _LOW_BITS) << 1) ^ (carries * _REDUCTION)
        factor >>= 1
    return product


def _multiply(a: int, b: int) -> int:
    return _scale(a, b)


def _inverse(a: int) -> int:
    """Return a^254, the inverse of a ≠ 0."""
    assert a != 0
    inverse = 1
    for _ in range(7):  # 254 = 2 + 4 + … + 128
        a = _multiply(a, a)
        inverse = _multiply(inverse, a)
    return inverse
