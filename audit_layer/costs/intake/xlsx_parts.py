"""The parts of a workbook around its cells: sheets, relationships, shared strings, styles (ECMA-376 part 1, §18.2 … 18.8)."""

import re
from collections.abc import Sized
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from audit_layer.costs.intake.faults import quoted, refused
from audit_layer.costs.intake.limits import MAX_CELL
from audit_layer.costs.intake.xlsx_package import Attributes, Handler, target

_SINGLE: Final = frozenset({"officeDocument", "sharedStrings", "styles"})
_DATE_STYLES: Final = frozenset({*range(14, 18), 22, 27, 28, 29, 30, 31, 36, *range(50, 59)})
"""Built-in number formats of days; those of times of day alone are no dates."""
_PERCENT_STYLES: Final = frozenset({9, 10})
_LITERALS: Final = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')
_MAX_CODE: Final = 255
"""Characters of a number format, as in a spreadsheet."""
TRUE: Final = ("1", "true")
_MAX_STRINGS: Final = 4_000_000
_MAX_OTHERS: Final = 70_000
"""Styles (of which a spreadsheet has up to 65,490), sheets, hidden columns, merged ranges."""


@dataclass(slots=True)
class Sheet:
    """A sheet as the workbook lists it; `relation` names its part."""

    name: str
    relation: str
    hidden: bool


@dataclass(slots=True)
class Book(Handler):
    """The workbook part: its sheets, and which calendar it counts days in."""

    sheets: list[Sheet] = field(default_factory=list)
    from_1904: bool = False

    def start(self, tag: str, attributes: Attributes) -> None:
        """Take a sheet, or the calendar."""
        if tag == "sheet":
            bounded(self.sheets)
            state = attributes.get("state", "visible")
            self.sheets.append(
                Sheet(attributes.get("name", ""), attributes.get("id", ""), state != "visible")
            )
        elif tag == "workbookPr":
            self.from_1904 = attributes.get("date1904", "").lower() in TRUE


class Relations(Handler):
    """What the part `base` refers to: parts by relationship, and by what they are to it."""

    def __init__(self, base: str) -> None:
        self.targets: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self._base = base

    def start(self, tag: str, attributes: Attributes) -> None:
        """Take a relationship."""
        if tag != "Relationship" or attributes.get("TargetMode") == "External":
            return
        bounded(self.targets)
        name, kind = attributes.get("Id", ""), attributes.get("Type", "").rpartition("/")[2]
        if name in self.targets or (kind in self.kinds and kind in _SINGLE):
            raise refused(f"is a damaged workbook: {quoted(kind)} is in it twice")
        self.targets[name] = self.kinds[kind] = target(self._base, attributes.get("Target", ""))


class Strings(Handler):
    """The shared strings: one per `si`, without the phonetic hints (`rPh`) beside it."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._parts: list[str] = []
        self._length = 0
        self._takes = self._hint = False

    def start(self, tag: str, attributes: Attributes) -> None:  # noqa: ARG002  # the handler's form
        """Begin a string, a hint or a run of text."""
        if tag == "si":
            self._parts, self._length = [], 0
        elif tag == "rPh":
            self._hint = True
        self._takes = tag == "t" and not self._hint

    def end(self, tag: str) -> None:
        """Keep a string that is complete."""
        self._takes = False
        if tag == "rPh":
            self._hint = False
        elif tag == "si":
            bounded(self.strings, _MAX_STRINGS)
            self.strings.append("".join(self._parts).strip())

    def text(self, data: str) -> None:
        """Take some text."""
        if self._takes:
            self._length += bounded_text(self._length, data)
            self._parts.append(data)


class Shown(Enum):
    """What a cell style makes of a number."""

    NUMBER = auto()
    DATE = auto()
    PERCENT = auto()


class Styles(Handler):
    """What each cell style shows."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._custom: dict[int, Shown] = {}
        self._within = False

    def start(self, tag: str, attributes: Attributes) -> None:
        """Take a number format, or a cell style's."""
        if tag == "numFmt":
            bounded(self._custom)
            code = attributes.get("formatCode", "")
            self._custom[whole_of(attributes.get("numFmtId"))] = _shown_by(code)
        elif tag == "cellXfs":
            self._within = True
        elif tag == "xf" and self._within:
            bounded(self.shown)
            number = whole_of(attributes.get("numFmtId", "0"))
            self.shown.append(self._custom.get(number, _built_in(number)))

    def end(self, tag: str) -> None:
        """Note where the cell styles end."""
        if tag == "cellXfs":
            self._within = False


def _shown_by(code: str) -> Shown:
    """Return what a number format shows: a day has a year or a day outside literals and conditions."""
    if len(code) > _MAX_CODE:
        raise refused(f"is a workbook with a number format of more than {_MAX_CODE} characters")
    bare = _LITERALS.sub("", code.partition(";")[0]).lower()
    if "y" in bare or "d" in bare:
        return Shown.DATE
    return Shown.PERCENT if "%" in bare else Shown.NUMBER


def _built_in(number: int) -> Shown:
    if number in _PERCENT_STYLES:
        return Shown.PERCENT
    return Shown.DATE if number in _DATE_STYLES else Shown.NUMBER


def whole_of(text: str | None) -> int:
    """Return a whole number; MALFORMED for anything else where one belongs."""
    if text is None or not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text, re.ASCII):
        raise refused(f"is a damaged workbook: {quoted(text or '')} stands where a number belongs")
    return int(text)


def bounded(things: Sized, most: int = _MAX_OTHERS) -> None:
    """Refuse a workbook that has more things than any spreadsheet writes, before one more is kept."""
    if len(things) >= most:
        raise refused(
            f"is a workbook with more than {most} strings, styles, sheets or merged cells"
        )


def bounded_text(length: int, data: str) -> int:
    """Return how many characters follow; MALFORMED where a cell would be longer than a cell may be."""
    if length + len(data) > MAX_CELL:
        raise refused(f"has more than {MAX_CELL} characters in one cell")
    return len(data)
