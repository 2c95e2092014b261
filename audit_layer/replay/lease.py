"""How long a replay will take, by what this process has seen of its own replays, and how long it is leased for. Pure."""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Final

Kind = tuple[bytes, bytes]
"""Model root and numeric profile: what decides, besides the length, how long a replay takes."""
WINDOW: Final = 31
"""Replays of a kind whose median is its speed: one that a busy machine slowed down does not move it."""
ENOUGH: Final = 5
"""Replays before anything is predicted."""
SMALLEST: Final = 64
"""Tokens of a replay that counts: a shorter one mostly measures what every case costs, whatever its length."""
MARGIN: Final = 1.5
"""A lease over the predicted time: attention makes a token of a long sequence dearer than one of a short sequence."""


class Speeds:
    """Tokens per second of this process's own replays, by kind: the running median of the last `WINDOW`."""

    def __init__(self) -> None:
        self._seen: dict[Kind, deque[float]] = {}
        self._speeds: dict[Kind, float] = {}

    def note(self, kind: Kind, tokens: int, took_s: float) -> None:
        """Count a replay of `tokens` tokens of prompt and output that took `took_s` seconds."""
        if tokens < SMALLEST or took_s <= 0:
            return
        seen = self._seen.setdefault(kind, deque(maxlen=WINDOW))
        seen.append(tokens / took_s)
        if len(seen) >= ENOUGH:
            self._speeds[kind] = median(seen)

    def predicted_s(self, kind: Kind, tokens: int) -> float | None:
        """Return how many seconds a replay will take; None before enough replays of the kind were seen."""
        speed = self._speeds.get(kind)
        return None if speed is None else tokens / speed

    def longest(self, kind: Kind, within_s: float) -> int | None:
        """Return the most tokens that can be replayed within a time; None before enough replays of the kind were seen."""
        speed = self._speeds.get(kind)
        return None if speed is None else int(speed * within_s)


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """Between what lengths a lease is, in ms. It is renewed by `floor_ms` while its work goes on."""

    floor_ms: int
    cap_ms: int
    """Also the longest that a replay may be predicted to take."""

    def length_ms(self, predicted_s: float | None) -> int:
        """Return the length of a lease for a replay that will take so long; the floor if nobody knows."""
        wanted = 0 if predicted_s is None else 1000 * MARGIN * min(predicted_s, self.cap_ms / 1000)
        return max(self.floor_ms, min(self.cap_ms, int(wanted)))
