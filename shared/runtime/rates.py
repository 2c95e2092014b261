"""Limits on rate and concurrency: token buckets and places, counted by key. Pure; the clock is an argument.
Both use bounded memory, whoever calls: a bucket is one number, and the least recently used ones are dropped first (a
caller that returns after that starts with a full bucket); places are only stored while they are taken.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

MAX_KEYS: Final = 65_536


class RateLimit:
    """A token bucket for each key: `burst` tokens at first, `per_s` more every second, never more than `burst`."""

    def __init__(
        self,
        per_s: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._per_s = per_s
        self._full_s = burst / per_s
        """Seconds in which an empty bucket fills."""
        self._clock = clock
        self._max_keys = max_keys
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        """When each bucket will be full again; an absent one is full."""

    def take(self, key: Hashable) -> float:
        """Take a token and return 0.0, or take none and return the seconds until there is one."""
        now = self._clock()
        before = max(self._full_at.get(key, now), now)
        after = before + 1 / self._per_s
        wait = after - now - self._full_s
        passes = wait <= 1e-9  # rounding
        self._full_at[key] = after if passes else before
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._max_keys:
            self._full_at.popitem(last=False)
        return 0.0 if passes else wait

    def __len__(self) -> int:
        return len(self._full_at)


class Places:
    """A limited number of places for all keys together, and for each key; a taker may need several."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._taken = 0
        self._by_key: Counter[Hashable] = Counter()

    def take(self, key: Hashable, count: int = 1) -> bool:
        """Take places, all or none; return whether there were enough."""
        if self._taken + count > self._most or self._by_key[key] + count > self._most_each:
            if not self._by_key[key]:
                del self._by_key[key]
            return False
        self._taken += count
        self._by_key[key] += count
        return True

    def give(self, key: Hashable, count: int = 1) -> None:
        """Return places."""
        assert self._by_key[key] >= count
        self._taken -= count
        self._by_key[key] -= count
        if not self._by_key[key]:
            del self._by_key[key]

    def __len__(self) -> int:
        return len(self._by_key)
