"""A dataset as columns with typed cells, and how a cell is written as text. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final

from shared.codec.moment import to_rfc3339

Cell = str | Decimal | int | None
"""Text, an exact number, a count or a time in ms; None is FOCUS's null."""
Row = Mapping[str, Cell]
"""Cells by column; a column that is absent is null."""

FORMULAS: Final = tuple("=+-@\t\r\n＝＋－＠")
"""First characters that make a cell a formula; Excel accepts the full-width forms as well."""


class Kind(StrEnum):
    """What a column's cells are."""

    TEXT = "text"
    """One of a few values that repeat."""
    IDENTIFIER = "identifier"
    """Text that differs from row to row."""
    COST = "cost"
    PRICE = "price"
    QUANTITY = "quantity"
    COUNT = "count"
    """A whole number below 2⁶³."""
    TIME = "time"
    """Milliseconds since 1970, UTC; written in whole seconds, as FOCUS wants it, where they are whole."""
    INSTANT = "instant"
    """The same, always written with milliseconds."""


SCALES: Final[Mapping[Kind, int]] = MappingProxyType(
    {Kind.COST: 24, Kind.PRICE: 15, Kind.QUANTITY: 9}
)
"""Digits after the point in binary formats. A price times a quantity has the scale of a cost, which is that of the books."""
PRECISION: Final = 38
"""Digits in all (decimal128)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    kind: Kind
    nullable: bool = False


@dataclass(frozen=True)
class Dataset:
    """A named and versioned list of columns."""

    name: str
    version: str
    columns: tuple[Column, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return tuple(column.name for column in self.columns)


@lru_cache(maxsize=4096)  # a row has the same cost four times
def decimal_text(value: Decimal | int) -> str:
    """Write a number as FOCUS requires: no exponent, whole numbers with `.0`, never `-0`."""
    number = Decimal(value)
    text = format(number or abs(number), "f")
    if "." not in text:
        return f"{text}.0"
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def neutral(text: str) -> str:
    """Keep a spreadsheet from reading text as a formula."""
    return f"'{text}" if text.startswith(FORMULAS) else text


def time_text(ms: int) -> str:
    """Write a time without a fraction where it is of whole seconds."""
    text = to_rfc3339(ms)
    return f"{text[:19]}Z" if text.endswith(".000Z") else text
