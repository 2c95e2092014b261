"""When a request was accepted, on the two clocks of a machine."""

import time
from dataclasses import dataclass

from shared.codec.moment import now_ms


@dataclass(frozen=True, slots=True)
class Start:
    """A moment by the wall clock, and by the one that nobody can set."""

    wall_ms: int
    """Milliseconds since 1970."""
    monotonic_s: float
    """Value of time.monotonic()."""

    @classmethod
    def now(cls) -> "Start":
        """Return the present moment."""
        return cls(now_ms(), time.monotonic())

    @classmethod
    def at(cls, wall_ms: int) -> "Start":
        """Return an earlier moment, whose monotonic clock is gone; one in the future is now."""
        passed_s = max(0, now_ms() - wall_ms) / 1000
        return cls(wall_ms, time.monotonic() - passed_s)

    def deadline(self, max_ms: int | None) -> float | None:
        """Return the value of time.monotonic() `max_ms` milliseconds later; None if the order sets no deadline."""
        return None if max_ms is None else self.monotonic_s + max_ms / 1000

    def ended(self) -> int:
        """Return what the wall clock (ms since 1970) would show now if nobody had set it since, as a receipt's `ended`.

        Compute time is taken from the same clock, so the receipt is never made implausible (protocol §4.8).
        """
        return self.wall_ms + int(1000 * (time.monotonic() - self.monotonic_s))
