"""Invoices as operators send them, and the mappings that read them."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from audit_layer.costs.intake.mapping import InvoiceMapping

Change = Callable[[str, bytes], bytes | None]
SMALL, LARGE = b"\xab" * 32, b"\xcd" * 32
MODELS = {"small-7b": SMALL, "Large 70B": LARGE}

GERMAN = """Rechnungssteller;GPU-Kontor Hinz & Söhne GmbH;;;;;;
Rechnung Nr.;RE-2026/0117;;Datum;02.12.2026;;;
Leistungszeitraum;01.11.2026;bis;30.11.2026;;;;

Pos.;Datum;Modell;Leistung;Menge (Tsd. Token);Preis je Mio.;Betrag €;Bemerkung
1;03.11.2026;small-7b;Eingabe-Token;1.234.567,000;0,50;617,28;"Los 1; Nacht"
2;03.11.2026;small-7b;Eingabe-Token (Cache);200,5;0,05;0,01;
3;04.11.2026;Large 70B;Ausgabe-Token;12.000,000;2,40;28,80;"sehr ""schnell"" gewesen"
;;;;;;;
;;;Mengenrabatt 10 %;;;-64,61;
;;;Zwischensumme netto;;;581,48;
;;;Umsatzsteuer 19 %;;;110,48;
;;;Gesamtbetrag;;;691,96;
""".replace("\n", "\r\n")

GERMAN_MAPPING: dict[str, Any] = {
    "format": "csv",
    "file": {"encoding": "cp1252", "delimiter": ";"},
    "rows": {
        "header": 5,
        "rules": [
            {"column": "Leistung", "begins": "Mengenrabatt", "as": "discount"},
            {"column": "Leistung", "equals": "Zwischensumme netto", "as": "net-total"},
            {"column": "Leistung", "begins": "Umsatzsteuer", "as": "tax"},
            {"column": "Leistung", "equals": "Gesamtbetrag", "as": "total"},
        ],
    },
    "numbers": {"decimal": ",", "thousands": "."},
    "dates": {"formats": ["%d.%m.%Y"], "time_zone": "Europe/Berlin", "period_end": "last-day"},
    "columns": {
        "day": "Datum", "model": "Modell", "kind": "Leistung", "quantity": "Menge (Tsd. Token)",
        "unit_price": "Preis je Mio.", "amount": "Betrag €", "description": "Bemerkung",
    },
    "cells": {"operator": "B1", "invoice_id": "B2", "issued_at": "E2", "period_start": "B3", "period_end": "D3"},
    "constants": {"currency": "EUR", "scale": 1000, "per": 1_000_000, "tenant": "acme"},
    "values": {
        "kind": {"Eingabe-Token": "input", "Eingabe-Token (Cache)": "cached", "Ausgabe-Token": "output"},
        "operator": {"GPU-Kontor Hinz & Söhne GmbH": "hinz"},
    },
}  # fmt: skip

AMERICAN = """Line,Date,Customer,Node,Model,Usage Type,Tokens,Rate per 1M,Amount (USD)
L-001,11/03/2026,ACME Inc.,node-a,{small},Input tokens,"1,234,567,000",$0.50,"$617.28"
L-002,11/03/2026,ACME Inc.,node-a,{small},Cached input,"200,500",$0.05,$0.01
L-003,11/04/2026,ACME Inc.,node-b,{small},Output tokens,"12,000,000",$2.40,$28.80
L-004,11/30/2026,ACME Inc.,,,Service credit,,,($46.09)
Total,,,,,,,,"$600.00"
""".format(small=SMALL.hex())

AMERICAN_MAPPING: dict[str, Any] = {
    "format": "csv",
    "rows": {"rules": [{"column": 1, "equals": "Total", "as": "total"}]},
    "numbers": {"thousands": ",", "negative": "parentheses", "units": ["$"]},
    "dates": {"formats": ["%m/%d/%Y"], "time_zone": "America/New_York", "period_end": "day-after"},
    "columns": {
        "line_id": "Line", "day": "Date", "tenant": "Customer", "node": "Node", "model": "Model", "kind": "Usage Type",
        "quantity": "Tokens", "unit_price": 8, "amount": "Amount (USD)",
    },
    "constants": {
        "operator": "beta", "currency": "USD", "per": 1_000_000, "period_start": "2026-11-01",
        "period_end": "2026-12-01",
    },
    "values": {
        "kind": {
            "Input tokens": "input", "Cached input": "cached", "Output tokens": "output", "Service credit": "credit",
        },
        "tenant": {"ACME Inc.": "acme"},
    },
}  # fmt: skip
STATED = {"invoice_id": "INV-77", "issued_at": "2026-12-01"}


def mapping(given: Mapping[str, Any], /, **changes: Any) -> InvoiceMapping:
    """A mapping with some of its tables changed: a table's keys are added, `...` removes a key or a table."""
    made = dict(given)
    for name, change in changes.items():
        if change is ...:
            del made[name]
        elif isinstance(change, Mapping):
            table = {**made.get(name, {}), **change}
            made[name] = {key: value for key, value in table.items() if value is not ...}
        else:
            made[name] = change
    return InvoiceMapping.model_validate(made)


def workbook(
    rows: Sequence[Sequence[Any]], *, title: str = "Lines", change: Any = None, **sheets: str
) -> bytes:
    """An .xlsx file of another author's making; `sheets` are further ones by name and state."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = title
    for row in rows:
        sheet.append(list(row))
    for name, state in sheets.items():
        book.create_sheet(name).sheet_state = state
    if change is not None:
        change(sheet)
    out = io.BytesIO()
    book.save(out)
    return with_shared_strings(out.getvalue())


def rebuilt(content: bytes, change: Change, **added: bytes) -> bytes:
    """The same archive with its parts changed by name; None leaves one out."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
        for name, data in added.items():
            new.writestr(name, data)
    return out.getvalue()


def with_shared_strings(content: bytes) -> bytes:
    """The same workbook with its strings in a part of their own, as Excel writes them."""
    strings: list[str] = []

    def taken(found: re.Match[str]) -> str:
        strings.append(found[1])
        return f't="s"><v>{len(strings) - 1}</v>'

    def change(name: str, data: bytes) -> bytes:
        text = data.decode()
        if name.startswith("xl/worksheets/"):
            text = re.sub(r't="inlineStr"><is><t[^>]*>([^<]*)</t></is>', taken, text)
        if name == "xl/_rels/workbook.xml.rels":
            relation = '<Relationship Type="x/sharedStrings" Target="sharedStrings.xml" Id="rIdS"/>'
            text = text.replace("</Relationships>", f"{relation}</Relationships>")
        return text.encode()

    if b"sharedStrings" in zipfile.ZipFile(io.BytesIO(content)).read("xl/_rels/workbook.xml.rels"):
        return content
    made = rebuilt(content, change)
    items = "".join(f"<si><t>{text}</t></si>" for text in strings)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    part = f'<sst xmlns="{main}">{items}</sst>'.encode()
    return rebuilt(made, lambda _, data: data, **{"xl/sharedStrings.xml": part})
