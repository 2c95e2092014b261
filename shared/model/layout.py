"""The rows of one pass as arrays, checked: what every backend makes its own tables from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.model.backend import Rows


@dataclass(frozen=True, slots=True)
class Layout:
    """One entry for each sequence of the pass, except in `blocks`, which has those of all, one after the other."""

    counts: NDArray[np.int64]
    positions: NDArray[np.int64]
    """Of each one's first row."""
    held: NDArray[np.int64]
    """How many of `blocks` are each one's."""
    blocks: NDArray[np.int32]
    rows: int
    """Rows of the pass."""
    reach: int
    """One more than the highest position."""

    @classmethod
    def of(cls, rows: Sequence[Rows], *, positions: int, blocks: int, block: int) -> Self:
        """Lay out rows, of a model with this many positions, for a cache of this many blocks of `block` positions.

        ValueError for anything outside them, and for rows that their own blocks do not reach.
        """
        counts = np.array([each.count for each in rows], dtype=np.int64)
        firsts = np.array([each.position for each in rows], dtype=np.int64)
        held = np.array([len(each.blocks) for each in rows], dtype=np.int64)
        numbers = np.array([number for each in rows for number in each.blocks], dtype=np.int32)
        ends = firsts + counts
        reach = int(ends.max(initial=0))
        if not rows or counts.min() < 1 or firsts.min() < 0 or reach > positions:
            raise ValueError("a span is outside the positions of this model")
        if (
            (held * block < ends).any()
            or not len(numbers)
            or numbers.min() < 1
            or numbers.max() > blocks
        ):
            raise ValueError("a span's blocks are outside the cache, or too few")
        return cls(counts, firsts, held, numbers, int(counts.sum()), reach)
