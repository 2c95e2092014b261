"""From a cell's text to a value, by the declared conventions of the file. Pure; nothing is guessed, nothing is a float."""

import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from typing import Final, NamedTuple

from audit_layer.costs.exports.table import FORMULAS, neutral
from audit_layer.costs.focus_check.currencies import ISO_4217
from audit_layer.costs.intake.faults import Unreadable
from audit_layer.costs.intake.forms import DateForm, NumberForm
from audit_layer.costs.intake.table import Cell, plain
from shared.codec.ids import NAME, check_label
from shared.codec.moment import day_of, parse_day, parse_rfc3339
from shared.runtime.errors import CounterfoilError

MAX_WHOLE: Final = 20
MAX_PLACES: Final = 18
"""Digits before and after the decimal mark, as in our own invoice format."""
MAX_QUANTITY: Final = 2**63 - 1
MAX_PER: Final = 10**9
_SPACES: Final = "[ \u00a0\u2009\u202f]"
_HEX32: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_SCIENTIFIC: Final = re.compile(r"-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_DIGITS: Final = 60
"""Digits that are looked at before or after the mark, zeros included."""
_REMEMBERED: Final = 10_000
"""Texts of days whose meaning is kept, since an invoice repeats few of them many times."""


class Day(NamedTuple):
    """A day, and whether exactly its beginning was written: no time, or midnight."""

    day: date
    begins: bool


class Numbers:
    """Reads numbers as one file writes them."""

    def __init__(self, form: NumberForm) -> None:
        self._form = form
        mark = re.escape(form.decimal)
        digits = "[0-9]+"
        self._separator = None
        if form.thousands is not None:
            self._separator = _SPACES if form.thousands == " " else re.escape(form.thousands)
            digits = f"(?:[0-9]{{1,3}}(?:{self._separator}[0-9]{{3}})+|[0-9]+)"
        self._pattern = re.compile(f"({digits})?(?:{mark}([0-9]+))?", re.ASCII)
        one = f"1{form.thousands or ''}234{form.decimal}50"
        signed = {"minus": f"-{one}", "trailing-minus": f"{one}-", "parentheses": f"({one})"}
        self.expected = f"a number like {one} or {signed[form.negative]}"

    def read(self, cell: Cell) -> Decimal:
        """Return a cell's number; `Unreadable` for any other text and for more digits than money has."""
        if cell.number is not None:
            return _sized(cell.number)
        if cell.moment is not None:
            raise Unreadable(f"{self.expected}, not a date")
        return self._of_text(cell.text)

    def _of_text(self, text: str) -> Decimal:
        rest, negative = self._unsigned(text)
        match = self._pattern.fullmatch(rest)
        if match is None or not rest:
            raise Unreadable(self.expected)
        whole, places = match[1] or "", match[2] or ""
        if self._separator is not None:
            whole = re.sub(self._separator, "", whole)
        if len(whole) > _DIGITS or len(places) > _DIGITS:
            raise Unreadable(_TOO_LONG)
        value = Decimal(f"{whole or '0'}.{places}" if places else whole)
        if len(whole) > MAX_WHOLE or len(places) > MAX_PLACES:
            value = _sized(value)
        return (
            value.copy_negate() if negative and value else value
        )  # minus would round to 28 digits

    def _unsigned(self, text: str) -> tuple[str, bool]:
        """Return a text without the sign and the units around the number, and whether it was negative."""
        text = self._bare(text)
        style = self._form.negative
        if style == "minus" and text[:1] in ("-", "−"):
            return self._bare(text[1:]), True
        if style == "trailing-minus" and text[-1:] in ("-", "−"):
            return self._bare(text[:-1]), True
        if style == "parentheses" and text[:1] == "(" and text[-1:] == ")":
            return self._bare(text[1:-1]), True
        return text, False

    def _bare(self, text: str) -> str:
        text = text.strip()
        for unit in self._form.units:
            if text.startswith(unit):
                return text.removeprefix(unit).strip()
            if text.endswith(unit):
                return text.removesuffix(unit).strip()
        return text


class Days:
    """Reads days as one file writes them."""

    def __init__(self, form: DateForm) -> None:
        self._form = form
        self._read: dict[str, Day] = {}

    def read(self, cell: Cell) -> Day:
        """Return a cell's day in the invoice's zone; `Unreadable` also for a text that two formats read differently."""
        if cell.moment is not None:
            return _within(Day(cell.moment.date(), cell.moment.time() == time(0)))
        if cell.number is not None:
            raise Unreadable("a date; the cell holds a plain number")
        text = cell.text
        if (known := self._read.get(text)) is not None:
            return known
        days = {day for name in self._form.formats if (day := self._by(name, text)) is not None}
        shown = " or ".join(self._form.formats)
        if not days:
            raise Unreadable(f"a day written {shown}")
        if len(days) > 1:
            raise Unreadable(f"a day that {shown} do not read differently")
        day = _within(days.pop())
        if len(self._read) < _REMEMBERED:
            self._read[text] = day
        return day

    def _by(self, form: str, text: str) -> Day | None:
        if not text.isascii():
            return None
        try:
            if form == "rfc3339":
                return self._at(parse_rfc3339(text))
            moment = datetime.strptime(text, form)  # noqa: DTZ007  # a local time unless %z follows
            if moment.tzinfo is not None:
                return self._at(parse_rfc3339(moment.isoformat()))
        except (ValueError, CounterfoilError):
            return None
        return Day(moment.date(), moment.time() == time(0))

    def _at(self, ms: int) -> Day:
        day = day_of(ms, self._form.time_zone)
        # Midnight in the zone is the one instant whose predecessor belongs to another day.
        return Day(day, ms == 0 or day_of(ms - 1, self._form.time_zone) != day)


PLAIN_NUMBERS: Final = Numbers(NumberForm())
"""Constants and FOCUS: `-1234.50`."""


class FocusNumbers(Numbers):
    """Reads the numbers of FOCUS: a point, no separators, and an exponent where the writer likes one."""

    def __init__(self) -> None:
        super().__init__(NumberForm())
        self.expected = "a number like -1234.50 or 1.25E-6"

    def read(self, cell: Cell) -> Decimal:
        """Return a cell's number, or raise `Unreadable`."""
        if not _SCIENTIFIC.fullmatch(cell.text):
            raise Unreadable(self.expected)
        value = Decimal(cell.text)
        return _sized(value)


def whole(value: Fraction, *, least: int, most: int, what: str) -> int:
    """Return a whole number within bounds, or raise `Unreadable`."""
    if value.denominator != 1 or not least <= value <= most:
        raise Unreadable(f"{what}, from {least} to {most}")
    return int(value)


def is_divisor(number: int) -> bool:
    """Whether prices may be per so many: a product of 2, 3 and 5 up to 10⁹, such as 1000, 1,000,000, 3600.

    Sums of exact amounts then have small denominators; with any others a file could let them grow without end.
    """
    if not 1 <= number <= MAX_PER:
        return False
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def text_of(cell: Cell) -> str:
    """Return a cell's text for a name, a number of an invoice and the like; a date is refused as its form is not known."""
    if cell.moment is not None:
        raise Unreadable("text, not a date")
    return plain(cell.text)


def label(text: str) -> str:
    """Return an operator's own identifier; `Unreadable` for what cannot be printed, is too long or is a formula."""
    try:
        check_label(text, "it")
    except CounterfoilError as error:
        raise Unreadable(f"1 to 128 printable characters ({error.detail})") from error
    if text.startswith(FORMULAS):
        raise Unreadable("an identifier that no spreadsheet takes for a formula (=, +, -, @)")
    return text


def description(text: str) -> str:
    """Return free text on one line of at most 500 characters, such that no spreadsheet takes it for a formula."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:500])
    return neutral(kept)


def name(text: str) -> str:
    """Return the name of a tenant, operator or node."""
    if not NAME.fullmatch(text):
        raise Unreadable("a name of 1 to 63 lower-case letters, digits and hyphens")
    return text


def currency(text: str) -> str:
    """Return an ISO 4217 code."""
    if text not in ISO_4217:
        raise Unreadable("an ISO 4217 code such as EUR")
    return text


class Models:
    """Reads a model's root, by its hash or by a name."""

    def __init__(self, names: Callable[[str], bytes | None] | None) -> None:
        self._names = names
        self._known: dict[str, bytes | None] = {}

    def root(self, text: str) -> bytes:
        """Return the root that 64 hexadecimal digits or a known name mean; each name is asked for once."""
        if _HEX32.fullmatch(text):
            return bytes.fromhex(text)
        if text not in self._known:
            self._known[text] = self._names(text) if self._names is not None else None
        found = self._known[text]
        if found is None:
            raise Unreadable("the root in hexadecimal, or the name, of a model that is known here")
        return found


_LONG: Final = Context(prec=200, traps=[Inexact, InvalidOperation])
"""Longer than any number that is read, so that nothing is rounded on the way."""
_TOO_LONG: Final = f"a number of at most {MAX_WHOLE} digits before and {MAX_PLACES} after the point"


def _sized(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise Unreadable("a finite number")
    if _places(value) > MAX_PLACES:
        value = value.normalize(_LONG)
    if value.adjusted() >= MAX_WHOLE or _places(value) > MAX_PLACES:
        raise Unreadable(_TOO_LONG)
    return value.quantize(Decimal(1), context=_LONG) if _places(value) < 0 else value


def _places(value: Decimal) -> int:
    """Return the digits after the point; negative for tens, hundreds … as `1E+2` has them."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent


def _within(day: Day) -> Day:
    try:
        parse_day(day.day.isoformat())
    except CounterfoilError as error:
        raise Unreadable("a day in 1970 … 9999") from error
    return day
