"""Where a key was first seen, and with what: compact, so that millions of rows fit in memory."""

import os
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

_SMALLEST: Final = 1 << 10
_KEY: Final = os.urandom(16)
"""So that nobody can prepare two texts with the same digest."""


def digest(*parts: str | None) -> int:
    """Return 64 bits, never 0, that stand for texts and nulls in this process.

    Among n values a false match has a chance of n² / 2⁶⁵: three in a million for ten million rows.
    """
    framed = "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)
    raw = blake2b(framed.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    return int.from_bytes(raw, "little") or 1


class FirstSeen:
    """A table of digests with open addressing: 24 bytes for each place, half of the places in use at most."""

    def __init__(self) -> None:
        self._used = 0
        self._allocate(_SMALLEST)

    def _allocate(self, places: int) -> None:
        self._keys = array("Q", bytes(8 * places))
        self._values = array("Q", bytes(8 * places))
        self._rows = array("Q", bytes(8 * places))

    def see(self, key: int, value: int, row: int) -> tuple[int, int] | None:
        """Return (value, row) of the first time that the key was seen; None if this is it."""
        place = self._place(key)
        if self._keys[place]:
            return self._values[place], self._rows[place]
        self._put(place, key, value, row)
        self._used += 1
        if 2 * self._used > len(self._keys):
            self._grow()
        return None

    def __contains__(self, key: int) -> bool:
        return bool(self._keys[self._place(key)])

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Yield (key, value, row) of every key, in order of row."""
        filled = [place for place, key in enumerate(self._keys) if key]
        for place in sorted(filled, key=self._rows.__getitem__):
            yield self._keys[place], self._values[place], self._rows[place]

    def _place(self, key: int) -> int:
        mask = len(self._keys) - 1
        place = key & mask
        while self._keys[place] not in {0, key}:
            place = (place + 1) & mask
        return place

    def _put(self, place: int, key: int, value: int, row: int) -> None:
        self._keys[place], self._values[place], self._rows[place] = key, value, row

    def _grow(self) -> None:
        old = self._keys, self._values, self._rows
        self._allocate(2 * len(self._keys))
        for key, value, row in zip(*old, strict=True):
            if key:
                self._put(self._place(key), key, value, row)
