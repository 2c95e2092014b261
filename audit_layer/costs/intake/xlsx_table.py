"""One sheet of an .xlsx workbook as rows (ECMA-376 part 1, §18), read as a person sees it, or refused.

Numbers are stored as the text of a double. The value taken is the shortest decimal that reads back as that double: 0.1
for both `0.1` and `0.10000000000000001`. Formulas count by the result that the spreadsheet stored, never computed here; a
formula without one, and an error value, cannot be read. Hidden sheets, rows and columns are refused where they matter.

Libraries that read workbooks row by row do not tell merged cells, hidden rows and a formula beside its result, and turn
numbers into floats before one sees their text; so the XML is read here.
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from audit_layer.costs.intake.faults import quoted, refused
from audit_layer.costs.intake.limits import MAX_COLUMNS, MAX_ROWS
from audit_layer.costs.intake.table import EMPTY, Cell, Range, Row, Table, index_of
from audit_layer.costs.intake.xlsx_package import Attributes, Handler, Package
from audit_layer.costs.intake.xlsx_parts import (
    TRUE,
    Book,
    Relations,
    Sheet,
    Shown,
    Strings,
    Styles,
    bounded,
    bounded_text,
    whole_of,
)

_REFERENCE: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})", re.ASCII)
_NUMBER: Final = re.compile(
    r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", re.ASCII
)


class _Cells(Handler):
    """A sheet's rows, taken out by `taken` as they become complete."""

    def __init__(self, strings: list[str], shown: list[Shown], epoch: datetime) -> None:
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
                number = whole_of(attributes.get("r", str(self._row + 1)))
                if not self._row < number <= 1_048_576:
                    raise refused(f"is a damaged workbook: row {number} follows row {self._row}")
                self._row, self._cells, self._column = number, [], -1
                self._hidden = attributes.get("hidden", "").lower() in TRUE
            case "c":
                self._begin(attributes)
            case "v" | "t" if not self._hint:
                self._takes = self._stored = True
            case "f":
                self._formula = True
            case "rPh":
                self._hint = True
            case "col" if attributes.get("hidden", "").lower() in TRUE:
                bounds = (whole_of(attributes.get("min")) - 1, whole_of(attributes.get("max")) - 1)
                bounded(self.hidden_columns)
                self.hidden_columns.append(bounds)
            case "mergeCell":
                bounded(self.merged)
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
            self._length += bounded_text(self._length, data)
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
                at = whole_of(text)
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
        style = whole_of(self._form.get("s", "0"))
        shown = self._shown[style] if 0 <= style < len(self._shown) else Shown.NUMBER
        if shown is not Shown.DATE:
            return Cell(format(number, "f"), number=number, percent=shown is Shown.PERCENT)
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
    root, book, strings, styles = Relations(""), Book(), Strings(), Styles()
    if "_rels/.rels" in package:
        package.read("_rels/.rels", root)
    workbook = root.kinds.get("officeDocument", "")
    if not workbook.endswith(".xml") or workbook not in package:
        raise refused("is a ZIP archive, but no .xlsx workbook")
    package.read(workbook, book)
    folder, _, name = workbook.rpartition("/")
    relations = Relations(workbook)
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


def _chosen(sheets: list[Sheet], wanted: str | None) -> tuple[Sheet, list[str]]:
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
