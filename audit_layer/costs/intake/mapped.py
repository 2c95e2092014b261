"""CSV and workbooks by a mapping file: which rows are lines, what the others mean, and which cells speak for the whole. Pure."""

import difflib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.intake.conventions import Conventions
from audit_layer.costs.intake.facts import Facts
from audit_layer.costs.intake.faults import Problems, quoted, refused
from audit_layer.costs.intake.forms import TOTALS, RowRule
from audit_layer.costs.intake.limits import MAX_ROWS
from audit_layer.costs.intake.lines import Draft, LineReader
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.table import Column, Row, Table, index_of, plain
from audit_layer.costs.intake.trace import RowReading, Trace

_KINDS: Final = frozenset(map(str, ChargeKind))


class MappedRows:
    """Reads one table. `drafts` may be read once."""

    def __init__(
        self,
        table: Table,
        mapping: InvoiceMapping,
        conventions: Conventions,
        facts: Facts,
        problems: Problems,
        trace: Trace,
    ) -> None:
        self._table = table
        self._mapping = mapping
        self._conventions = conventions
        self._facts = facts
        self._problems = problems
        self._trace = trace
        self._reader: LineReader | None = None
        self._rules: Sequence[tuple[RowRule, int]] = ()
        self._width: int | None = None
        self._missing = set(mapping.cells) - {"corrects"}
        """Fields whose single cell was not met, or is empty; most invoices correct none."""
        self._used: list[int] = []
        """Numbers of the rows that became lines."""

    def drafts(self) -> Iterator[Draft]:
        """Return the lines in order; problems are noted on the way. MALFORMED where no row can be understood."""
        header = self._mapping.rows.header
        if header == 0:
            self._resolve(None)
        addressed = {row for row, _ in self._mapping.addresses}
        for count, row in enumerate(self._table.rows, start=1):
            if count > MAX_ROWS:
                raise refused(f"has more than {MAX_ROWS} rows")
            if self._problems.are_enough(row.number):
                break
            if row.number in addressed:
                self._note_cells(row)
            if row.number == header:
                self._resolve(row)
            elif row.number > header and (draft := self._row(row)) is not None:
                yield draft
        if self._reader is None:
            raise refused(f"has no row {header}, which should name its columns")
        self._check_sheet()
        self._check_found()

    def _note_cells(self, row: Row) -> None:
        for (number, at), fields in self._mapping.addresses.items():
            if number == row.number:
                cell = self._conventions.cell(row.cell(index_of(at)))
                if not cell.empty:
                    self._missing.difference_update(fields)
                for field in fields:
                    self._facts.put(field, cell, f"cell {at}{number}", row=number)

    # -- columns -------------------------------------------------------------------------------------

    def _resolve(self, header: Row | None) -> None:
        """Find every column; MALFORMED, with all that are missing, if one cannot be found."""
        titles = [plain(cell.text) for cell in header.cells] if header is not None else []
        while titles and not titles[-1]:
            titles.pop()
        columns = {
            field: found
            for field, wanted in self._mapping.columns.items()
            if (found := self._column(wanted, titles, field)) is not None
        }
        rules = [
            (rule, found.index)
            for rule in self._mapping.rows.rules
            if (found := self._column(rule.column, titles, "rows.rules")) is not None
        ]
        if self._problems.found():
            raise self._problems.refusal()
        self._rules = rules
        if header is not None and self._table.rectangular:
            self._width = len(titles)
        self._reader = LineReader(columns, self._conventions, self._facts, self._problems)

    def _column(self, wanted: str | int, titles: Sequence[str], field: str) -> Column | None:
        if isinstance(wanted, int):
            title = titles[wanted - 1] if wanted <= len(titles) else ""
            if titles and wanted > len(titles):
                self._problems.add(f"there are {len(titles)} columns, not {wanted}", field=field)
                return None
            return Column(wanted - 1, title)
        places = [at for at, title in enumerate(titles) if title == plain(wanted)]
        if len(places) == 1:
            return Column(places[0], titles[places[0]])
        row = self._mapping.rows.header
        if places:
            at = " and ".join(str(place + 1) for place in places[:5])
            self._problems.add(
                f"columns {at} are all named {quoted(wanted)}: use a number", row=row, field=field
            )
            return None
        near = difflib.get_close_matches(plain(wanted), titles, n=1)
        hint = f"did you mean {quoted(near[0])}?" if near else f"there are {_listed(titles)}"
        self._problems.add(f"no column is named {quoted(wanted)}; {hint}", row=row, field=field)
        return None

    # -- rows ----------------------------------------------------------------------------------------

    def _row(self, row: Row) -> Draft | None:
        """Return the draft of a line's row; None for any other row and for one with problems."""
        assert self._reader is not None
        reading = RowReading(row.number, "skipped")
        if row.blank:
            reading.why = "blank"
        elif self._mapping.rows.last is not None and row.number > self._mapping.rows.last:
            reading.why = "after the last row of the mapping"
        elif row.number in self._mapping.rows.skip:
            reading.why = "named in the mapping's rows.skip"
        else:
            return self._meant(row, self._reader, reading)
        self._trace.add(reading)
        return None

    def _meant(self, row: Row, reader: LineReader, reading: RowReading) -> Draft | None:
        before = self._problems.count
        fields = reading if self._trace.keeps else None
        meaning, reading.why = self._by_rule(row)
        if meaning != "skip" and self._fits(row):
            meaning = meaning or reader.kind_text(row, fields)
        draft = None
        if self._problems.count > before or meaning is None:
            pass
        elif meaning == "skip":
            reading.why = reading.why or "its kind is to be skipped"
        elif meaning in TOTALS:
            reading.outcome = "total"
            self._total(row, meaning, reader)
        elif meaning in _KINDS:
            reading.outcome = "line"
            draft = reader.draft(row, ChargeKind(meaning), fields)
        else:
            self._unknown_kind(row, meaning, reader)
        if self._problems.count > before:
            reading.outcome = "problem"
            draft = None
        if draft is not None:
            self._used.append(row.number)
        self._trace.add(reading)
        return draft

    def _by_rule(self, row: Row) -> tuple[str | None, str]:
        for at, (rule, index) in enumerate(self._rules, start=1):
            if rule.applies(plain(row.cell(index).text)):
                return rule.meaning, f"rule {at}: {rule.meaning}"
        return None, ""

    def _fits(self, row: Row) -> bool:
        """Whether a row has as many cells as there are columns, and people who open the file see it."""
        if row.hidden:
            self._problems.add("the row is hidden in the sheet", row=row.number)
            return False
        if self._width is None:
            return self._reaches(row)
        filled = max((at for at, cell in enumerate(row.cells, 1) if not cell.empty), default=0)
        if filled > self._width or len(row.cells) < self._width:
            self._problems.add(
                f"the row has {max(filled, len(row.cells))} cells, but the header names {self._width} columns",
                row=row.number,
            )
            return False
        return True

    def _reaches(self, row: Row) -> bool:
        """Whether a row without a header above it has all the columns that the mapping reads."""
        assert self._reader is not None
        needed = 1 + max(column.index for column in self._reader.columns.values())
        if self._table.rectangular and len(row.cells) < needed:
            self._problems.add(
                f"the row has {len(row.cells)} cells, but the mapping reads {needed}",
                row=row.number,
            )
            return False
        return True

    def _total(self, row: Row, meaning: str, reader: LineReader) -> None:
        field = meaning.replace("-", "_")
        cell = reader.cell(row, "amount")
        if cell.empty:
            reader.missing(row, "amount")
        else:
            self._facts.put(field, cell, f"column {reader.columns['amount']}", row=row.number)

    def _unknown_kind(self, row: Row, meaning: str, reader: LineReader) -> None:
        column = str(reader.columns["kind"])
        kinds = ", ".join(ChargeKind)
        hint = self._conventions.meant("kind", meaning) if self._problems.lists_more() else ""
        self._problems.add(
            f"a text that values.kind translates, or one of {kinds}{hint}",
            row=row.number,
            column=column,
            field="kind",
            raw=meaning,
        )

    def _check_sheet(self) -> None:
        """Refuse hidden columns, and merged cells where lines are read: all but the first are empty, whatever is shown."""
        if self._reader is None:
            return
        for field, column in self._reader.columns.items():
            if any(a <= column.index <= b for a, b in self._table.hidden_columns):
                self._problems.add("is hidden in the sheet", column=str(column), field=field)
        columns = {column.index for column in self._reader.columns.values()}
        used = [*self._used, self._used[-1] + 2**30] if self._used else [2**30]
        for merged in self._table.merged:
            row = used[bisect_left(used, merged.top)]
            if row <= merged.bottom and any(merged.left <= at <= merged.right for at in columns):
                self._problems.add(
                    f"cells {merged.name} are merged, so that only the first has a value; separate them",
                    row=row,
                )

    def _check_found(self) -> None:
        """Refuse a file that lacks what the mapping says it has, as one that was cut off does: its totals, single cells."""
        mapping = self._mapping
        meanings = {rule.meaning for rule in mapping.rows.rules}
        meanings.update(str(value) for value in mapping.values.get("kind", {}).values())
        if self._problems.found():
            return
        for meaning in TOTALS:
            field = meaning.replace("-", "_")
            if meaning in meanings and self._facts.get(field) is None:
                self._problems.add(f"no row is the {meaning} that the mapping expects", field=field)
        for field, address in mapping.cells.items():
            if field in self._missing:
                self._problems.add("is empty", column=f"cell {address}", field=field)


def _listed(titles: Sequence[str]) -> str:
    shown = [quoted(title) for title in titles if title][:12]
    return ", ".join(shown) + (" …" if len(titles) > len(shown) else "") if shown else "none"
