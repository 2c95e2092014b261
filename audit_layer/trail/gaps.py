"""Which numbers of a numbering are missing, and since when. Pure.

Statements arrive out of order, so a gap is ordinary for a while; one older than the grace period is a finding.
Numbers above the highest seen cannot be missed: only the issuer knows its highest number.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from shared.statements.numbers import Numbers

NODE = "node"
"""A numbering of receipts by `operator/node`."""
TENANT = "tenant"
"""A numbering of orders by a tenant."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of missing numbers, both ends included."""

    first: int
    last: int
    since: int
    """When a higher number was recorded, ms."""
    finding: int | None = None
    """The finding that reports it."""


def advance(
    following: int, gaps: Sequence[Gap], arrived: Mapping[int, int]
) -> tuple[int, list[Gap]]:
    """Return the next number and the gaps once some numbers have arrived.

    `following` is one more than the highest number so far, `gaps` are those that `arrived` may fill (ascending; others may
    be omitted), `arrived` maps numbers to when each was recorded. What is left of a gap keeps its age and its finding.
    """
    before = Numbers(following, tuple((gap.first, gap.last) for gap in gaps))
    after = before.with_seen(arrived)
    firsts = [gap.first for gap in gaps]
    numbers = sorted(arrived)
    # earliest[i]: when the first of numbers[i:] was recorded
    earliest = list(accumulate((arrived[number] for number in reversed(numbers)), min))[::-1]
    result: list[Gap] = []
    for first, last in after.missing:
        if first < following:
            parent = gaps[bisect_right(firsts, first) - 1]
            result.append(replace(parent, first=first, last=last))
        else:
            result.append(Gap(first, last, since=earliest[bisect_right(numbers, last)]))
    return after.next, result


def describe(kind: str, issuer: str, first: int, last: int) -> str:
    """Return a finding's sentence."""
    what, lacks = (
        ("receipts", "no receipt") if kind == NODE else ("orders", "no receipt or refusal")
    )
    which = f"number {first}" if first == last else f"numbers {first} to {last}"
    return f"{issuer} went on numbering its {what}, but the log has {lacks} for {which}"
