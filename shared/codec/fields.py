"""Reading decoded maps strictly: each field once, within bounds, and none left over.

    read = Reader(cbor.decode(data), "order")
    order = Order(number=read.int("number"), ctx=read.bytes("ctx", length=32))
    read.done()

Any mismatch is a CounterfoilError(MALFORMED, "order.ctx: …").
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from shared.codec.cbor import MAX_INT, Value
from shared.codec.ids import NAME
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

T = TypeVar("T")
K = TypeVar("K")
E = TypeVar("E", bound=StrEnum)
Key = int | str | bytes

_NAMES = {int: "an integer", str: "text", bytes: "a byte string", bool: "a boolean"}


@dataclass(frozen=True, slots=True)
class _Limits:
    """The constraints on one value: its type first, then the bounds for its type."""

    length: int | None = None
    max_length: int | None = None
    low: int = 0
    high: int = MAX_INT
    min_length: int = 0

    def check(self, label: str, value: Value, kind: type[T]) -> T:
        """Return `value` as a `kind`, or raise MALFORMED about `label`."""
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            _refuse(label, f"must be {_NAMES.get(kind, kind.__name__)}")
        if isinstance(value, bytes | str):
            self._check_length(
                label, len(value), "bytes" if isinstance(value, bytes) else "characters"
            )
        elif isinstance(value, int) and not self.low <= value <= self.high:
            _refuse(label, f"{value} is outside {self.low} … {self.high}")
        return value

    def _check_length(self, label: str, found: int, unit: str) -> None:
        if self.length is not None and found != self.length:
            _refuse(label, f"has {found} {unit} instead of {self.length}")
        if self.max_length is not None and found > self.max_length:
            _refuse(label, f"has {found} {unit}, more than {self.max_length}")
        if found < self.min_length:
            _refuse(label, f"has {found} {unit}, fewer than {self.min_length}")


class Reader:
    """One map: every method reads a field and checks it; `optional_*` return None if absent."""

    def __init__(self, value: Value, what: str) -> None:
        self._what = what
        if not isinstance(value, Mapping):
            raise CounterfoilError(Code.MALFORMED, f"{what}: expected a map")
        self._map: Mapping[Any, Value] = value
        self._read: set[Key] = set()

    def has(self, key: Key) -> builtins.bool:
        """Return whether the field is present; it still has to be read."""
        return key in self._map

    def version(self, expected: builtins.int = 1) -> None:
        """Read the field `v` and refuse every other version."""
        found = self.int("v")
        if found != expected:
            raise CounterfoilError(
                Code.UNSUPPORTED, f"{self._what}.v: version {found} is not {expected}"
            )

    def int(self, key: Key, low: builtins.int = 0, high: builtins.int = MAX_INT) -> builtins.int:
        """Read an integer with low <= value <= high."""
        limits = _Limits(low=low, high=high)
        return limits.check(self._label(key), self._take(key), int)

    def bool(self, key: Key) -> builtins.bool:
        """Read a boolean."""
        return _Limits().check(self._label(key), self._take(key), bool)

    def bytes(
        self,
        key: Key,
        *,
        length: builtins.int | None = None,
        max_length: builtins.int | None = None,
    ) -> builtins.bytes:
        """Read a byte string of exactly `length` or at most `max_length` bytes."""
        limits = _Limits(length, max_length)
        return limits.check(self._label(key), self._take(key), bytes)

    def text(
        self, key: Key, max_length: builtins.int | None = None, *, min_length: builtins.int = 0
    ) -> str:
        """Read text of `min_length` to `max_length` characters."""
        limits = _Limits(None, max_length, min_length=min_length)
        return limits.check(self._label(key), self._take(key), str)

    def name(self, key: Key) -> str:
        """Read a name as defined by `shared.codec.ids.check_name`."""
        value = self.text(key, 63)
        if not NAME.fullmatch(value):
            self.refuse(key, "is not a name ([a-z0-9][a-z0-9-]{0,62})")
        return value

    def choice(self, key: Key, kind: type[E]) -> E:
        """Read the value of one of an enumeration's members."""
        value = self.text(key, 64)
        try:
            return kind(value)
        except ValueError:
            self.refuse(key, f"must be one of {', '.join(kind)}")

    def list_of(
        self,
        key: Key,
        kind: type[T],
        *,
        min_items: builtins.int = 0,
        max_items: builtins.int | None = None,
        length: builtins.int | None = None,
        max_length: builtins.int | None = None,
        low: builtins.int = 0,
        high: builtins.int = MAX_INT,
    ) -> list[T]:
        """Read an array whose items are all `kind`: int within low … high, or bytes or str of the given length."""
        items = self._items(key, min_items, max_items)
        label, limits = self._label(key), _Limits(length, max_length, low, high)
        return [limits.check(f"{label}[{at}]", item, kind) for at, item in enumerate(items)]

    def map(self, key: Key) -> dict[Any, Value]:
        """Read a map as it is; the caller checks its contents."""
        value = self._take(key)
        if not isinstance(value, Mapping):
            self.refuse(key, "must be a map")
        return dict(value)

    def map_of(
        self,
        key: Key,
        key_kind: type[K],
        kind: type[T],
        *,
        max_items: builtins.int | None = None,
        key_length: builtins.int | None = None,
        length: builtins.int | None = None,
        max_length: builtins.int | None = None,
    ) -> dict[K, T]:
        """Read a map whose keys are all `key_kind`, `key_length` long, and whose values are all `kind`."""
        found = self.map(key)
        if max_items is not None and len(found) > max_items:
            self.refuse(key, f"has {len(found)} members, more than {max_items}")
        label, keys, values = self._label(key), _Limits(key_length), _Limits(length, max_length)
        return {
            keys.check(f"a key of {label}", k, key_kind): values.check(
                f"a value of {label}", v, kind
            )
            for k, v in found.items()
        }

    def reader(self, key: Key) -> "Reader":
        """Read a map through a reader of its own, whose `done` the caller must call."""
        return Reader(self._take(key), self._label(key))

    def readers(
        self, key: Key, *, min_items: builtins.int = 0, max_items: builtins.int | None = None
    ) -> list["Reader"]:
        """Read an array of maps, each through a reader of its own."""
        items = self._items(key, min_items, max_items)
        return [Reader(item, f"{self._label(key)}[{at}]") for at, item in enumerate(items)]

    def optional_int(
        self, key: Key, low: builtins.int = 0, high: builtins.int = MAX_INT
    ) -> builtins.int | None:
        """Read an integer as `int` does, if it is present."""
        return self.int(key, low, high) if self.has(key) else None

    def optional_bytes(
        self,
        key: Key,
        *,
        length: builtins.int | None = None,
        max_length: builtins.int | None = None,
    ) -> builtins.bytes | None:
        """Read a byte string as `bytes` does, if it is present."""
        return self.bytes(key, length=length, max_length=max_length) if self.has(key) else None

    def optional_text(
        self, key: Key, max_length: builtins.int | None = None, *, min_length: builtins.int = 0
    ) -> str | None:
        """Read text as `text` does, if it is present."""
        return self.text(key, max_length, min_length=min_length) if self.has(key) else None

    def optional_reader(self, key: Key) -> "Reader | None":
        """Read a map as `reader` does, if it is present."""
        return self.reader(key) if self.has(key) else None

    def done(self) -> None:
        """Refuse the map if it contains a field that was not read."""
        unknown = [key for key in self._map if key not in self._read]
        if unknown:
            names = ", ".join(_shown(key) for key in unknown[:5])
            raise CounterfoilError(Code.MALFORMED, f"{self._what}: unknown fields {names}")

    def refuse(self, key: Key, reason: str) -> NoReturn:
        """Raise MALFORMED about the field `key`."""
        raise CounterfoilError(Code.MALFORMED, f"{self._label(key)}: {reason}")

    def _label(self, key: Key) -> str:
        return f"{self._what}.{_shown(key)}"

    def _take(self, key: Key) -> Value:
        self._read.add(key)
        try:
            return self._map[key]
        except KeyError:
            raise CounterfoilError(Code.MALFORMED, f"{self._label(key)}: is missing") from None

    def _items(
        self, key: Key, min_items: builtins.int, max_items: builtins.int | None
    ) -> Sequence[Value]:
        value = self._take(key)
        if not isinstance(value, list | tuple):
            self.refuse(key, "must be an array")
        if len(value) < min_items or (max_items is not None and len(value) > max_items):
            limit = "many" if max_items is None else str(max_items)
            self.refuse(key, f"has {len(value)} items; {min_items} to {limit} are permitted")
        return value


def _refuse(label: str, reason: str) -> NoReturn:
    raise CounterfoilError(Code.MALFORMED, f"{label}: {reason}")


def _shown(key: Key) -> str:
    """Return a key for a message: a stranger's may be long or contain control characters."""
    text = key.hex() if isinstance(key, bytes) else str(key)
    return printable(text, 40)
