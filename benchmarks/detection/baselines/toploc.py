"""TOPLOC v1 (Ong et al., arXiv 2501.16007): the largest activations of a chunk, as a polynomial over GF(65497).

The prover concatenates the final hidden states of 32 decoded tokens, takes the 128 values of largest magnitude, and
interpolates a polynomial through (flat index mod m, bfloat16 bits), where m makes the indexes distinct. m and the coefficients
are the proof: 258 bytes. The verifier evaluates it at its own 128 largest values and compares exponents, and mantissas where
the exponents agree. Thresholds for bfloat16: 38 differing exponents, a mean mantissa difference of 10, a median of 8.

Known limits, all of the scheme as published: the sign is not compared; tokens are not bound; a proof has no length to check; a
proof that is not of this form is no case that the paper answers (here: `MalformedProofError`).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

import numpy as np
from numpy.typing import NDArray

PRIME: Final = 65497
TOP: Final = 128
CHUNK: Final = 32
"""Decoded tokens per proof."""
PROOF_BYTES: Final = 2 * (TOP + 1)
EXPONENTS: Final = 38
MEAN: Final = 10.0
MEDIAN: Final = 8.0
NOTHING_AGREES: Final = 128.0
"""The difference of mantissas where no exponent agrees: more than seven bits can show."""


class MalformedProofError(Exception):
    """The bytes are not m and 128 coefficients."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a verifier sees: differing exponents (of 128), and mean and median difference of the other mantissas."""

    exponents: int
    mean: float
    median: float

    @property
    def accepted(self) -> bool:
        """Whether it is within the paper's thresholds."""
        return self.exponents <= EXPONENTS and self.mean <= MEAN and self.median <= MEDIAN

    @property
    def score(self) -> float:
        """The largest of the three in units of its threshold, for a threshold of one's own."""
        return max(self.exponents / EXPONENTS, self.mean / MEAN, self.median / MEDIAN)


def prove(states: NDArray[np.float32]) -> bytes:
    """Return the proof of one chunk of states (n, D), values of bfloat16."""
    flat = states.reshape(-1)
    indexes = largest(flat)
    m = _modulus(indexes)
    points = [int(index) % m for index in indexes]
    coefficients = _interpolate(points, [_bits(flat[index]) % PRIME for index in indexes])
    return struct.pack(f">H{TOP}H", m, *coefficients)


def compare(proof: bytes, states: NDArray[np.float32]) -> Difference:
    """Compare a proof with the verifier's own states (n, D) of the same chunk; MalformedProofError if it is none."""
    if len(proof) != PROOF_BYTES:
        raise MalformedProofError(f"{len(proof)} bytes")
    m, *coefficients = struct.unpack(f">H{TOP}H", proof)
    if not 0 < m <= PRIME:
        raise MalformedProofError(f"modulus {m}")
    flat = states.reshape(-1)
    indexes = largest(flat)
    claimed = [_evaluate(coefficients, int(index) % m) for index in indexes]
    own = [_bits(flat[index]) for index in indexes]
    alike = [(a, b) for a, b in zip(claimed, own, strict=True) if _exponent(a) == _exponent(b)]
    errors = [abs(_mantissa(a) - _mantissa(b)) for a, b in alike]
    return Difference(
        len(own) - len(alike),
        mean(errors) if errors else NOTHING_AGREES,
        median(errors) if errors else NOTHING_AGREES,
    )


def largest(flat: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the flat indexes of the 128 values of largest magnitude, the lower index first among equals."""
    order = np.argsort(-np.abs(flat), kind="stable")[:TOP]
    return order.astype(np.int64)


def _bits(value: np.float32) -> int:
    return int(np.float32(value).view(np.uint32)) >> 16


def _exponent(bits: int) -> int:
    return bits >> 7 & 0xFF


def _mantissa(bits: int) -> int:
    return bits & 0x7F


def _modulus(indexes: NDArray[np.int64]) -> int:
    """Return the largest m up to the prime that keeps the indexes apart."""
    for m in range(PRIME, 0, -1):
        if len(np.unique(indexes % m)) == len(indexes):
            return m
    raise AssertionError("128 distinct indexes are distinct modulo some number below 2^16")


def _interpolate(points: Sequence[int], values: Sequence[int]) -> list[int]:
    """Return the coefficients of the polynomial through the points, lowest first: Newton's divided differences."""
    divided = list(values)
    for order in range(1, len(points)):
        for at in range(len(points) - 1, order - 1, -1):
            run = pow(points[at] - points[at - order], -1, PRIME)
            divided[at] = (divided[at] - divided[at - 1]) * run % PRIME
    coefficients = [0] * len(points)
    for at in range(len(points) - 1, -1, -1):  # multiply by (x - point) and add the next difference
        shifted = [0, *coefficients[:-1]]
        coefficients = [
            (up - points[at] * same) % PRIME for up, same in zip(shifted, coefficients, strict=True)
        ]
        coefficients[0] = (coefficients[0] + divided[at]) % PRIME
    return coefficients


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value
