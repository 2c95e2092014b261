"""Which of a tenant's order numbers 0, 1, 2, … have neither receipt nor refusal yet, as ranges. Pure.

A number counts as present when any attempt at it has one: a retry keeps the number.
"""

from dataclasses import dataclass

from audit_layer.monitor.findings import Finding, Kind


@dataclass(frozen=True, slots=True)
class Gap:
    """The numbers first … last without a receipt or refusal, and when (POSIX seconds) this was first seen."""

    first: int
    last: int
    since: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known about one tenant's numbers: all below `end` are present except those in `gaps`."""

    end: int = 0
    gaps: tuple[Gap, ...] = ()

    def with_number(self, number: int, now_s: int) -> "Numbers":
        """Return what is known once a receipt or refusal for `number` is in the log."""
        if number >= self.end:
            opened = (Gap(self.end, number - 1, now_s),) if number > self.end else ()
            return Numbers(number + 1, self.gaps + opened)
        gaps: list[Gap] = []
        for gap in self.gaps:
            if not gap.first <= number <= gap.last:
                gaps.append(gap)
                continue
            if gap.first < number:
                gaps.append(Gap(gap.first, number - 1, gap.since))
            if number < gap.last:
                gaps.append(Gap(number + 1, gap.last, gap.since))
        return Numbers(self.end, tuple(gaps))

    def overdue(self, tenant: str, now_s: int, grace_s: int) -> list[Finding]:
        """Return a finding for each gap that is older than the grace period."""
        return [
            Finding(
                Kind.ORDER_GAP,
                f"{tenant}:{gap.first}-{gap.last}",
                f"{_named(gap)} of tenant {tenant} without a receipt or refusal in the log"
                f" for {now_s - gap.since} s",
            )
            for gap in self.gaps
            if now_s - gap.since > grace_s
        ]


def _named(gap: Gap) -> str:
    if gap.first == gap.last:
        return f"order {gap.first}"
    return f"orders {gap.first} to {gap.last}"
