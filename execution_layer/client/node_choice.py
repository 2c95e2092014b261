"""Which nodes to try first: one that failed rests, longer each time, until it answers again. Pure.
A node that fails at once looks idle, and would get every following request. So it is set aside for a time that doubles with
every failure; then one request at a time probes whether it has recovered. Rest is only a preference: if all nodes rest, or
one is required, it is tried nevertheless.

A node that is slow fails at nothing, so it is known by what the client measured itself: how long it waited for first tokens. It
counts as slower than the others once its recent waits and those of the others' median node do not overlap at all; of three waits
each, equal nodes come out like that once in twenty times. Then a request there counts as that many more as it takes longer. What
is older than a minute is forgotten, so a node that has recovered is found again, at the price of three requests a minute.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Final

from shared.runtime.errors import Code, CounterfoilError

FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 60.0
BUSY: Final = frozenset({Code.QUOTA, Code.OVERLOADED})
"""The node is healthy but has no room: it rests as long as it says, and that does not count as a failure."""

RECENT: Final = 8
"""Waits that are remembered of each node."""
ENOUGH: Final = 3
"""As many waits as each side needs before two nodes are compared."""
FORGOTTEN_S: Final = 60.0


class NodeChoice:
    """One client's record of its nodes. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._busy: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._rests_until: dict[str, float] = {}
        self._waits: defaultdict[str, deque[tuple[float, float]]] = defaultdict(
            partial(deque, maxlen=RECENT)
        )
        """(when, seconds until the first token), the latest last."""

    def choose(self, names: Sequence[str], tried: Sequence[str], now: float) -> str:
        """Return the node to try.

        In this order of preference: not tried before, not the one tried last, not resting, its rest ends first, least
        busy for how fast it is, least used.
        """
        last = tried[-1] if tried else None

        def rank(name: str) -> tuple[bool, bool, bool, float, float, int]:
            until = self._until(name, now)
            return (
                name in tried,
                name == last,
                until > now,
                max(until, now),
                (self._busy[name] + 1) * self._slowness(name, names, now),
                self._given[name],
            )

        return min(names, key=rank)

    def begin(self, name: str) -> None:
        """Record that a request goes to a node."""
        self._busy[name] += 1
        self._given[name] += 1

    def end(self, name: str) -> None:
        """Record that a request has ended, however it did."""
        self._busy[name] -= 1

    def answered(self, name: str) -> None:
        """Record that a node behaved correctly."""
        self._failures.pop(name, None)
        self._rests_until.pop(name, None)

    def waited(self, name: str, seconds: float, now: float) -> None:
        """Record how long a node's first token took, or how long none came."""
        self._waits[name].append((now, seconds))

    def failed(self, name: str, error: CounterfoilError, now: float) -> None:
        """Let a node rest after an error that another node might not have."""
        if error.code in BUSY:
            rest = min(error.retry_after_s or FIRST_REST_S, LONGEST_REST_S)
        else:
            self._failures[name] += 1
            doubled = FIRST_REST_S * 2.0 ** min(self._failures[name] - 1, 10)
            rest = min(max(doubled, error.retry_after_s or 0.0), LONGEST_REST_S)
        self._rests_until[name] = max(self._rests_until.get(name, now), now + rest)

    def _slowness(self, name: str, names: Sequence[str], now: float) -> float:
        """Return how many times longer a node takes than the others' median node; 1 unless the waits leave no doubt."""
        own = self._recent(name, now)
        others = sorted(
            (
                waits
                for other in names
                if other != name
                if len(waits := self._recent(other, now)) >= ENOUGH
            ),
            key=median,
        )
        if len(own) < ENOUGH or not others:
            return 1.0
        usual = others[(len(others) - 1) // 2]
        if min(own) <= max(usual):
            return 1.0
        return median(own) / max(median(usual), 1e-6)

    def _recent(self, name: str, now: float) -> list[float]:
        return [seconds for at, seconds in self._waits[name] if at > now - FORGOTTEN_S]

    def _until(self, name: str, now: float) -> float:
        """Return when a node's rest ends. While one request probes a node that failed, it rests for all others."""
        until = self._rests_until.get(name, now)
        on_trial = self._failures[name] > 0 and self._busy[name] > 0
        return max(until, now + FIRST_REST_S) if on_trial else until
