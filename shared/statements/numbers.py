"""Gapless numbers: which of 0, 1, 2, … have been seen, as the next one and the ranges missing below it.
Numbers may be seen in any order and repeatedly; the order makes no difference. Pure.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

Range = tuple[int, int]
"""First and last number of a missing run, inclusive."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Every number below `next` was seen, except those in `missing`: ascending, maximal runs."""

    next: int = 0
    missing: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        ends_well = all(last + 1 < first for (_, last), (first, _) in pairwise(self.missing))
        bounds = all(0 <= first <= last < self.next - 1 for first, last in self.missing)
        if not (ends_well and bounds):
            raise ValueError(
                "missing numbers must be ascending runs that do not touch, below the next number"
            )

    def with_seen(self, numbers: Iterable[int]) -> "Numbers":
        """Return the numbers with these added to those seen; in O((m + n) log n)."""
        seen = sorted(set(numbers))
        new = seen[bisect_left(seen, self.next) :]
        missing = [part for run in self.missing for part in _without(run, seen)]
        following = self.next
        for number in new:
            if number > following:
                missing.append((following, number - 1))
            following = number + 1
        return Numbers(following, tuple(missing))

    def condensed(self, most: int) -> "Numbers":
        """Return the same with at most `most` runs: the lowest are merged, so more numbers may be reported missing, never fewer."""
        surplus = len(self.missing) - most
        if surplus <= 0:
            return self
        merged = (self.missing[0][0], self.missing[surplus][1])
        return Numbers(self.next, (merged, *self.missing[surplus + 1 :]))

    def missing_between(self, first: int, last: int) -> tuple[Range, ...]:
        """Return the complete runs that contain a number from `first` to `last`."""
        return tuple(run for run in self.missing if run[0] <= last and run[1] >= first)


def count(runs: Iterable[Range]) -> int:
    """Return how many numbers the runs contain."""
    return sum(last - first + 1 for first, last in runs)


def _without(run: Range, seen: list[int]) -> Iterator[Range]:
    """Yield what is left of a run once some numbers in it have been seen (`seen` is sorted)."""
    first, last = run
    for number in seen[bisect_left(seen, first) : bisect_left(seen, last + 1)]:
        if first < number:
            yield first, number - 1
        first = number + 1
    if first <= last:
        yield first, last
