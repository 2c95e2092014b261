"""A file as rows of cells, whatever its format. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from shared.runtime.printable import printable


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. Text formats have only `text`; a workbook's numbers and dates are typed as well."""

    text: str = ""
    """What the file holds, without white space around it; empty for an empty cell."""
    number: Decimal | None = None
    moment: datetime | None = None
    """A date cell's local time."""
    percent: bool = False
    """Whether the number is shown a hundred times as large, with a percent sign."""
    fault: str | None = None
    """Why nothing can be read here: an error value, a formula without a stored result."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self.text and self.fault is None


EMPTY: Final = Cell()


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `number` as people count (see `Problem.row`)."""

    number: int
    cells: Sequence[Cell]
    hidden: bool = False

    def cell(self, index: int) -> Cell:
        """Return the cell of a column, counted from 0; an empty one beyond the row's end."""
        return self.cells[index] if index < len(self.cells) else EMPTY

    @property
    def blank(self) -> bool:
        """Whether no cell holds anything."""
        return all(cell.empty for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Range:
    """A rectangle of cells, bounds included; rows from 1, columns from 0."""

    name: str
    top: int
    left: int
    bottom: int
    right: int


@dataclass(slots=True)
class Table:
    """Rows, read once from first to last, and what is known about them."""

    rows: Iterator[Row]
    rectangular: bool
    """Whether every row states all its cells, so that a different number of them is an error."""
    hidden_columns: list[tuple[int, int]] = field(default_factory=list)
    """First and last column, from 0. Like `merged`, complete after the last row."""
    merged: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a field is read from; `index` from 0."""

    index: int
    name: str = ""

    def __str__(self) -> str:
        shown = printable(self.name, 40)
        return f"{letters(self.index)} ({shown})" if shown else letters(self.index)


def letters(index: int) -> str:
    """Return a column's letters as in a spreadsheet: 0 is A, 26 is AA."""
    text, rest = "", index + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


def index_of(column: str) -> int:
    """Return a column's index from its letters (A to ZZZ)."""
    value = 0
    for letter in column:
        value = value * 26 + ord(letter) - ord("A") + 1
    return value - 1


def plain(text: str) -> str:
    """Return a text with every run of white space, no-break spaces included, as one space, and none around it."""
    return " ".join(text.split())
