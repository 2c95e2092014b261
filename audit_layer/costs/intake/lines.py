"""From a row to a draft of a line: fields read by column or constant, each problem by its place. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeVar

from audit_layer.costs.charge import TOKENS, USAGE, ChargeKind
from audit_layer.costs.intake import values
from audit_layer.costs.intake.conventions import Conventions
from audit_layer.costs.intake.facts import Facts, shown
from audit_layer.costs.intake.faults import Problems, Unreadable
from audit_layer.costs.intake.forms import INVOICE_FIELDS
from audit_layer.costs.intake.table import Cell, Column, Row
from audit_layer.costs.intake.trace import FieldReading, RowReading

T = TypeVar("T")
MS: Final = 1000
"""A GPU-second's quantity is in milliseconds."""


@dataclass(slots=True)
class Draft:
    """A line as its row states it, before what the whole invoice decides: signs of a credit note, contained tax."""

    row: int
    line_id: str
    kind: ChargeKind
    amount: Decimal
    quantity: int | None = None
    unit_price: Decimal | None = None
    per: int = 1
    tax_rate: Decimal | None = None
    tenant: str | None = None
    node: str | None = None
    model_root: bytes | None = None
    day: date | None = None
    description: str = ""
    correction: bool = False
    """Whether it takes back a line of an earlier period, so that its quantity may be negative."""


class LineReader:
    """Reads rows whose columns are known. What a line does not say, the invoice may say once (`Facts`)."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        conventions: Conventions,
        facts: Facts,
        problems: Problems,
    ) -> None:
        self.columns = columns
        self._conventions = conventions
        self._facts = facts
        self._problems = problems
        self._shared = [name for name in columns if name in INVOICE_FIELDS]
        self._said: dict[str, str] = {}

    def among(self, columns: Mapping[str, Column]) -> "LineReader":
        """Return a reader of the same invoice whose fields are in these columns."""
        reader = LineReader(columns, self._conventions, self._facts, self._problems)
        reader._said = self._said
        return reader

    def kind_text(self, row: Row, trace: RowReading | None) -> str | None:
        """Return what the kind column's text means; None, with a problem noted, where nothing says it."""
        column = self.columns.get("kind")
        if column is None:
            self._problems.add(
                "no rule applies to this row, and no column says its kind", row=row.number
            )
            return None
        text = self.read(
            row, "kind", lambda cell: self._conventions.translated("kind", cell), trace
        )
        if text is None and self.cell(row, "kind").empty:
            self.missing(row, "kind")
        return text

    def draft(
        self,
        row: Row,
        kind: ChargeKind,
        trace: RowReading | None,
        *,
        scale: int | None = None,
        per: int | None = None,
    ) -> Draft | None:
        """Return the row as a line of one kind, or None with its problems noted. `scale`, `per`: where the caller knows them."""
        before = self._problems.count
        amount = self.read(row, "amount", self._conventions.numbers.read, trace)
        if amount is None and self.cell(row, "amount").empty:
            self.missing(row, "amount")
        line_id = self.read(row, "line_id", lambda cell: values.label(values.text_of(cell)), trace)
        if kind in USAGE and "line_id" in self.columns and self.cell(row, "line_id").empty:
            self.missing(row, "line_id")  # a footer's discount or tax seldom has a number
        draft = Draft(row.number, line_id or f"row-{row.number}", kind, amount or Decimal(0))
        if kind in USAGE:
            self._usage(draft, row, trace, scale, per)
        draft.tenant = self._named(row, "tenant", trace)
        draft.node = self._named(row, "node", trace)
        draft.model_root = self._model(row, trace)
        day = self.read(row, "day", self._conventions.days.read, trace) or self._constant("day")
        draft.day = None if day is None else day.day
        draft.tax_rate = self.read(row, "tax_rate", self._conventions.rate, trace)
        if draft.tax_rate is None:
            draft.tax_rate = self._constant("tax_rate")
        draft.description = (
            self.read(
                row, "description", lambda cell: values.description(values.text_of(cell)), trace
            )
            or ""
        )
        for name in self._shared:
            self._share(row, name)
        return draft if self._problems.count == before else None

    def cell(self, row: Row, field: str) -> Cell:
        """Return the cell of a field that has a column."""
        return self._conventions.cell(row.cell(self.columns[field].index))

    def read(
        self, row: Row, field: str, parse: Callable[[Cell], T], trace: RowReading | None
    ) -> T | None:
        """Return a field's value; None where it has no column or its cell is empty, or with the problem noted."""
        column = self.columns.get(field)
        if column is None:
            return None
        cell = self.cell(row, field)
        if cell.fault is not None:
            self._problems.add(cell.fault, row=row.number, column=str(column), field=field)
            return None
        if cell.empty:
            return None
        try:
            value = parse(cell)
        except Unreadable as error:
            hint = self._conventions.meant(field, cell.text) if self._problems.lists_more() else ""
            self._problems.add(
                f"{error}{hint}", row=row.number, column=str(column), field=field, raw=cell.text
            )
            return None
        if trace is not None:
            trace.fields.append(FieldReading(field, f"column {column}", cell.text, shown(value)))
        return value

    def missing(self, row: Row, field: str) -> None:
        """Note that a field that every line needs is empty."""
        column = str(self.columns[field])
        self._problems.add(
            "is empty, but this line needs it", row=row.number, column=column, field=field
        )

    def _usage(
        self, draft: Draft, row: Row, trace: RowReading | None, scale: int | None, per: int | None
    ) -> None:
        numbers = self._conventions.numbers
        price = self.read(row, "unit_price", numbers.read, trace)
        unit = MS if draft.kind is ChargeKind.GPU_SECOND else 1
        scale = scale or unit * self._size(row, "scale", draft.kind, trace)
        draft.unit_price = price
        draft.per = per or unit * self._size(row, "per", draft.kind, trace)

        def tokens(cell: Cell) -> int:
            most = values.MAX_QUANTITY
            what = "a whole number" if scale == 1 else f"a number that × {scale} is whole"
            return values.whole(
                Fraction(numbers.read(cell)) * scale, least=-most, most=most, what=what
            )

        draft.quantity = self.read(row, "quantity", tokens, trace)

    def _size(self, row: Row, field: str, kind: ChargeKind, trace: RowReading | None) -> int:
        """Return how many tokens, requests or GPU-seconds a unit is; a constant says it for tokens alone."""
        found = self.read(row, field, lambda cell: self._conventions.count(field, cell), trace)
        if found is None and kind in TOKENS:
            found = self._constant(field)
        return found or 1

    def _named(self, row: Row, field: str, trace: RowReading | None) -> str | None:
        text = self.read(
            row, field, lambda cell: values.name(self._conventions.translated(field, cell)), trace
        )
        said: str | None = self._constant(field)
        if field == "node":
            return said if text is None else text
        if text is not None and said is not None and text != said:
            column, raw = str(self.columns[field]), self.cell(row, field).text
            self._problems.add(
                f"{said}, as the invoice says", row=row.number, column=column, field=field, raw=raw
            )
        return text

    def _model(self, row: Row, trace: RowReading | None) -> bytes | None:
        forms = self._conventions
        root = self.read(
            row, "model", lambda cell: forms.models.root(forms.translated("model", cell)), trace
        )
        constant: bytes | None = self._constant("model")
        return constant if root is None else root

    def _constant(self, field: str) -> Any:
        return self._facts.get(field)

    def _share(self, row: Row, field: str) -> None:
        """Note what a row says about the whole invoice; a text that was read before is not parsed again."""
        column = self.columns[field]
        cell = self.cell(row, field)
        if self._said.get(field) != cell.text or cell.fault is not None:
            self._said[field] = cell.text
            self._facts.put(field, cell, f"column {column}", row=row.number)
