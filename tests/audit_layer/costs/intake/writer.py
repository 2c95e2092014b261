"""Writes a `BilledInvoice` in any dialect, with the mapping that reads it: an author of its own, for round trips."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import USAGE, ChargeKind
from audit_layer.costs.intake.mapping import InvoiceMapping
from tests.audit_layer.costs.intake.files import workbook

COLUMNS = {
    "line_id": "Pos. n°", "day": "Tag", "tenant": "Kunde", "node": "Rechner", "model": "Modell", "kind": "Art",
    "quantity": "Menge", "unit_price": "Preis", "per": "je", "amount": "Betrag", "description": "Text",
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    form: str
    encoding: str
    delimiter: str
    quote: str
    decimal: str
    thousands: str | None
    negative: str
    date_format: str
    last_day: bool
    preamble: int
    by_number: bool
    order: tuple[str, ...]
    typed: bool
    """Whether a workbook's cells are numbers and dates where they can be, or all text."""

    def number(self, value: Decimal | int) -> Any:
        """Write a number."""
        if self.form == "xlsx" and self.typed and _short(value):
            return float(value) if value % 1 else int(value)
        whole, _, places = format(abs(value), "f").partition(".")
        if self.thousands is not None:
            groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)][::-1]
            whole = self.thousands.join(groups)
        text = f"{whole}{self.decimal}{places}" if places else whole
        if value >= 0:
            return text
        return {"minus": f"-{text}", "trailing-minus": f"{text}-", "parentheses": f"({text})"}[self.negative]  # fmt: skip

    def day(self, value: date) -> Any:
        """Write a day."""
        if self.form == "xlsx" and self.typed:
            return datetime.combine(value, time(0))
        return value.strftime(self.date_format)


def write(invoice: BilledInvoice, dialect: Dialect, zone: str) -> tuple[bytes, InvoiceMapping]:
    """Return the file and its mapping."""
    end = invoice.end - timedelta(days=1) if dialect.last_day else invoice.end
    head = {
        "invoice_id": invoice.invoice_id, "operator": "Firma " + invoice.operator, "issued_at": dialect.day(invoice.issued),
        "period_start": dialect.day(invoice.first), "period_end": dialect.day(end),
        "total": dialect.number(invoice.total),
    }  # fmt: skip
    if invoice.tenant is not None:
        head["tenant"] = invoice.tenant
    if invoice.corrects is not None:
        head["corrects"] = invoice.corrects
    columns = [name for name in dialect.order if not (name == "tenant" and "tenant" in head)]
    names = [COLUMNS[name] for name in columns]
    rows: list[Sequence[Any]] = [
        list(head.values()),
        *([f"Vorspann {at}"] for at in range(dialect.preamble)),
        names,
        *([_field(line, name, dialect) for name in columns] for line in invoice.lines),
        [],
        ["Summe", *[""] * (len(columns) - 2), dialect.number(invoice.total)],
    ]
    given: dict[str, Any] = {
        "format": dialect.form,
        "file": {"encoding": dialect.encoding, "delimiter": dialect.delimiter, "quote": dialect.quote},
        "rows": {"header": dialect.preamble + 2, "last": len(rows) - 2},
        "numbers": {"decimal": dialect.decimal, "thousands": dialect.thousands, "negative": dialect.negative},
        "dates": {
            "formats": [dialect.date_format], "time_zone": zone, "period_end": "last-day" if dialect.last_day else "day-after",
        },
        "columns": {name: at if dialect.by_number else COLUMNS[name] for at, name in enumerate(columns, 1)},
        "cells": {name: f"{chr(65 + at)}1" for at, name in enumerate(head)},
        "constants": {
            "currency": invoice.currency,
            **({"document": "credit-note"} if invoice.corrects is not None else {}),
        },
        "values": {
            "operator": {f"Firma {invoice.operator}": invoice.operator},
            "kind": {f"{line.kind} ({line.kind.upper()})": str(line.kind) for line in invoice.lines},
        },
    }  # fmt: skip
    if dialect.form == "xlsx":
        del given["file"]
    return _file(rows, dialect), InvoiceMapping.model_validate(given)


def placed(invoice: BilledInvoice, dialect: Dialect) -> BilledInvoice:
    """Return the invoice as reading it gives: with the rows of its lines, and the name of the format."""
    first = dialect.preamble + 3
    lines = tuple(replace(line, place=f"row {first + at}") for at, line in enumerate(invoice.lines))
    return replace(invoice, lines=lines, format=dialect.form)


def _short(value: Decimal | int) -> bool:
    """Whether a spreadsheet keeps all digits of a number: it has at most 15."""
    return len(Decimal(value).normalize().as_tuple().digits) <= 15


def _field(line: BilledLine, name: str, dialect: Dialect) -> Any:
    value = line.model_root if name == "model" else getattr(line, name)
    if name == "per" and line.kind not in USAGE:
        return ""
    if value is None:
        return ""
    if name == "kind":
        return f"{line.kind} ({line.kind.upper()})"
    if isinstance(value, bytes):
        return value.hex()
    if line.kind is ChargeKind.GPU_SECOND and name in ("quantity", "per"):
        return dialect.number(Decimal(value).scaleb(-3))  # a file states seconds
    if isinstance(value, date):
        return dialect.day(value)
    return dialect.number(value) if isinstance(value, Decimal | int) else value


def _file(rows: Sequence[Sequence[Any]], dialect: Dialect) -> bytes:
    if dialect.form == "xlsx":
        return workbook([[None if cell == "" else cell for cell in row] for row in rows])
    out = io.StringIO()
    writer = csv.writer(
        out, delimiter=dialect.delimiter, quotechar=dialect.quote, lineterminator="\r\n"
    )
    writer.writerows(rows)
    return out.getvalue().encode(dialect.encoding)
