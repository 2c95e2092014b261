"""A workbook is read as people see it: by its typed cells, on the sheet that is visible; what nobody sees is refused."""

import contextlib
import io
import re
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal

import pytest

from audit_layer.costs.intake.limits import MAX_COLUMNS, MAX_PARTS
from audit_layer.costs.intake.read import Format, preview, read_invoice
from audit_layer.costs.intake.xlsx_table import xlsx_table
from shared.runtime.errors import CounterfoilError
from tests.audit_layer.costs.intake.files import (
    AMERICAN_MAPPING,
    MODELS,
    SMALL,
    mapping,
    rebuilt,
    with_shared_strings,
    workbook,
)
from tests.audit_layer.costs.intake.refusals import malformed, refusal

ROWS = [
    ["Invoice", "INV-77", None, "issued", datetime(2026, 12, 1)],  # noqa: DTZ001
    [],
    ["No", "Date", "Model", "What", "Tokens", "Rate", "Amount"],
    [1, datetime(2026, 11, 3), "small-7b", "input", 1_234_567_000, 0.5, 617.28],  # noqa: DTZ001
    [2, date(2026, 11, 4), "small-7b", "output", 12_000_000, 2.4, 28.8],
    [3, "2026-11-05", "small-7b", "cached", 200_500, "0.05", "0.01"],
    ["Total", None, None, None, None, None, 646.09],
]
MAPPING = {
    "format": "xlsx",
    "rows": {"header": 3, "rules": [{"column": "No", "equals": "Total", "as": "total"}]},
    "dates": {"period_end": "day-after"},
    "columns": {
        "line_id": "No",
        "day": "Date",
        "model": "Model",
        "kind": "What",
        "quantity": "Tokens",
        "unit_price": "Rate",
        "amount": "Amount",
    },
    "cells": {"invoice_id": "B1", "issued_at": "E1"},
    "constants": AMERICAN_MAPPING["constants"],
}


def read(content: bytes, **changes):
    return read_invoice(content, mapping=mapping(MAPPING, **changes), names=MODELS.get)


def refused(content: bytes, **changes) -> str:
    return refusal(content, mapping=mapping(MAPPING, **changes), names=MODELS.get)


def with_sheet(sheet_data: str, around: str = "{}") -> bytes:
    """A workbook whose sheet holds this XML."""
    body = around.format(f"<sheetData>{sheet_data}</sheetData>")
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    xml = f'<worksheet xmlns="{main}">{body}</worksheet>'
    return rebuilt(workbook([[1]]), lambda n, d: xml.encode() if n.endswith("sheet1.xml") else d)


def cells(sheet_data: str) -> list[list[tuple[str, object]]]:
    table = xlsx_table(with_sheet(sheet_data), None)
    return [
        [(cell.text, cell.number or cell.fault or cell.moment) for cell in row.cells]
        for row in table.rows
    ]


def test_a_workbook_is_read_with_its_dates_and_numbers():
    invoice = read(workbook(ROWS))
    assert (invoice.invoice_id, invoice.issued, invoice.format) == (
        "INV-77",
        date(2026, 12, 1),
        "xlsx",
    )
    assert [line.line_id for line in invoice.lines] == ["1", "2", "3"]
    assert [line.day for line in invoice.lines] == [date(2026, 11, n) for n in (3, 4, 5)]
    assert [line.quantity for line in invoice.lines] == [1_234_567_000, 12_000_000, 200_500]
    assert [line.unit_price for line in invoice.lines] == [
        Decimal(text) for text in ("0.5", "2.4", "0.05")
    ]
    assert [line.amount for line in invoice.lines] == [
        Decimal(text) for text in ("617.28", "28.8", "0.01")
    ]
    assert invoice.lines[0].model_root == SMALL
    assert invoice.lines[0].place == "row 4"
    assert (invoice.total, invoice.rounding) == (Decimal("646.09"), 0)


def test_a_format_of_a_workbook_needs_no_word_but_a_mapping():
    assert "needs a mapping" in refusal(workbook(ROWS))
    assert "is to be read as focus" in refusal(workbook(ROWS), format=Format.FOCUS)


# -- numbers and dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        ("0.1", "0.1"),
        ("0.10000000000000001", "0.1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("617.27999999999997", "617.28"),
        ("1E-6", "0.000001"),
        ("1.2345E+3", "1234.5"),
        ("1234567000", "1234567000"),
        ("1e15", "1000000000000000"),
        ("-0.0", "0"),
        ("5.", "5"),
    ],
)
def test_a_number_is_the_shortest_decimal_of_its_double(stored, value):
    [[(text, number)]] = cells(f'<row r="1"><c r="A1"><v>{stored}</v></c></row>')
    assert (number or Decimal(0)) == Decimal(value)
    assert text == value


@pytest.mark.parametrize("stored", ["0,1", "NaN", "INF", "1e", "0x1", "1 2", "٣", "1" * 50])
def test_a_number_that_is_none_is_refused(stored):
    assert "number is written" in malformed(
        lambda: cells(f'<row r="1"><c r="A1"><v>{stored}</v></c></row>')
    )


def test_a_number_beyond_every_double_is_a_cell_that_cannot_be_read():
    [[(_, fault)]] = cells('<row r="1"><c r="A1"><v>1e400</v></c></row>')
    assert "too large" in str(fault)


def test_days_count_from_1904_where_the_workbook_says_so():
    import openpyxl
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    book = openpyxl.Workbook()
    book.epoch = CALENDAR_MAC_1904
    for row in ROWS:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    assert read(with_shared_strings(out.getvalue())) == read(workbook(ROWS))
    assert read(out.getvalue()) == read(workbook(ROWS))


def test_a_plain_number_is_no_date_and_a_date_no_amount():
    rows = [list(row) for row in ROWS]
    rows[3][1], rows[4][6] = 46_329, datetime(2026, 11, 4)  # noqa: DTZ001
    told = refused(workbook(rows))
    assert "row 4, column B (Date), day: found “46329”, expected a date" in told
    assert "row 5, column G (Amount), amount: found “2026-11-04 00:00:00”" in told


@pytest.mark.parametrize("serial", ["59", "-1", "2958466", "1e300"])
def test_a_day_that_never_was_cannot_be_read(serial):
    content = rebuilt(
        workbook(ROWS),
        lambda _, data: data.replace(b"<v>46329</v>", f"<v>{serial}</v>".encode()),
    )
    assert "row 4, column B (Date), day: holds the day" in refused(content)


def test_a_tax_rate_that_is_shown_in_percent_is_in_percent():
    def show(sheet):
        sheet["F1"].value, sheet["F1"].number_format = 0.19, "0%"
        sheet["G1"].value, sheet["G1"].number_format = 0.07, '0.00" %"'

    gross = {"tax": {"amounts": "gross", "unit_prices": "gross"}}
    content = workbook(ROWS, change=show)
    assert read(content, cells={"tax_rate": "F1"}, **gross).lines[0].unit_price == Decimal(
        "0.420168067227"
    )
    assert read(content, cells={"tax_rate": "G1"}, **gross).lines[0].unit_price == Decimal(
        "0.499650244829"
    )


# -- what people do not see ----------------------------------------------------------------------------------


def test_a_formula_counts_by_its_stored_result():
    rows = [list(row) for row in ROWS]
    rows[4][6] = "=2*14.4"

    def stored(result: str) -> bytes:
        made = re.compile(rb"(<f>2\*14.4</f>)<v ?/>|(<f>2\*14.4</f>)<v></v>")
        return rebuilt(
            workbook(rows), lambda _, data: made.sub(rf"<f>2*14.4</f>{result}".encode(), data)
        )

    assert read(stored("<v>28.8</v>")) == read(workbook(ROWS))
    told = refused(stored(""))
    assert "row 5, column G (Amount), amount: is a formula without a stored result" in told


def test_an_error_value_is_refused():
    rows = [list(row) for row in ROWS]
    rows[3][4] = "#REF!"
    assert "row 4, column E (Tokens), quantity: holds the error value “#REF!”" in refused(
        workbook(rows)
    )


def test_merged_cells_where_lines_are_read_are_refused():
    told = refused(workbook(ROWS, change=lambda sheet: sheet.merge_cells("B4:B6")))
    assert "cells B4:B6 are merged" in told
    for harmless in ("A1:A2", "J4:K6", "A7:F7"):
        content = workbook(ROWS, change=lambda sheet, at=harmless: sheet.merge_cells(at))
        assert len(read(content).lines) == 3


def test_hidden_sheets_are_not_read():
    content = workbook(ROWS, Old="hidden", Older="veryHidden")
    assert read(content) == read(workbook(ROWS))
    notes = preview(content, mapping=mapping(MAPPING), names=MODELS.get).notes
    assert any("“Old”, “Older”" in note for note in notes)
    assert "hidden: nobody" in refused(content, file={"sheet": "Old"})


def test_of_several_visible_sheets_one_must_be_named():
    content = workbook(ROWS, Notes="visible")
    assert "has 2 visible sheets (“Lines”, “Notes”)" in refused(content)
    assert read(content, file={"sheet": "Lines"}) == read(workbook(ROWS))
    assert "has no sheet “Linse”" in refused(content, file={"sheet": "Linse"})


def test_a_hidden_row_or_column_is_refused_where_it_is_read():
    def hide_row(sheet):
        sheet.row_dimensions[5].hidden = True

    def hide_column(sheet):
        sheet.column_dimensions["G"].hidden = True

    assert "row 5: the row is hidden" in refused(workbook(ROWS, change=hide_row))
    assert "column G (Amount), amount: is hidden" in refused(workbook(ROWS, change=hide_column))


def test_a_formula_in_a_text_is_text_and_stays_harmless():
    rows = [list(row) for row in ROWS]
    rows[2].append("Remark")
    rows[3].append("x")

    def inject(sheet):
        sheet["H4"].value = '=HYPERLINK("http://x")'
        sheet["H4"].data_type = "s"

    content = workbook(rows, change=inject)
    invoice = read(content, columns={"description": "Remark"})
    assert invoice.lines[0].description.startswith("'=HYPERLINK")


# -- damaged and hostile -------------------------------------------------------------------------------------


def test_entities_and_document_types_are_refused_before_they_can_grow():
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'

    def doctype(part: str) -> Callable[[str, bytes], bytes]:
        return lambda name, data: bomb + data[data.find(b"<", 5) :] if name.endswith(part) else data

    for part in (
        "sheet1.xml",
        "workbook.xml",
        "sharedStrings.xml",
        "styles.xml",
        "workbook.xml.rels",
    ):
        assert "document type" in refused(rebuilt(workbook(ROWS), doctype(part)))


@pytest.mark.parametrize(
    "part", ["xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/styles.xml"]
)  # fmt: skip
@pytest.mark.parametrize("data", [b"", b"<a>", b"\x00", None, b"<worksheet/>"])
def test_a_part_that_is_missing_or_no_xml_is_refused_or_empty(part, data):
    content = rebuilt(workbook(ROWS), lambda name, old: data if name == part else old)
    refused(content)


@pytest.mark.parametrize(
    "sheet_data",
    [
        '<row r="2"/><row r="1"/>',
        '<row r="0"/>',
        '<row r="x"/>',
        '<row r="99999999999"/>',
        '<row r="1048577"/>',
        '<row r="1"><c r="B1"/><c r="A1"/></row>',
        '<row r="1"><c r="A1"/><c r="A1"/></row>',
        '<row r="1"><c r="A2"/></row>',
        '<row r="1"><c r="1A"/></row>',
        f'<row r="1"><c r="ZZZ1"/></row>{MAX_COLUMNS}',
        '<row r="1"><c t="s"><v>7</v></c></row>',
        '<row r="1"><c t="s"><v>-1</v></c></row>',
        '<row r="1"><c t="s"><v>a</v></c></row>',
        '<row r="1"><c s="1e9"><v>1</v></c></row>',
        '<row r="1"><c t="str"><v>' + "x" * 32_768 + "</v></c></row>",
        "<a>" * 100 + "</a>" * 100,
    ],
)
def test_a_sheet_that_no_spreadsheet_writes_is_refused(sheet_data):
    malformed(lambda: cells(sheet_data))


def test_a_number_format_longer_than_any_is_refused_before_it_is_looked_at():
    def long(name: str, data: bytes) -> bytes:
        formats = f'<numFmts><numFmt numFmtId="200" formatCode="{"[" * 200_000}"/></numFmts><fonts'
        return data.replace(b"<fonts", formats.encode(), 1) if name == "xl/styles.xml" else data

    assert "number format of more than" in refused(rebuilt(workbook(ROWS), long))


def test_cells_of_every_kind_are_read_or_said_to_be_unreadable():
    [row] = cells(
        '<row><c><v>1</v></c><c t="str"><f>A1</f><v>x</v></c><c t="inlineStr"><is><r><t>a</t></r><r><t>b</t></r>'
        '<rPh><t>hint</t></rPh></is></c><c t="b"><v>1</v></c><c t="e"><v>#N/A</v></c><c t="d"><v>2026-11-03</v></c>'
        '<c/><c t="d"><v>soon</v></c><c><f>1/3</f></c></row>'
    )
    assert [text for text, _ in row] == ["1", "x", "ab", "TRUE", "", "2026-11-03", "", "", ""]
    assert "error value" in str(row[4][1])
    assert row[5][1] == datetime(2026, 11, 3)  # noqa: DTZ001
    assert "cannot be read" in str(row[7][1])
    assert "without a stored result" in str(row[8][1])


def test_strict_namespaces_are_read_alike():
    def strict(_: str, data: bytes) -> bytes:
        return data.replace(
            b"http://schemas.openxmlformats.org/spreadsheetml/2006/main",
            b"http://purl.oclc.org/ooxml/spreadsheetml/main",
        ).replace(
            b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
            b"http://purl.oclc.org/ooxml/officeDocument/relationships",
        )

    assert read(rebuilt(workbook(ROWS), strict)) == read(workbook(ROWS))


def test_two_parts_of_one_name_are_refused():
    with pytest.warns(UserWarning, match="Duplicate"):
        content = rebuilt(
            workbook(ROWS), lambda _, data: data, **{"xl/worksheets/sheet1.xml": b"<x/>"}
        )
    assert "two parts of one name" in refused(content)
    content = rebuilt(workbook(ROWS), lambda _, data: data, **{"XL/worksheets/sheet1.xml": b"<x/>"})
    assert "two parts of one name" in refused(content)


def test_the_workbook_is_the_one_that_a_spreadsheet_opens():
    def moved(name: str, data: bytes) -> bytes:
        return (
            data.replace(b"xl/workbook.xml", b"xl/workbook2.xml") if name == "_rels/.rels" else data
        )

    content = workbook(ROWS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {
            "xl/workbook2.xml": archive.read("xl/workbook.xml"),
            "xl/_rels/workbook2.xml.rels": archive.read("xl/_rels/workbook.xml.rels"),
        }
    made = rebuilt(content, moved, **parts)
    assert read(rebuilt(made, lambda n, d: b"<x/>" if n == "xl/workbook.xml" else d)) == read(
        content
    )
    assert "no .xlsx workbook" in refused(rebuilt(content, moved))


@pytest.mark.parametrize("kind", ["styles", "sharedStrings"])
def test_two_tables_of_styles_or_strings_are_refused(kind):
    def doubled(name: str, data: bytes) -> bytes:
        more = f'<Relationship Type="x/{kind}" Target="x.xml" Id="x"/></Relationships>'
        return (
            data.replace(b"</Relationships>", more.encode())
            if "workbook.xml.rels" in name
            else data
        )

    assert f"“{kind}” is in it twice" in refused(rebuilt(workbook(ROWS), doubled))


def test_elements_that_no_spreadsheet_heeds_say_nothing():
    [row] = cells(
        '<row r="1" xmlns:x="urn:x" x:r="9"><x:c><v>1</v></x:c><c r="A1" x:t="e"><x:v>2</x:v><v>3</v></c>'
        '<x:row r="2"><c><v>4</v></c></x:row><x:mergeCell ref="?"/></row>'
    )
    assert [text for text, _ in row] == ["3"]


def test_an_archive_of_another_kind_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    assert "no .xlsx workbook" in refused(out.getvalue())
    assert "damaged ZIP" in refused(b"PK\x03\x04" + bytes(100))
    assert "damaged" in refused(workbook(ROWS)[:-200])


def test_too_many_parts_are_refused_before_they_are_listed():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for at in range(MAX_PARTS + 1):
            archive.writestr(f"{at}", b"")
    assert "parts" in refused(out.getvalue())


def test_every_truncation_and_a_flipped_byte_are_refused_or_read_but_never_a_crash():
    content = workbook(ROWS)
    for at in range(0, len(content), 97):
        flipped = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
        for broken in (content[:at], flipped):
            with contextlib.suppress(CounterfoilError):
                read(broken)
