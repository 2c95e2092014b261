"""One file's conventions, ready to read cells with: numbers, days, translations, models. Pure apart from `names`."""

import difflib
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

from audit_layer.costs.intake.faults import Unreadable
from audit_layer.costs.intake.forms import DateForm, FileForm
from audit_layer.costs.intake.table import EMPTY, Cell, plain
from audit_layer.costs.intake.values import (
    MAX_PER,
    PLAIN_NUMBERS,
    Days,
    Models,
    Numbers,
    is_divisor,
    text_of,
    whole,
)

_OURS: Final = ("%Y-%m-%d", "rfc3339")


class Conventions:
    """How the cells of one file are read."""

    def __init__(
        self,
        *,
        file: FileForm,
        numbers: Numbers,
        dates: DateForm,
        translations: Mapping[str, Mapping[str, str | int]],
        names: Callable[[str], bytes | None] | None,
    ) -> None:
        self.numbers = numbers
        self.days = Days(dates)
        self.our_days = Days(dates.model_copy(update={"formats": _OURS}))
        self.models = Models(names)
        self._empty = frozenset(map(plain, file.empty))
        self._translations = {
            field: {plain(text): value for text, value in table.items()}
            for field, table in translations.items()
        }

    def cell(self, cell: Cell) -> Cell:
        """Return a cell, or an empty one if its text means that it is empty."""
        return EMPTY if self._empty and plain(cell.text) in self._empty else cell

    def translated(self, field: str, cell: Cell) -> str:
        """Return what a cell's text means by the mapping; the text itself where nothing translates it."""
        text = text_of(cell)
        return str(self._translations.get(field, {}).get(text, text))

    def count(self, field: str, cell: Cell, *, ours: bool = False) -> int:
        """Return how many tokens (requests, …) a unit of quantity, or of price, stands for."""
        meant = self._translations.get(field, {}).get(plain(cell.text))
        if isinstance(meant, int):
            number = Fraction(meant)
        else:
            number = Fraction((PLAIN_NUMBERS if ours else self.numbers).read(cell))
        size = whole(number, least=1, most=MAX_PER, what="a whole number")
        if not is_divisor(size):
            raise Unreadable("a product of 2, 3 and 5, such as 1, 1000 or 3600")
        return size

    def rate(self, cell: Cell, *, ours: bool = False) -> Decimal:
        """Return a tax rate in percent, or raise `Unreadable`."""
        number = (PLAIN_NUMBERS if ours else self.numbers).read(cell)
        if cell.percent:
            number = number.scaleb(2, Context(prec=60))  # a workbook stores 19 % as 0.19
        if not 0 <= number <= 100:
            raise Unreadable("a tax rate in percent, from 0 to 100")
        return number

    def meant(self, field: str, text: str) -> str:
        """Return a hint which of the mapping's texts was probably meant."""
        near = difflib.get_close_matches(text, self._translations.get(field, {}), n=1)
        return f"; did you mean “{near[0]}”?" if near else ""
