"""What one field of a record may hold, and how it is encoded: the building blocks of `schema`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, Protocol

from shared.codec.cbor import Value
from shared.runtime.errors import Code, CounterfoilError

MAX_UINT = 2**63 - 1
"""Counts, numbers and indexes fit into a signed 64-bit integer everywhere, including Postgres."""


def refuse(where: str, problem: str) -> NoReturn:
    """Raise MALFORMED for the field `where`."""
    raise CounterfoilError(Code.MALFORMED, f"{where} {problem}")


class Rule(Protocol):
    """What one field may hold, and how it is encoded."""

    @property
    def items(self) -> int:
        """The most CBOR items that a permitted value can have, as `cbor.decode` counts them."""

    @property
    def nested(self) -> int:
        """How many of them are arrays and maps."""

    def check(self, value: Any, where: str) -> None:
        """Raise MALFORMED unless the Python value is permitted."""

    def load(self, value: Value, where: str) -> Any:
        """Turn a CBOR value into the Python value, without what `check` will check."""

    def dump(self, value: Any) -> Value:
        """Turn a checked Python value into a CBOR value."""


class Single:
    """Base of rules whose value is a single CBOR item: neither an array nor a map."""

    __slots__ = ()

    @property
    def items(self) -> int:
        """One."""
        return 1

    @property
    def nested(self) -> int:
        """None."""
        return 0


class Plain(Single):
    """Base of rules whose value is the same in CBOR and in Python."""

    __slots__ = ()

    def load(self, value: Value, where: str) -> Any:  # noqa: ARG002  # part of the Rule interface
        """Return the value as it is."""
        return value

    def dump(self, value: Any) -> Value:
        """Return the value as it is."""
        plain: Value = value
        return plain


@dataclass(frozen=True, slots=True)
class Whole(Plain):
    """An integer from `least` to `most`."""

    most: int = MAX_UINT
    least: int = 0

    def check(self, value: Any, where: str) -> None:
        """Refuse other types (booleans are not integers) and integers out of bounds."""
        if type(value) is not int:
            refuse(where, "is not an integer")
        if not self.least <= value <= self.most:
            refuse(where, f"is not between {self.least} and {self.most}")


@dataclass(frozen=True, slots=True)
class Octets(Plain):
    """A byte string of `least` to `most` bytes."""

    most: int
    least: int = 0

    def check(self, value: Any, where: str) -> None:
        """Refuse other types and lengths."""
        if type(value) is not bytes:
            refuse(where, "is not a byte string")
        if not self.least <= len(value) <= self.most:
            expected = (
                f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            )
            refuse(where, f"is {len(value)} bytes long, not {expected}")


@dataclass(frozen=True, slots=True)
class Text(Plain):
    """Unicode text of `least` to `most` UTF-8 bytes; printable on one line when `line` is set."""

    most: int
    least: int = 0
    line: bool = False
    pattern: re.Pattern[str] | None = None

    def check(self, value: Any, where: str) -> None:
        """Refuse other types and lengths, lone surrogates, and what `line` and `pattern` exclude."""
        if type(value) is not str:
            refuse(where, "is not text")
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise CounterfoilError(Code.MALFORMED, f"{where} is not valid Unicode") from error
        if not self.least <= size <= self.most:
            refuse(where, f"is {size} bytes long, not {self.least} to {self.most}")
        if self.line and not value.isprintable():
            refuse(where, "contains a character that cannot be printed")
        if self.pattern is not None and not self.pattern.fullmatch(value):
            refuse(where, f"does not match {self.pattern.pattern}")


class Flag(Plain):
    """A boolean."""

    __slots__ = ()

    def check(self, value: Any, where: str) -> None:
        """Refuse other types."""
        if type(value) is not bool:
            refuse(where, "is not true or false")


@dataclass(frozen=True, slots=True)
class Either(Plain):
    """The one of several plain rules that fits the value's type."""

    rules: Mapping[type, Rule]

    def check(self, value: Any, where: str) -> None:
        """Refuse a value of a type without a rule, or one that its rule refuses."""
        rule = self.rules.get(type(value))
        if rule is None:
            refuse(where, "is of a type that is not permitted here")
        rule.check(value, where)


@dataclass(frozen=True, slots=True)
class Choice(Single):
    """One of an enumeration's texts."""

    options: type[StrEnum]

    def check(self, value: Any, where: str) -> None:
        """Refuse anything that is not a member."""
        if type(value) is not self.options:
            refuse(where, f"is not one of {', '.join(self.options)}")

    def load(self, value: Value, where: str) -> StrEnum:
        """Return the member with this text."""
        if type(value) is not str or value not in set(self.options):
            refuse(where, f"is not one of {', '.join(self.options)}")
        return self.options(value)

    def dump(self, value: StrEnum) -> str:
        """Return the member's text."""
        return value.value


@dataclass(frozen=True, slots=True)
class Count:
    """How many items an array or a map may have."""

    least: int
    most: int

    def check(self, size: int, where: str) -> None:
        """Refuse any other number."""
        if not self.least <= size <= self.most:
            refuse(where, f"has {size} items, not {self.least} to {self.most}")


@dataclass(frozen=True, slots=True)
class Many:
    """An array; a tuple in Python."""

    item: Rule
    count: Count

    @property
    def items(self) -> int:
        """The array, and the most members it may have."""
        return 1 + self.count.most * self.item.items

    @property
    def nested(self) -> int:
        """The array, and its members' own."""
        return 1 + self.count.most * self.item.nested

    def check(self, value: Any, where: str) -> None:
        """Refuse another type or number of items, or an item that its rule refuses."""
        if type(value) is not tuple:
            refuse(where, "is not an array")
        self.count.check(len(value), where)
        check = self.item.check
        for item in value:
            check(item, where)

    def load(self, value: Value, where: str) -> tuple[Any, ...]:
        """Load every item."""
        if not isinstance(value, list):
            refuse(where, "is not an array")
        return tuple(self.item.load(item, where) for item in value)

    def dump(self, value: tuple[Any, ...]) -> Value:
        """Dump every item."""
        return [self.item.dump(item) for item in value]


@dataclass(frozen=True, slots=True)
class Table:
    """A map of plain keys to plain values."""

    key: Rule
    value: Rule
    count: Count

    @property
    def items(self) -> int:
        """The map, and the most keys and values it may have."""
        return 1 + self.count.most * (self.key.items + self.value.items)

    @property
    def nested(self) -> int:
        """The map, and its values' own."""
        return 1 + self.count.most * self.value.nested

    def check(self, value: Any, where: str) -> None:
        """Refuse another type or number of items, or an item that its rule refuses."""
        if not isinstance(value, dict):
            refuse(where, "is not a map")
        self.count.check(len(value), where)
        for key, item in value.items():
            self.key.check(key, f"a key of {where}")
            self.value.check(item, where)

    def load(self, value: Value, where: str) -> Any:
        """Return a copy."""
        return dict(value) if isinstance(value, dict) else refuse(where, "is not a map")

    def dump(self, value: Mapping[Any, Any]) -> Value:
        """Return a copy."""
        return dict(value)
