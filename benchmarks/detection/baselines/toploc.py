"""TOPLOC, version 1 (Ong et al., arXiv 2501.16007): the largest values of some hidden states, as a polynomial.

A chunk is the final hidden states of 32 decoded tokens one after the other, or those of the whole prompt. The prover takes its
128 values of largest magnitude and interpolates the polynomial over GF(65497) through (flat index mod m, bits of the bfloat16),
where m keeps the indexes apart. The proof is m and 128 coefficients, 16 bits each: 258 bytes. The verifier evaluates it at
the 128 largest values of its own pass and compares exponents, and mantissas (0 to 127) where the exponents agree.

As published, and so here: signs are not compared, neither tokens nor the number of positions are bound, and no rule says
what a proof of another form means. `compare` reads whatever bytes it is given and ends in Python's own errors.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.baselines.bits import Bits

PRIME: Final = 65497
TOP: Final = 128
CHUNK: Final = 32
"""Decoded tokens in one proof."""
PROOF_BYTES: Final = 2 * (1 + TOP)
EXPONENTS: Final = 38
"""The most exponents that may differ, for bfloat16; the next two are about the other mantissas."""
MEAN: Final = 10.0
MEDIAN: Final = 8.0
_INVERSES: Final = np.array([0] + [pow(n, -1, PRIME) for n in range(1, PRIME)], dtype=np.int64)
Field = NDArray[np.int64]
"""Elements of GF(65497)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a verifier sees: how many exponents differ, and the differences of the other mantissas, infinite without any."""

    exponents: int
    mean: float
    median: float

    @property
    def score(self) -> float:
        """The largest of the three as a multiple of its published threshold; above 1 the proof is rejected."""
        return max(self.exponents / EXPONENTS, self.mean / MEAN, self.median / MEDIAN)

    @property
    def accepted(self) -> bool:
        """Whether all are within the published thresholds."""
        return self.score <= 1


def prove(states: Bits) -> bytes:
    """Return the proof of a chunk (rows, width) of at least 128 values."""
    flat = states.reshape(-1)
    indexes = largest(flat)
    m = modulus(indexes)
    coefficients = interpolate(indexes % m, flat[indexes].astype(np.int64) % PRIME)
    return np.array([m, *coefficients], dtype=">u2").tobytes()


def compare(proof: bytes, states: Bits) -> Difference:
    """Compare a proof with the verifier's own states of the same chunk."""
    m, *coefficients = np.frombuffer(proof, dtype=">u2").tolist()
    flat = states.reshape(-1)
    indexes = largest(flat)
    points = np.array([index % m for index in indexes.tolist()])
    claimed = evaluate(np.array(coefficients, dtype=np.int64), points)
    own = flat[indexes].astype(np.int64)
    alike = (claimed >> 7 & 0xFF) == (own >> 7 & 0xFF)
    errors = np.abs((claimed & 0x7F) - (own & 0x7F))[alike]
    if not len(errors):
        return Difference(len(own), np.inf, np.inf)
    return Difference(int(len(own) - alike.sum()), float(errors.mean()), float(np.median(errors)))


def largest(flat: Bits) -> NDArray[np.int64]:
    """Return the indexes of the 128 values of largest magnitude, the lower index first among equals."""
    found: NDArray[np.int64] = np.argsort(-(flat & 0x7FFF).astype(np.int64), kind="stable")[:TOP]
    return found


def modulus(indexes: NDArray[np.int64]) -> int:
    """Return the largest m, at most 65497, that keeps the indexes apart."""
    return next(m for m in range(PRIME, 0, -1) if len(np.unique(indexes % m)) == len(indexes))


def interpolate(points: Field, values: Field) -> Field:
    """Return the coefficients, lowest first, of the polynomial through distinct points: Newton's divided differences."""
    divided = values.copy()
    for order in range(1, len(points)):
        run = _INVERSES[(points[order:] - points[:-order]) % PRIME]
        divided[order:] = (divided[order:] - divided[order - 1 : -1]) * run % PRIME
    found = np.zeros_like(divided)
    for at in range(len(points) - 1, -1, -1):  # times (x - point), and the next difference
        shifted = np.concatenate((divided[at : at + 1], found[:-1]))
        found = (shifted - points[at] * found) % PRIME
    return found


def evaluate(coefficients: Field, points: Field) -> Field:
    """Return the polynomial's values, by Horner's rule."""
    found = np.zeros_like(points)
    for coefficient in coefficients[::-1]:
        found = (found * points + coefficient) % PRIME
    return found
