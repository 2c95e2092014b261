"""Exact statements from counts: intervals of a proportion, thresholds from honest scores, audits until a find. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import Final

STEPS: Final = 60


def interval(hits: int, tries: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion (Clopper and Pearson, Biometrika 26, 1934)."""
    if not 0 <= hits <= tries or tries == 0:
        raise ValueError("a count is at most the number of tries, which is not 0")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda p: tail - at_least(hits, tries, p))
    high = 1.0 if hits == tries else _root(lambda p: 1 - at_least(hits + 1, tries, p) - tail)
    return low, high


def upper(hits: int, tries: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided upper limit of a proportion; without a hit it is 1 - (1 - confidence)^(1/tries)."""
    if hits == tries:
        return 1.0
    return _root(lambda p: 1 - at_least(hits + 1, tries, p) - (1 - confidence))


def at_least(hits: int, tries: int, p: float) -> float:
    """Return the probability of at least so many hits, by the shorter tail."""
    if hits <= 0:
        return 1.0
    if p <= 0 or hits > tries:
        return 0.0
    if p >= 1:
        return 1.0
    below = math.fsum(_term(k, tries, p) for k in range(hits)) if hits <= tries / 2 else None
    if below is not None:
        return max(0.0, 1 - below)
    return min(1.0, math.fsum(_term(k, tries, p) for k in range(hits, tries + 1)))


def audits_until(power: float, quantile: float) -> int:
    """Return in how many audits a cheat that each finds with probability `power` is found with this probability."""
    if power >= 1:
        return 1
    return math.ceil(math.log1p(-quantile) / math.log1p(-power))


def threshold(honest: Sequence[float], rate: float) -> float:
    """Return the smallest honest score that one more honest score exceeds with probability at most `rate`.

    For exchangeable scores this holds exactly (Vovk et al., Algorithmic Learning in a Random World, 2005). ValueError for fewer
    than 1/rate - 1 scores, from which no such threshold follows.
    """
    above = int(rate * (len(honest) + 1) + 1e-9)
    if above < 1:
        raise ValueError(f"{len(honest)} honest scores set no threshold at a rate of {rate}")
    return sorted(honest, reverse=True)[above - 1]


def _term(k: int, tries: int, p: float) -> float:
    choose = math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1)
    return math.exp(choose + k * math.log(p) + (tries - k) * math.log1p(-p))


def _root(difference: Callable[[float], float]) -> float:
    """Return where a function that is positive at 0 becomes negative in (0, 1), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if difference(middle) > 0 else (low, middle)
    return (low + high) / 2
