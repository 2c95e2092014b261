"""One sheet of an .xlsx workbook as rows (ECMA-376 part 1, §18), read as a person sees it, or refused.

Numbers are stored as the text of a double. The value taken is the shortest decimal that reads back as that double: 0.1
for both `0.1` and `0.10000000000000001`. Formulas count by the result that the spreadsheet stored, never computed here; a
formula without one, and an error value, cannot be read. Hidden sheets, rows and columns are refused where they matter.
"""

import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, auto
from typing import Final

from audit_layer.costs.intake.faults import quoted, refused
from audit_layer.costs.intake.limits import MAX_CELL, MAX_COLUMNS, MAX_ROWS
from audit_layer.costs.intake.table import EMPTY, Cell, Range, Row, Table, index_of
from audit_layer.costs.intake.xlsx_package import Attributes, Handler, Package, target

_SINGLE: Final = frozenset({"officeDocument", "sharedStrings", "styles"})
_REFERENCE: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})", re.ASCII)
_NUMBER: Final = re.compile(
    r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", re.ASCII
)
_DATE_STYLES: Final = frozenset({*range(14, 18), 22, 27, 28, 29, 30, 31, 36, *range(50, 59)})
"""Built-in number formats of days; those of times of day alone are no dates."""
_PERCENT_STYLES: Final = frozenset({9, 10})
_LITERALS: Final = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')
_TRUE: Final = ("1", "true")
_MAX_STRINGS: Final = 4_000_000
_MAX_OTHERS: Final = 70_000
"""Styles (of which a spreadsheet has up to 65,490), sheets, hidden columns, merged ranges."""


@dataclass(slots=True)
class _Sheet:
    name: str
    relation: str
    hidden: bool


@dataclass(slots=True)
class _Book(Handler):
    """The workbook part: its sheets, and which calendar it counts days in."""

    sheets: list[_Sheet] = field(default_factory=list)
    from_1904: bool = False

    def start(self, tag: str, attributes: Attributes) -> None:
        if tag == "sheet":
            _bounded(self.sheets)
            state = attributes.get("state", "visible")
            self.sheets.append(
                _Sheet(attributes.get("name", ""), attributes.get("id", ""), state != "visible")
            )
        elif tag == "workbookPr":
            self.from_1904 = attributes.get("date1904", "").lower() in _TRUE


class _Relations(Handler):
    """What the part `base` refers to: parts by relationship, and by what they are to it."""

    def __init__(self, base: str) -> None:
        self.targets: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self._base = base

    def start(self, tag: str, attributes: Attributes) -> None:
        if tag != "Relationship" or attributes.get("TargetMode") == "External":
            return
        _bounded(self.targets)
        name, kind = attributes.get("Id", ""), attributes.get("Type", "").rpartition("/")[2]
        if name in self.targets or (kind in self.kinds and kind in _SINGLE):
            raise refused(f"is a damaged workbook: {quoted(kind)} is in it twice")
        self.targets[name] = self.kinds[kind] = target(self._base, attributes.get("Target", ""))


class _Strings(Handler):
    """The shared strings: one per `si`, without the phonetic hints (`rPh`) beside it."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._parts: list[str] = []
        self._length = 0
        self._takes = self._hint = False

    def start(self, tag: str, attributes: Attributes) -> None:  # noqa: ARG002  # the handler's form
        if tag == "si":
            self._parts, self._length = [], 0
        elif tag == "rPh":
            self._hint = True
        self._takes = tag == "t" and not self._hint

    def end(self, tag: str) -> None:
        self._takes = False
        if tag == "rPh":
            self._hint = False
        elif tag == "si":
            _bounded(self.strings, _MAX_STRINGS)
            self.strings.append("".join(self._parts).strip())

    def text(self, data: str) -> None:
        if self._takes:
            self._length += _bounded_text(self._length, data)
            self._parts.append(data)


class _Shown(Enum):
    """What a cell style makes of a number."""

    NUMBER = auto()
    DATE = auto()
    PERCENT = auto()


class _Styles(Handler):
    """What each cell style shows."""

    def __init__(self) -> None:
        self.shown: list[_Shown] = []
        self._custom: dict[int, _Shown] = {}
        self._within = False

    def start(self, tag: str, attributes: Attributes) -> None:
        if tag == "numFmt":
            _bounded(self._custom)
            code = attributes.get("formatCode", "")
            self._custom[_int(attributes.get("numFmtId"))] = _shown_by(code)
        elif tag == "cellXfs":
            self._within = True
        elif tag == "xf" and self._within:
            _bounded(self.shown)
            number = _int(attributes.get("numFmtId", "0"))
            self.shown.append(self._custom.get(number, _built_in(number)))

    def end(self, tag: str) -> None:
        if tag == "cellXfs":
            self._within = False


class _Cells(Handler):
    """A sheet's rows, taken out by `taken` as they become complete."""

    def __init__(self, strings: list[str], shown: list[_Shown], epoch: datetime) -> None:
        self.ready: list[Row] = []
        self.hidden_columns: list[tuple[int, int]] = []
        self.merged: list[Range] = []
        self._strings = strings
        self._shown = shown
        self._epoch = epoch
        self._row = 0
        self._hidden = False
        self._cells: list[Cell] = []
        self._column = -1
        self._form: Attributes = {}
        self._value: list[str] = []
        self._length = 0
        self._takes = self._formula = self._stored = self._hint = False

    def start(self, tag: str, attributes: Attributes) -> None:
        self._takes = False
        match tag:
            case "row":
                number = _int(attributes.get("r", str(self._row + 1)))
                if not self._row < number <= 1_048_576:
                    raise refused(f"is a damaged workbook: row {number} follows row {self._row}")
                self._row, self._cells, self._column = number, [], -1
                self._hidden = attributes.get("hidden", "").lower() in _TRUE
            case "c":
                self._begin(attributes)
            case "v" | "t" if not self._hint:
                self._takes = self._stored = True
            case "f":
                self._formula = True
            case "rPh":
                self._hint = True
            case "col" if attributes.get("hidden", "").lower() in _TRUE:
                bounds = (_int(attributes.get("min")) - 1, _int(attributes.get("max")) - 1)
                _bounded(self.hidden_columns)
                self.hidden_columns.append(bounds)
            case "mergeCell":
                _bounded(self.merged)
                self.merged.append(_range(attributes.get("ref", "")))

    def end(self, tag: str) -> None:
        self._takes = False
        if tag == "rPh":
            self._hint = False
        elif tag == "c":
            cell = self._cell()
            self._cells.extend([EMPTY] * (self._column - len(self._cells)))
            self._cells.append(cell)
        elif tag == "row":
            self.ready.append(Row(self._row, self._cells, self._hidden))

    def text(self, data: str) -> None:
        if self._takes:
            self._length += _bounded_text(self._length, data)
            self._value.append(data)

    def taken(self) -> list[Row]:
        """Return the rows that are complete, and forget them."""
        rows, self.ready = self.ready, []
        return rows

    def _begin(self, attributes: Attributes) -> None:
        column = self._column + 1
        if (reference := attributes.get("r")) is not None:
            match = _REFERENCE.fullmatch(reference)
            if match is None or int(match[2]) != self._row:
                raise refused(
                    f"is a damaged workbook: a cell of row {self._row} is named {quoted(reference)}"
                )
            column = index_of(match[1])
        if not self._column < column < MAX_COLUMNS:
            raise refused(
                f"has, in row {self._row}, cells out of order or beyond column {MAX_COLUMNS}"
            )
        self._column, self._form, self._value, self._length = column, attributes, [], 0
        self._formula = self._stored = False

    def _cell(self) -> Cell:
        text = "".join(self._value)
        if self._formula and not self._stored:
            return Cell(
                fault="is a formula without a stored result; open the file in a spreadsheet and save it"
            )
        match self._form.get("t", "n"):
            case "n" | "" if text.strip():
                return self._number(text.strip())
            case "s" if text.strip():
                at = _int(text)
                if not 0 <= at < len(self._strings):
                    raise refused(f"is a damaged workbook: there is no shared string {at}")
                return Cell(self._strings[at])
            case "e":
                return Cell(fault=f"holds the error value {quoted(text)}")
            case "d" if text:
                return _iso(text.strip())
            case "b" if text:
                return Cell("TRUE" if text.strip() == "1" else "FALSE")
        return Cell(text.strip())

    def _number(self, text: str) -> Cell:
        if not _NUMBER.fullmatch(text):
            raise refused(f"is a damaged workbook: a number is written {quoted(text)}")
        double = float(text)
        if double in (float("inf"), float("-inf")):
            return Cell(fault=f"holds {quoted(text)}, which is too large for a number")
        number = Decimal(repr(double + 0.0)).normalize()  # without the sign of a negative zero
        style = _int(self._form.get("s", "0"))
        shown = self._shown[style] if 0 <= style < len(self._shown) else _Shown.NUMBER
        if shown is not _Shown.DATE:
            return Cell(format(number, "f"), number=number, percent=shown is _Shown.PERCENT)
        # Day 60 of the 1900 calendar never was; before it, and in negative time, serial numbers mean other days.
        if not (61 if self._epoch.year == 1899 else 0) <= number < 2_958_466:
            return Cell(fault=f"holds the day {quoted(text)}, which is not in 1900 … 9999")
        days = int(number)
        seconds = round((number - days) * 86_400)
        moment = self._epoch + timedelta(days=days, seconds=seconds)
        return Cell(moment.isoformat(" "), moment=moment)


def xlsx_table(content: bytes, sheet: str | None) -> Table:
    """Return the rows of one visible sheet: the named one, or the only one. MALFORMED for anything else."""
    package = Package(content)
    root, book, strings, styles = _Relations(""), _Book(), _Strings(), _Styles()
    if "_rels/.rels" in package:
        package.read("_rels/.rels", root)
    workbook = root.kinds.get("officeDocument", "")
    if not workbook.endswith(".xml") or workbook not in package:
        raise refused("is a ZIP archive, but no .xlsx workbook")
    package.read(workbook, book)
    folder, _, name = workbook.rpartition("/")
    relations = _Relations(workbook)
    package.read(f"{folder}/_rels/{name}.rels".lstrip("/"), relations)
    chosen, notes = _chosen(book.sheets, sheet)
    if chosen.relation not in relations.targets:
        raise refused(f"is a damaged workbook: the sheet {quoted(chosen.name)} is not in it")
    for kind, handler in (("sharedStrings", strings), ("styles", styles)):
        if kind in relations.kinds:
            package.read(relations.kinds[kind], handler)
    epoch = datetime(1904, 1, 1) if book.from_1904 else datetime(1899, 12, 30)  # noqa: DTZ001
    cells = _Cells(strings.strings, styles.shown, epoch)
    steps = package.steps(relations.targets[chosen.relation], cells)
    return Table(
        _rows(cells, steps),
        rectangular=False,
        hidden_columns=cells.hidden_columns,
        merged=cells.merged,
        notes=notes,
    )


def _rows(cells: _Cells, steps: Iterator[None]) -> Iterator[Row]:
    count = 0
    while True:
        for row in cells.taken():
            count += 1
            if count > MAX_ROWS:
                raise refused(f"has more than {MAX_ROWS} rows")
            yield row
        try:
            next(steps)
        except StopIteration:
            return


def _chosen(sheets: list[_Sheet], wanted: str | None) -> tuple[_Sheet, list[str]]:
    """Return the sheet to read, and notes about those that nobody sees."""
    visible = [sheet for sheet in sheets if not sheet.hidden]
    names = ", ".join(quoted(sheet.name) for sheet in visible[:10]) or "none"
    if wanted is None:
        if len(visible) != 1:
            raise refused(f"has {len(visible)} visible sheets ({names}); name one in file.sheet")
        chosen = visible[0]
    else:
        found = [sheet for sheet in sheets if sheet.name == wanted]
        if len(found) != 1:
            raise refused(f"has no sheet {quoted(wanted)}; visible are {names}")
        chosen = found[0]
        if chosen.hidden:
            raise refused(
                f"has the sheet {quoted(wanted)}, but hidden: nobody who opens it sees it"
            )
    hidden = [quoted(sheet.name) for sheet in sheets if sheet.hidden]
    notes = [f"hidden sheets are not read: {', '.join(hidden[:10])}"] if hidden else []
    return chosen, notes


def _shown_by(code: str) -> _Shown:
    """Return what a number format shows: a day has a year or a day outside literals and conditions."""
    bare = _LITERALS.sub("", code.partition(";")[0]).lower()
    if "y" in bare or "d" in bare:
        return _Shown.DATE
    return _Shown.PERCENT if "%" in bare else _Shown.NUMBER


def _built_in(number: int) -> _Shown:
    if number in _PERCENT_STYLES:
        return _Shown.PERCENT
    return _Shown.DATE if number in _DATE_STYLES else _Shown.NUMBER


def _range(text: str) -> Range:
    match = re.fullmatch(rf"{_REFERENCE.pattern}(?::{_REFERENCE.pattern})?", text, re.ASCII)
    if match is None:
        raise refused(f"is a damaged workbook: it merges {quoted(text)}")
    left, top = index_of(match[1]), int(match[2])
    right, bottom = (index_of(match[3]), int(match[4])) if match[3] else (left, top)
    return Range(text, top, left, bottom, right)


def _iso(text: str) -> Cell:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return Cell(fault=f"holds the date {quoted(text)}, which cannot be read")
    return Cell(text, moment=moment.replace(tzinfo=None))


def _int(text: str | None) -> int:
    if text is None or not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text, re.ASCII):
        raise refused(f"is a damaged workbook: {quoted(text or '')} stands where a number belongs")
    return int(text)


def _bounded(things: Sized, most: int = _MAX_OTHERS) -> None:
    if len(things) >= most:
        raise refused(
            f"is a workbook with more than {most} strings, styles, sheets or merged cells"
        )


def _bounded_text(length: int, data: str) -> int:
    """Return how many characters follow; MALFORMED where a cell would be longer than a cell may be."""
    if length + len(data) > MAX_CELL:
        raise refused(f"has more than {MAX_CELL} characters in one cell")
    return len(data)
