"""Rotary position embedding: the angle by which each pair of a head turns from one position to the next. No torch."""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions become angles; the kinds are those of Hugging Face's `rope_type`."""

    theta: float = 10_000.0
    """The base of the geometric series of frequencies."""
    kind: str = "default"
    """`default`, `linear` (all frequencies divided by `factor`) or `llama3` (only the low ones, with a smooth transition)."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    """llama3: what turns less often than this over the original positions is divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: what turns more often than this is left as it is."""
    original_positions: int = 8192
    """llama3: how many positions the model was first trained on."""


def inverse_frequencies(head_dim: int, rope: Rope) -> NDArray[np.float64]:
    """Return the angle per position, in radians, of each of the head_dim / 2 pairs."""
    exponents = [place / head_dim for place in range(0, head_dim, 2)]
    plain: NDArray[np.float64] = np.array([_power(rope.theta, -exponent) for exponent in exponents])
    if rope.kind == "default":
        return plain
    slowed = plain / rope.factor
    if rope.kind == "linear":
        return slowed
    assert rope.kind == "llama3"
    turns = plain * (rope.original_positions / (2 * math.pi))
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    share = np.clip(kept, 0.0, 1.0)
    return (1.0 - share) * slowed + share * plain


def _power(base: float, exponent: float) -> float:
    """Return a power, rounded to nearest. Those of mathematical libraries differ in the last bit, and states depend on it."""
    with localcontext(prec=60):
        return float(Decimal(base) ** Decimal(exponent))
