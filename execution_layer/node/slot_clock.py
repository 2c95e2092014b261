"""When a frame is due under time slots (protocol §4.2.1). Pure: the caller brings the time."""


class SlotClock:
    """Slots of equal length from a moment on. One that was missed is left out: frames never come in a bunch.

    All times are seconds on one monotonic clock.
    """

    def __init__(self, began: float, interval: float) -> None:
        self._began = began
        self._interval = interval
        self._taken = 0
        """Slots that are over."""

    @property
    def next_at(self) -> float:
        """When the next frame is due."""
        return self._began + (self._taken + 1) * self._interval

    def wait(self, now: float) -> float:
        """Return for how long there is to wait for the next slot."""
        return max(0.0, self.next_at - now)

    def due(self, now: float) -> bool:
        """Return whether a frame is due, and let the slots pass that have come."""
        if now < self.next_at:
            return False
        self._taken = max(self._taken + 1, int((now - self._began) / self._interval))
        return True
