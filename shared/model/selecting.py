"""Choosing among a vocabulary's logits without sorting them all: the same indexes as a full sort would give."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.functions import exp

Floats = NDArray[np.floating]
Indexes = NDArray[np.int64]

LARGEST: Final = float(np.finfo(np.float32).max)
CHUNK: Final = 2**14
BEGINNING, GROWTH = 64, 8
"""Among how many of the largest a nucleus is sought, and the factor by which that grows."""


def defined(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits with NaN as −∞ and +∞ as the largest finite float32; the same array if there are none."""
    if np.isfinite(np.max(logits)):  # NaN and +∞ both show in the largest
        return logits
    return np.nan_to_num(logits, nan=-np.inf, posinf=LARGEST, neginf=-np.inf)


def largest(values: Floats, count: int) -> Indexes:
    """Return the ascending indexes of the `count` largest, the lower index first among equals; count < len(values)."""
    able = _able(values, count)
    among = values[able]
    least = np.partition(among, len(among) - count)[len(among) - count]
    above = able[among > least]
    equal = able[among == least][: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def ordered(values: Floats, indexes: Indexes) -> Indexes:
    """Return ascending indexes by descending value, the lower index first among equals."""
    return indexes[np.argsort(-values[indexes], kind="stable")]


def nucleus(values: Floats, kept: Indexes | None, scale: float, part: float) -> Indexes:
    """Return the ascending indexes of the shortest beginning of the order whose weight reaches `part` of all weight.

    `kept` is what is left of the values (None: all of them); a weight is exp(scale · value − the largest). The
    definition adds the weights one after the other in descending order. A beginning of that sum needs only the beginning of
    the order; the whole sum would need all of it, but is only compared with. Added in any order, n weights give the
    exact sum to within n·2^-53 of it (they are not negative). So if no running sum is within twice that of the bar,
    the bar's exact place decides nothing.
    """
    if kept is not None:
        order = ordered(values, kept)
        running = _running(values[order], scale)
        return np.sort(order[: _reached(running, running[-1] * part)])
    bar = weight_sum(values, scale) * part
    slack = (2 * len(values) + 8) * 2.0**-52
    size = BEGINNING
    while size < len(values) // 4:
        order = ordered(values, largest(values, size))
        running = _running(values[order], scale)
        low, high = (_reached(running, bar * (1 + sign * slack)) for sign in (-1, 1))
        if low == high <= size:
            return np.sort(order[:low])
        if low <= size and high <= size:
            break  # a running sum all but equals the bar: only the whole sum can decide
        size *= GROWTH
    return nucleus(values, np.arange(len(values)), scale, part)


def weights(values: Floats, scale: float = 1.0) -> Iterator[NDArray[np.float64]]:
    """Yield exp(y − max y) with y = scale · value as float64, in parts that fit in a cache."""
    top = float(values.max()) * scale
    for first in range(0, len(values), CHUNK):
        yield exp(values[first : first + CHUNK].astype(np.float64) * scale - top)


def weight_sum(values: Floats, scale: float = 1.0) -> float:
    """Return the sum of all weights, in an order that no other implementation has to know."""
    return sum(float(part.sum()) for part in weights(values, scale))


def _reached(running: NDArray[np.float64], bar: float) -> int:
    """Return how many weights it takes to reach the bar; one more than there are if they never do."""
    return int(np.searchsorted(running, bar, side="left")) + 1


def _running(falling: Floats, scale: float) -> NDArray[np.float64]:
    """Return the running sums of the weights of values in descending order, one added after the other."""
    return np.cumsum(np.concatenate(list(weights(falling, scale))))


def _able(values: Floats, count: int) -> Indexes:
    """Return ascending indexes that include the `count` largest, with equals, and not many more.

    The largest of each of 4·count stretches are 4·count values; the count-th of them has `count` values that are as
    large or larger, so none below it is among the `count` largest.
    """
    width = len(values) // (4 * count)
    if width < 4:
        return np.arange(len(values))
    tops = values[: 4 * count * width].reshape(-1, width).max(axis=1)
    return np.flatnonzero(values >= np.partition(tops, len(tops) - count)[len(tops) - count])
