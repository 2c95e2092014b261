"""What an observer makes of one exchange: numbers from the sizes of its records, and numbers from their times. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.leak.relay import Record

FIRST: Final = 40
"""Records whose sizes and gaps are looked at one by one."""
GRID_S: Final = np.arange(1, 41) * 0.05
"""Moments at which the bytes so far are counted."""
SMALLEST: Final = 60
"""Records below this many bytes are the transport's own."""
Vector = NDArray[np.float64]


def sizes_of(records: Sequence[Record]) -> Vector:
    """Return what the sizes say: up, down, the largest ones, the last one, and one after the other."""
    down = [record.size for record in records if record.down]
    up = [record.size for record in records if not record.down]
    ordered = sorted(down, reverse=True)
    whole = [sum(up), sum(down), len([size for size in down if size >= SMALLEST])]
    return np.array(
        [*whole, *_filled(ordered, 3), *_filled(down[::-1], 6), *_filled(down, FIRST)], dtype=float
    )


def totals_of(records: Sequence[Record]) -> Vector:
    """Return the few numbers that hardly depend on how records were cut: the largest one, and what the others come to."""
    down = sorted(record.size for record in records if record.down and record.size >= SMALLEST)
    final, others = (down[-1], down[:-1]) if down else (0, [])
    return np.array([final, sum(others), len(others), max(others, default=0)], dtype=float)


def times_of(records: Sequence[Record]) -> Vector:
    """Return what the times say: until the first record, until the last, from one to the next, and how much came when."""
    began = records[0].at if records else 0.0
    down = [record for record in records if record.down and record.size >= SMALLEST]
    at = [record.at - began for record in down]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    came = np.cumsum([record.size for record in down]) if down else np.zeros(1)
    counted = np.searchsorted(np.array(at), GRID_S, side="right")
    amounts = np.concatenate(([0.0], came))[np.minimum(counted, len(came))]
    spread = [float(np.mean(gaps)), float(np.std(gaps)), max(gaps)] if gaps else [0.0] * 3
    return np.array(
        [
            len(at),
            *_filled(at[:1], 1),
            *_filled(at[::-1], 1),
            *spread,
            *_filled(gaps, FIRST),
            *amounts,
        ],
        dtype=float,
    )


def _filled(values: Sequence[float], size: int) -> list[float]:
    return [*values[:size], *[0.0] * (size - len(values))]
