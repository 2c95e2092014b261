"""What is wrong with an invoice file, and where: row, column, field, what stands there, what was expected. Pure."""

from dataclasses import dataclass
from typing import Final

from audit_layer.costs.intake.limits import MAX_LISTED, MAX_PROBLEMS
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

_SHOWN: Final = 60
"""Characters of a stranger's text that are repeated in a message."""


class Unreadable(Exception):  # noqa: N818  # never leaves this package: it becomes a Problem
    """A text is not what its field needs; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. What is not known, or does not apply, is None."""

    expected: str
    row: int | None = None
    """As people count: a CSV's line, a sheet's row; a Parquet file's first row is 1."""
    column: str | None = None
    field: str | None = None
    raw: str | None = None
    """What the file holds there, as it is: not safe for a terminal; `str()` of the problem is."""

    def __str__(self) -> str:
        where = ", ".join(
            part
            for part in (
                None if self.row is None else f"row {self.row}",
                self._at(),
                self.field,
            )
            if part
        )
        found = "" if self.raw is None else f"found {quoted(self.raw)}, expected "
        return f"{where}: {found}{self.expected}" if where else f"{found}{self.expected}"

    def _at(self) -> str | None:
        if self.column is None or self.column.startswith(("column ", "cell ")):
            return self.column
        return f"column {self.column}"


class Problems:
    """Collects problems; the first few are kept, all are counted."""

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.count = 0
        self._stopped_at: int | None = None

    def add(
        self,
        expected: str,
        *,
        row: int | None = None,
        column: str | None = None,
        field: str | None = None,
        raw: str | None = None,
    ) -> None:
        """Note one problem."""
        self.count += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Problem(expected, row, column, field, raw))

    def found(self) -> bool:
        """Whether there are any."""
        return self.count > 0

    def lists_more(self) -> bool:
        """Whether one more problem would be listed, so that it is worth a hint."""
        return self.count < MAX_LISTED

    def are_enough(self, row: int) -> bool:
        """Whether reading shall stop at this row, since there are more problems than anyone will mend."""
        if self.count >= MAX_PROBLEMS:
            self._stopped_at = row
        return self._stopped_at is not None

    def told(self) -> list[str]:
        """Return the problems for people, one line each, and how many more there are."""
        lines = [str(problem) for problem in self.listed]
        if more := self.count - len(self.listed):
            stopped = "" if self._stopped_at is None else f" before row {self._stopped_at}, where reading stopped"  # fmt: skip
            lines.append(f"and {more} more{stopped}")
        return lines

    def refusal(self) -> CounterfoilError:
        """Return the error that refuses the file."""
        many = "1 problem" if self.count == 1 else f"{self.count} problems"
        lines = "\n".join(f"  {line}" for line in self.told())
        return refused(f"cannot be read as it was meant, {many}:\n{lines}", count=self.count)


def refused(why: str, *, count: int = 1) -> CounterfoilError:
    """Return the error for a file that cannot be read at all: `the invoice file <why>`."""
    return CounterfoilError(
        Code.MALFORMED,
        f"the invoice file {why}",
        remedy="Nothing was stored. Correct the file or its mapping; docs/invoices.md describes both.",
        metadata={"problems": str(count)},
    )


def quoted(text: str) -> str:
    """Return a stranger's text in quotes on one line, cut where it is long, without anything that steers a terminal."""
    cut = "…" if len(text) > _SHOWN else ""
    return f"“{printable(text, _SHOWN)}{cut}”"
