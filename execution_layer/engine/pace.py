"""How fast sequences have been ending lately, for callers that are asked to try again later."""

from collections import deque
from typing import Final

WINDOW_S: Final = 60.0
KEPT: Final = 64
UNKNOWN_S: Final = 1.0
SHORTEST_S, LONGEST_S = 0.2, 30.0


class Pace:
    """The times (monotonic seconds) of the latest ends."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._ends)

    def note_end(self, now: float) -> None:
        """Note that a sequence has ended."""
        self._ends.append(now)

    def seconds_for(self, sequences: int, now: float) -> float:
        """Estimate how long it takes until this many have ended: 0.2 to 30 s; 1 s if none ended lately."""
        while self._ends and self._ends[0] < now - WINDOW_S:
            self._ends.popleft()
        if len(self._ends) < 2:
            return UNKNOWN_S
        interval = (now - self._ends[0]) / (len(self._ends) - 1)
        return min(LONGEST_S, max(SHORTEST_S, interval * sequences))
