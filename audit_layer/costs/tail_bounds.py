"""How much overbilling the draw can have missed, and how much it must have missed: Chernoff bounds, inverted. Pure.

The proof of every step is in docs/cost-interval.md; the names are the ones used there. A receipt of amount a is drawn
with probability p, independently of the others. It is overbilled by z, and S is the sum of z / p over the drawn ones.
For every λ > 0 and every z,

    P(S ≤ s) ≤ exp(Σ log(1 − p + p e^(−λz/p)) + λs)        P(S ≥ s) ≤ exp(Σ log(1 − p + p e^(λz/p)) − λs)

(H. Chernoff, Ann. Math. Statist. 23, 1952). A population is rejected where a bound is below the level. Each logarithm
is convex in z and 0 at z = 0, so it is at most its chord on [0, a]: the extreme population that is not rejected is
bounded by a fractional knapsack (G. Dantzig, Operations Research 5, 1957).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ADAPTIVE: Final = tuple(10.0 ** (k / 2) for k in range(-8, 17))
"""λ in 1/currency, from 10⁻⁴ to 10⁸: fixed before any draw, so that they hold also against nodes that adapt to draws."""
SILENT: Final = float("inf")
"""λ → ∞: asks only whether the draw found anything at all."""
OUTWARD: Final = 1e-9
"""A relative margin for the rounding of floats: of 10⁶ terms of one sign, at most 10⁶ · 2⁻⁵² ≈ 2 · 10⁻¹⁰."""
_COARSE: Final = 20
_FINE: Final = 6


@dataclass(frozen=True, slots=True)
class Known:
    """Classes of receipts whose overbilling is known. Arrays of equal length."""

    z: Floats
    """Overbilling of each receipt, in currency."""
    p: Floats
    """Probability of being drawn, in [0, 1]."""
    count: Floats


@dataclass(frozen=True, slots=True)
class Sample:
    """What the draw left unknown, and what was found. Every p of `a` lies in (0, 1), every a is above 0; see `sample`."""

    a: Floats
    """Amount of each receipt of a class that nobody audited, in currency."""
    p: Floats
    count: Floats
    drawn: Known
    """Audited because the rate drew them."""
    other: Known
    """Not drawn by the rate, audited for another reason: they cost the hypothesis what an undrawn one costs."""

    @property
    def capacity(self) -> float:
        """The whole amount that nobody audited, in currency."""
        return float(np.sum(self.a * self.count))


def sample(a: Floats, p: Floats, count: Floats, drawn: Known, other: Known) -> Sample:
    """Return the sample with its unknown classes sorted by p, then from the largest amount down.

    Within one p both knapsacks take the receipts in this order, so later sorts find long runs.
    """
    order = np.lexsort((-a, p))
    return Sample(a[order], p[order], count[order], drawn, other)


def most_missed(sample: Sample, level: float, *, adaptive: bool) -> float:
    """Return an upper limit, in currency, of the overbilling in receipts that nobody audited; it fails with probability ≤ level.

    `adaptive`: it holds even when what is overbilled depends on earlier draws.
    """
    if not sample.a.size:
        return 0.0
    if adaptive:  # half of the level for λ = ∞, the rest shared by the others
        silent = _most_silent(sample, level / 2)
        each = level / (2 * len(ADAPTIVE))
        found = min(silent, *(_most_at(sample, lam, each) for lam in ADAPTIVE))
    else:
        lowest = -_best(sample, lambda lam: -_most_at(sample, lam, level))
        found = min(_most_silent(sample, level), lowest)
    return min(sample.capacity, found) * (1 + OUTWARD)


def least_missed(sample: Sample, level: float, *, adaptive: bool) -> float:
    """Return a lower limit, in currency, of the overbilling in receipts that nobody audited; it fails with probability ≤ level."""
    if not sample.a.size or not np.any(sample.drawn.z > 0):
        return 0.0
    if adaptive:
        found = max(_least_at(sample, lam, level / len(ADAPTIVE)) for lam in ADAPTIVE)
    else:
        found = _best(sample, lambda lam: _least_at(sample, lam, level))
    return max(0.0, found) * (1 - OUTWARD)


def _most_at(sample: Sample, lam: float, level: float) -> float:
    """The largest Σ z over unknown receipts that the lower tail does not reject at λ."""
    budget = (
        -np.log(level)
        + _total(sample.drawn, lambda z, p: _log_mean_exp(lam * z / p, p))
        - _total(sample.other, lambda z, p: _cost(lam * z / p, p))
    )
    slopes = _cost(lam * sample.a / sample.p, sample.p) / sample.a
    return _filled(sample, slopes, np.argsort(slopes, kind="stable"), float(budget))


def _most_silent(sample: Sample, level: float) -> float:
    """The same for λ → ∞: a set of receipts is missed whole with probability Π (1 − p).

    Where all p are equal, sets of k receipts have one probability, and k is a whole number.
    """
    if _total(sample.drawn, lambda z, _: z) > 0:
        return sample.capacity
    budget = -np.log(level) + _total(sample.other, lambda _, p: np.log1p(-p))
    cost = -np.log1p(-sample.p)
    if cost[0] == cost[-1]:  # sorted by p
        budget = float(np.floor(budget / cost[0] + OUTWARD) * cost[0])
    slopes = cost / sample.a
    return _filled(sample, slopes, np.argsort(slopes, kind="stable"), float(budget))


def _least_at(sample: Sample, lam: float, level: float) -> float:
    """The smallest Σ z over unknown receipts that the upper tail does not reject at λ."""
    need = (
        np.log(level)
        - _total(sample.drawn, lambda z, p: np.log1p((1 - p) * np.expm1(-lam * z / p)))
        - _total(sample.other, lambda z, p: _gain(lam * z / p, p))
    )
    slopes = _gain(lam * sample.a / sample.p, sample.p) / sample.a
    return _filled(sample, slopes, np.argsort(-slopes, kind="stable"), float(need))


def _filled(sample: Sample, slopes: Floats, order: npt.NDArray[np.intp], budget: float) -> float:
    """Return Σ z of a fractional knapsack that spends `budget` on receipts in the given order, at a slope each."""
    if budget <= 0:
        return 0.0
    weight = (sample.a * sample.count)[order]
    spent = np.cumsum(weight * slopes[order])
    last = int(np.searchsorted(spent, budget))
    if last == len(spent):
        return sample.capacity
    before = float(spent[last - 1]) if last else 0.0
    return float(np.sum(weight[:last])) + (budget - before) / float(slopes[order[last]])


def _best(sample: Sample, value: Callable[[float], float]) -> float:
    """Return the largest value over λ: first on a coarse geometric grid, then between the best one's neighbours.

    Any λ gives a valid limit, so a search that misses the best one makes an interval wider, never wrong.
    """
    scale = sample.a / sample.p
    grid: Sequence[float] = np.geomspace(1e-6 / scale.max(), 50 / scale.min(), _COARSE).tolist()
    values = [value(lam) for lam in grid]
    best = int(np.argmax(values))
    low, high = grid[max(0, best - 1)], grid[min(_COARSE - 1, best + 1)]
    for _ in range(2):
        inner = np.geomspace(low, high, _FINE + 2).tolist()
        found = [value(lam) for lam in inner[1:-1]]
        values += found
        at = int(np.argmax(found)) + 1
        low, high = inner[at - 1], inner[at + 1]
    return max(values)


def _total(known: Known, term: Callable[[Floats, Floats], Floats]) -> float:
    """Return the sum of a term over known receipts. One with z = 0 adds nothing, nor does one with p = 0 or p = 1."""
    counts = (known.z > 0) & (known.p > 0) & (known.p < 1)
    return float(np.sum(term(known.z[counts], known.p[counts]) * known.count[counts]))


def _cost(x: Floats, p: Floats) -> Floats:
    """−log(1 − p + p e^(−x)), for p < 1."""
    return -np.log1p(p * np.expm1(-x))


def _gain(x: Floats, p: Floats) -> Floats:
    """log(1 − p + p e^x), without overflow."""
    small = np.log1p(p * np.expm1(np.minimum(x, 30)))
    return np.where(x < 30, small, x + np.log(p + (1 - p) * np.exp(-x)))


def _log_mean_exp(x: Floats, p: Floats) -> Floats:
    """log(p + (1 − p) e^x), without overflow."""
    return _gain(x, 1 - p)
