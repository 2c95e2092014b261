"""Medians with their spread, and percentiles."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median over rounds with its spread."""
    return {
        "median": round(median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
        "rounds": [round(value, 4) for value in values],
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least the given percentage of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
