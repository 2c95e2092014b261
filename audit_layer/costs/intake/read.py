"""The two functions of this package: `read_invoice`, all or nothing, and `preview`, its dry run.

The format is what the caller or the mapping says, or what the content says beyond doubt: the first bytes of Parquet, the
brace of our own JSON, the header row of FOCUS. Anything else is refused rather than guessed.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit_layer.costs.billed import BilledInvoice
from audit_layer.costs.intake.content import Container, container_of, content_of
from audit_layer.costs.intake.conventions import Conventions
from audit_layer.costs.intake.csv_table import csv_table
from audit_layer.costs.intake.facts import Facts, state
from audit_layer.costs.intake.faults import Problem, Problems, refused
from audit_layer.costs.intake.focus_rows import REQUIRED, FocusRows
from audit_layer.costs.intake.forms import INVOICE_FIELDS, DateForm, NumberForm
from audit_layer.costs.intake.lines import Draft
from audit_layer.costs.intake.mapped import MappedRows
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.ours import billed
from audit_layer.costs.intake.parquet_table import parquet_table
from audit_layer.costs.intake.table import Table
from audit_layer.costs.intake.trace import FieldReading, RowReading, Trace
from audit_layer.costs.intake.values import FocusNumbers, Numbers
from audit_layer.costs.intake.whole import Assembly, outside
from audit_layer.costs.intake.xlsx_table import xlsx_table
from audit_layer.costs.invoices import Invoice

Names = Callable[[str], bytes | None]
"""From a model's name to its root; None for a name that is not known."""


class Format(StrEnum):
    """What an invoice file may be."""

    JSON = "json"
    """Our own format (docs/invoices.md §1)."""
    CSV = "csv"
    XLSX = "xlsx"
    FOCUS = "focus"
    """Cost and Usage rows, as CSV or Parquet."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What reading a file would give. Texts of the file are in it as they are: print them with `shown.lines_of`."""

    format: Format
    invoice: BilledInvoice | None
    """None where anything is wrong."""
    facts: tuple[FieldReading, ...]
    """What was read once for all lines."""
    rows: tuple[RowReading, ...]
    """The first rows of each outcome."""
    counts: Mapping[str, int]
    """Rows by outcome: line, total, skipped, problem."""
    problems: tuple[Problem, ...]
    """The first of them."""
    problem_count: int
    told: tuple[str, ...]
    """The problems in words, safe to print, and how many more there are."""
    notes: tuple[str, ...]
    """What is not wrong, but worth knowing."""


def read_invoice(
    source: bytes | Path,
    *,
    format: Format | None = None,  # noqa: A002  # the word that people use for it
    mapping: InvoiceMapping | None = None,
    names: Names | None = None,
    stated: Mapping[str, str] | None = None,
) -> BilledInvoice:
    """Return the invoice in a file, gzip wrapping removed; all of it or none.

    `stated` says what the file does not, by field (`mapping.STATED`), in canonical form: days as 2026-11-01, numbers as
    1234.50. It replaces constants of the mapping; what the file says as well must be the same.

    Errors: MALFORMED with up to 20 problems, each with its row, column, field, text and what was expected.
    """
    reading = _Reading(names, stated or {}, Trace(most=0))
    invoice = reading.read(content_of(source), format, mapping)
    if invoice is None:
        raise reading.problems.refusal()
    return invoice


def preview(
    source: bytes | Path,
    *,
    format: Format | None = None,  # noqa: A002
    mapping: InvoiceMapping | None = None,
    names: Names | None = None,
    stated: Mapping[str, str] | None = None,
    rows: int = 20,
) -> Preview:
    """Return how a file would be read, with the first `rows` rows of each outcome; nothing else happens.

    Errors: MALFORMED where the file cannot be read at all: its format, its header, its limits. Problems of single rows
    and fields are in the result.
    """
    reading = _Reading(names, stated or {}, Trace(most=rows))
    content = content_of(source)
    invoice = reading.read(content, format, mapping)
    return Preview(
        format=told_format(content, format, mapping),
        invoice=invoice,
        facts=tuple(reading.facts),
        rows=tuple(reading.trace.rows),
        counts=dict(reading.trace.counts),
        problems=tuple(reading.problems.listed),
        problem_count=reading.problems.count,
        told=tuple(reading.problems.told()),
        notes=tuple(reading.trace.notes),
    )


def told_format(
    content: bytes,
    format: Format | None,  # noqa: A002
    mapping: InvoiceMapping | None,
) -> Format:
    """Return the format of a file; MALFORMED where nothing says it, or two things say different ones."""
    found = container_of(content)
    told = Format(mapping.format) if mapping is not None else format
    if told is None:
        told = _evident(content, found)
    if format is not None and format is not told:
        raise refused(f"is to be read as {format.value}, but the mapping is for {told.value}")
    if found not in _CONTAINERS[told]:
        raise refused(f"is to be read as {told.value}, but it is {found.value}")
    if told in (Format.CSV, Format.XLSX) and mapping is None:
        raise refused(
            f"is {told.value}, which needs a mapping: nothing else says what its columns mean"
        )
    return told


_CONTAINERS: Final = {
    Format.JSON: (Container.OBJECT,),
    Format.CSV: (Container.TEXT, Container.OBJECT),
    Format.XLSX: (Container.ZIP,),
    Format.FOCUS: (Container.TEXT, Container.PARQUET),
}


def _evident(content: bytes, found: Container) -> Format:
    match found:
        case Container.OBJECT:
            return Format.JSON
        case Container.PARQUET:
            return Format.FOCUS
        case Container.ZIP:
            return Format.XLSX
        case Container.TEXT if _has_focus_header(content):
            return Format.FOCUS
        case Container.TEXT:
            raise refused(
                "is text, but neither our JSON nor FOCUS; if it is CSV, give a mapping for it"
            )
    raise refused(f"is {found.value}")


def _has_focus_header(content: bytes) -> bool:
    head = content[: 2**16].decode("utf-8-sig", "replace")
    first = head.splitlines()[0] if head.strip() else ""
    return set(REQUIRED) <= set(next(csv.reader([first]), ()))


class _Reading:
    """One file being read."""

    def __init__(self, names: Names | None, stated: Mapping[str, str], trace: Trace) -> None:
        self._names = names
        self._stated = stated
        self.trace = trace
        self.problems = Problems()
        self.facts: list[FieldReading] = []

    def read(
        self,
        content: bytes,
        format: Format | None,  # noqa: A002
        mapping: InvoiceMapping | None,
    ) -> BilledInvoice | None:
        told = told_format(content, format, mapping)
        if told is Format.JSON:
            return self._json(content)
        if told is Format.FOCUS:
            return self._focus(content, mapping)
        assert mapping is not None
        return self._mapped(content, told, mapping)

    def _json(self, content: bytes) -> BilledInvoice:
        if self._stated:
            raise refused(
                "is our own format, which says everything itself: state nothing beside it"
            )
        invoice = billed(Invoice.parse(content))
        for line in invoice.lines:
            self.trace.add(RowReading(int(line.place[6:-1]), "line", line.place))
        self._note(invoice)
        return invoice

    def _focus(self, content: bytes, mapping: InvoiceMapping | None) -> BilledInvoice | None:
        mapping = mapping or InvoiceMapping(format="focus")
        dates = mapping.dates.model_copy(
            update={"formats": ("rfc3339",), "period_end": "day-after"}
        )
        conventions = self._conventions(mapping, FocusNumbers(), dates)
        facts = self._facts_of(conventions, mapping)
        table = _focus_table(content)
        rows = FocusRows(table, mapping.columns, conventions, facts, self.problems, self.trace)
        return self._assembled(list(rows.drafts()), facts, mapping, dates, table, "focus")

    def _mapped(
        self, content: bytes, told: Format, mapping: InvoiceMapping
    ) -> BilledInvoice | None:
        for field in self._stated:
            if field in mapping.columns and field not in INVOICE_FIELDS:
                self.problems.add("is stated, but the mapping has a column for it", field=field)
        file = mapping.file
        table = (
            xlsx_table(content, file.sheet)
            if told is Format.XLSX
            else csv_table(
                content, encoding=file.encoding, delimiter=file.delimiter, quote=file.quote
            )
        )
        conventions = self._conventions(mapping, Numbers(mapping.numbers), mapping.dates)
        facts = self._facts_of(conventions, mapping)
        rows = MappedRows(table, mapping, conventions, facts, self.problems, self.trace)
        return self._assembled(
            list(rows.drafts()), facts, mapping, mapping.dates, table, told.value
        )

    def _conventions(
        self, mapping: InvoiceMapping, numbers: Numbers, dates: DateForm
    ) -> Conventions:
        return Conventions(
            file=mapping.file,
            numbers=numbers,
            dates=dates,
            translations=mapping.values,
            names=self._names,
        )

    def _facts_of(self, conventions: Conventions, mapping: InvoiceMapping) -> Facts:
        facts = Facts(conventions, self.problems)
        self.facts = facts.readings
        state(facts, mapping.constants, self._stated, self.problems)
        return facts

    def _assembled(
        self,
        drafts: list[Draft],
        facts: Facts,
        mapping: InvoiceMapping,
        dates: DateForm,
        table: Table,
        format_name: str,
    ) -> BilledInvoice | None:
        numbers = NumberForm() if format_name == "focus" else mapping.numbers
        assembly = Assembly(
            facts,
            self.problems,
            numbers=numbers,
            dates=dates,
            tax=mapping.tax,
            format_name=format_name,
        )
        invoice = assembly.invoice(drafts)
        self.trace.notes.extend(table.notes)
        if invoice is not None:
            if facts.get("total") is None:
                self.trace.notes.append("no total is stated: it is the sum of the lines")
            self._note(invoice)
        return invoice

    def _note(self, invoice: BilledInvoice) -> None:
        if late := outside(invoice):
            self.trace.notes.append(
                f"{late} lines are for days outside the period; reconciliation shows them as timing"
            )


def _focus_table(content: bytes) -> Table:
    if container_of(content) is not Container.PARQUET:
        return csv_table(content, encoding="utf-8", delimiter=",", quote='"')
    return parquet_table(content)
