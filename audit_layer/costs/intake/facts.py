"""What an invoice says once for all its lines: number, operator, period, totals. Every source must say the same. Pure."""

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

from audit_layer.costs.intake import values
from audit_layer.costs.intake.conventions import Conventions
from audit_layer.costs.intake.faults import Problems, Unreadable
from audit_layer.costs.intake.forms import DOCUMENTS, STATED
from audit_layer.costs.intake.table import Cell
from audit_layer.costs.intake.trace import FieldReading

_TEXTS: Final[Mapping[str, Callable[[str], str]]] = {
    "invoice_id": values.label,
    "corrects": values.label,
    "operator": values.name,
    "tenant": values.name,
    "node": values.name,
    "currency": values.currency,
}
_DAYS: Final = frozenset({"period_start", "period_end", "issued_at", "day"})
_AMOUNTS: Final = frozenset({"total", "net_total", "tax_total"})
_COUNTS: Final = frozenset({"scale", "per"})


class Facts:
    """Values by field; a second, different one for a field is a problem."""

    def __init__(self, conventions: Conventions, problems: Problems) -> None:
        self._conventions = conventions
        self._problems = problems
        self._values: dict[str, tuple[Any, str]] = {}
        self.readings: list[FieldReading] = []

    def put(
        self, field: str, cell: Cell, source: str, *, row: int | None = None, ours: bool = False
    ) -> None:
        """Read a field from a cell; `ours` for text in canonical form (a constant, what the caller states)."""
        if cell.fault is not None:
            self._problems.add(cell.fault, row=row, column=source, field=field)
            return
        if cell.empty:
            return
        try:
            value = self.parsed(field, cell, ours=ours)
        except Unreadable as error:
            self._problems.add(
                str(error), row=row, column=source if row else None, field=field, raw=cell.text
            )
            return
        self.set(field, value, source, raw=cell.text, row=row)

    def set(
        self, field: str, value: object, source: str, *, raw: str, row: int | None = None
    ) -> None:
        """Note a value that was read; a different one than before is a problem."""
        known = self._values.get(field)
        where = source if row is None else f"row {row}"
        if known is None:
            self._values[field] = (value, where)
            self.readings.append(FieldReading(field, source, raw, shown(value)))
        elif known[0] != value:
            self._problems.add(
                f"{shown(known[0])}, which {known[1]} says", row=row, field=field, raw=raw
            )

    def parsed(self, field: str, cell: Cell, *, ours: bool) -> Any:
        """Return the value of one field, or raise `Unreadable`."""
        forms = self._conventions
        if field in _DAYS:
            return (forms.our_days if ours else forms.days).read(cell)
        if field in _AMOUNTS:
            return (values.PLAIN_NUMBERS if ours else forms.numbers).read(cell)
        if field == "tax_rate":
            return forms.rate(cell, ours=ours)
        if field in _COUNTS:
            return forms.count(field, cell, ours=ours)
        text = values.text_of(cell) if ours else forms.translated(field, cell)
        if field == "model":
            return forms.models.root(text)
        if field == "document":
            if text not in DOCUMENTS:
                raise Unreadable(" or ".join(DOCUMENTS))
            return text
        return _TEXTS[field](text)

    def get(self, field: str) -> Any:
        """Return a field's value, or None."""
        known = self._values.get(field)
        return None if known is None else known[0]

    def required(self, field: str) -> Any:
        """Return a field's value; note a problem and return None where nothing says it."""
        value = self.get(field)
        if value is None and field not in {problem.field for problem in self._problems.listed}:
            self._problems.add(
                "is stated nowhere: map a column, a cell or a constant to it, or state it with the file",
                field=field,
            )
        return value


def state(
    facts: Facts, constants: Mapping[str, str | int], stated: Mapping[str, str], problems: Problems
) -> None:
    """Put what the caller states, and the mapping's constants for what the caller does not."""
    for field, text in stated.items():
        if field in STATED:
            facts.put(field, Cell(str(text).strip()), "stated", ours=True)
        else:
            problems.add(f"one of {', '.join(STATED)}", field="stated", raw=field)
    for field, constant in constants.items():
        if field not in stated:
            facts.put(field, Cell(str(constant).strip()), "constant", ours=True)


def shown(value: object) -> str:
    """Return a value as a dry run shows it."""
    if isinstance(value, values.Day):
        return value.day.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.hex() if isinstance(value, bytes) else str(value)
