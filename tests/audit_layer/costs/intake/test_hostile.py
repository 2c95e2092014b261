"""A hostile file is refused with bounded memory, in words that are safe to print; nothing of it is kept."""

import gzip
import io
import os
import tracemalloc
import zipfile
from contextlib import contextmanager

import pytest

from audit_layer.costs.intake import faults, mapped
from audit_layer.costs.intake.limits import MAX_BYTES, MAX_CELL, MAX_COLUMNS, MAX_LISTED
from audit_layer.costs.intake.read import preview, read_invoice
from audit_layer.costs.intake.shown import lines_of
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.intake.files import AMERICAN, AMERICAN_MAPPING, STATED, mapping
from tests.audit_layer.costs.intake.refusals import refusal
from tests.audit_layer.costs.intake.test_focus import focus
from tests.audit_layer.costs.intake.test_xlsx import MAPPING as WORKBOOK_MAPPING
from tests.audit_layer.costs.intake.test_xlsx import with_sheet

CSV = mapping(AMERICAN_MAPPING)


def american(content: bytes | str) -> str:
    data = content if isinstance(content, bytes) else content.encode()
    return refusal(data, mapping=CSV, stated=STATED)


def changed(old: str, new: str) -> str:
    assert old in AMERICAN
    return american(AMERICAN.replace(old, new, 1))


@contextmanager
def memory_below(most: int):
    """Fail when Python allocates more than that within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# -- size ----------------------------------------------------------------------------------------------------


def test_a_file_of_two_gigabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    with memory_below(2**20):
        assert "larger than 64 MiB" in refusal(path, mapping=CSV)


def test_a_file_that_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        assert "cannot be read" in refusal(path, mapping=CSV)


def test_a_gzip_bomb_is_refused_once_it_is_larger_than_a_file_may_be():
    bomb = gzip.compress(bytes(3 * MAX_BYTES))
    assert len(bomb) < 2**20
    with memory_below(3 * MAX_BYTES):
        assert "once decompressed" in refusal(bomb, mapping=CSV)
    assert "gzip data" in refusal(gzip.compress(AMERICAN.encode())[:-9], mapping=CSV)
    assert "is empty" in refusal(gzip.compress(b""), mapping=CSV)


def test_a_zip_bomb_in_a_workbook_is_refused_as_it_grows():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("_rels/.rels", "xl/workbook.xml"):
            archive.writestr(name, b"<a>" + b" " * (3 * MAX_BYTES // 2) + b"</a>")
    assert len(out.getvalue()) < 2**20
    with memory_below(2**24):
        assert "once decompressed" in refusal(out.getvalue(), mapping=mapping(WORKBOOK_MAPPING))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ('<row r="1"><c r="A1" t="str"><v>' + "x" * 2**24 + "</v></c></row>", "characters in one cell"),
        ("<row " + " ".join(f'a{at}="1"' for at in range(400_000)) + "/>", "tag of more than"),
        ("<x>" * 2**20, "elements more than"),
        ("<!--" + "x" * 2**23 + "-->", "tag of more than"),
    ],
    ids=["long cell", "many attributes", "deep", "long comment"],
)  # fmt: skip
def test_xml_that_fills_memory_is_refused(made, named):
    content = with_sheet(made)
    with memory_below(2**26):
        assert named in refusal(content, mapping=mapping(WORKBOOK_MAPPING))


def test_more_merged_cells_than_any_sheet_has_are_refused():
    content = with_sheet("<mergeCell ref='A1:B1'/>" * 80_000)
    assert "merged cells" in refusal(content, mapping=mapping(WORKBOOK_MAPPING))


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(mapped, "MAX_ROWS", 4)
    assert "has more than 4 rows" in american(AMERICAN)


def test_a_row_of_many_cells_and_a_cell_of_many_characters_are_refused():
    assert f"more than {MAX_COLUMNS} cells" in american("a," * (MAX_COLUMNS + 1) + "\n")
    assert f"{MAX_CELL} characters" in american("a" * (MAX_CELL + 1) + "\n")
    assert "line 1" in american("a" * 10_000_000)
    assert "from line 2 on" in american(AMERICAN.split("\n")[0] + '\n"' + "b\n" * 200_000)


# -- text that is none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b" \r\n\t", "is empty"),
        (b"\xef\xbb\xbf", "no row 1"),
        (AMERICAN.encode() + b"\xff\n", "is not utf-8 text"),
        (AMERICAN.encode("utf-16"), "begins as UTF-16"),
        (AMERICAN.encode() + b'"x', "is not CSV with these settings"),
        (AMERICAN.encode() + b'"x"y,\n', "is not CSV with these settings"),
        (AMERICAN.encode().replace(b"L-001", b"L\x00001"), "neither text"),
        (AMERICAN.encode() * 40 + b"\x00", "no column"),
        (b"<html><body>Please log in</body></html>", "no column is named"),
        (b"{}", "no column is named"),
    ],
)  # fmt: skip
def test_what_is_not_csv_is_refused(content, named):
    told = refusal(content, mapping=CSV, stated=STATED)
    assert named in told or "row" in told


def test_a_nul_far_into_the_file_is_refused_with_its_cell():
    padding = "".join(f"X{at},,,,,,,,\n" for at in range(500))
    text = AMERICAN.replace(
        "Total", f"{padding}L\x00001,11/03/2026,ACME Inc.,,,Service credit,,,($1)\nTotal"
    )
    rules = [
        {"column": 1, "begins": "X", "as": "skip"},
        {"column": 1, "equals": "Total", "as": "total"},
    ]
    made = mapping(AMERICAN_MAPPING, rows={"rules": rules})
    told = refusal(text.encode(), mapping=made, stated=STATED)
    assert "line_id: found “L?001”" in told


@pytest.mark.parametrize(
    ("declared", "content"),
    [("cp1252", AMERICAN.encode("utf-8-sig")), ("latin-1", AMERICAN.encode("utf-16")), ("utf-16", AMERICAN.encode("utf-16-le")),
     ("utf-16", AMERICAN.encode("utf-16") + b"\x00"), ("cp1252", AMERICAN.encode() + b"\x81")],
)  # fmt: skip
def test_an_encoding_that_the_file_contradicts_is_refused(declared, content):
    made = mapping(AMERICAN_MAPPING, file={"encoding": declared})
    assert "text" in refusal(content, mapping=made, stated=STATED) or "declared" in refusal(
        content, mapping=made
    )


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"1,234,567,000"', "-5", "quantity: found “-5”"),
        ('"1,234,567,000"', "(5)", "quantity: found “-5”, expected zero or more"),
        ('"1,234,567,000"', "9" * 20, "quantity: found “99999999999999999999”"),
        ('"1,234,567,000"', "9" * 30_000, "expected a number of at most 20 digits"),
        ('"1,234,567,000"', "1.5", "a whole number"),
        ('"1,234,567,000"', "1e9", "quantity: found “1e9”"),
        ('"1,234,567,000"', "NaN", "quantity: found “NaN”"),
        ('"1,234,567,000"', "٣٤", "quantity: found “٣٤”"),
        ("$0.50", "($0.50)", "unit_price: found “-0.50”, expected zero or more"),
        ('"$617.28"', '"$6,17.28"', "amount: found “$6,17.28”"),
        ('"$617.28"', "", "(Amount (USD)), amount: is empty"),
        ('"$617.28"', "$618.29", "amount: found “618.29”, expected 1234567000 × 0.50 / 1000000"),
        ('"$600.00"', "$600.02", "total: found “600.02”, expected 600.00, the sum of all lines"),
        ("($46.09)", "$46.09", "amount: found “46.09”, expected a negative amount"),
        ("L-002", "L-001", "row 3, line_id: found “L-001”, expected a number of its own; row 2"),
        ("L-002", "", "row 3, column A (Line), line_id: is empty"),
        ("L-002", "=1+2", "expected an identifier that no spreadsheet takes for a formula"),
        ("L-002", "L\u202e002", "line_id: found “L?002”"),
        ("L-002", "L\x1b[2J", "line_id: found “L?[2J”"),
        ("L-002", "x" * 129, "1 to 128 printable characters"),
        ("ACME Inc.", "ACME  Ltd.", "tenant: found “ACME  Ltd.”"),
        ("ACME Inc.", "=cmd|' /C calc'!A0", "tenant: found “=cmd|' /C calc'!A0”"),
        ("node-a", "../etc/passwd", "node: found “../etc/passwd”"),
        ("11/03/2026", "13/03/2026", "day: found “13/03/2026”, expected a day written %m/%d/%Y"),
        ("11/03/2026", "11/03/1926", "day: found “11/03/1926”, expected a day in 1970"),
        ("11/03/2026", "02/29/2026", "day: found “02/29/2026”"),
        ("ab" * 32, "ab" * 31, "model: found"),
        ("Output tokens", "Output token", "did you mean “Output tokens”?"),
        ("Output tokens", "", "kind: is empty"),
        ("Line,Date", "Date,Line", "day: found “L-001”"),
        ("Line,Date", "Line,Date,Date", "“Date”: use a number"),
        ("Amount (USD)", "Amount (EUR)", "did you mean “Amount (EUR)”?"),
        ("L-003,11/04/2026", "L-003,11/04/2026,extra", "row 4: the row has 10 cells, but the header names 9"),
        ("L-003,11/04/2026,", "L-003,", "row 4: the row has 8 cells, but the header names 9"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused_by_its_place(old, new, named):
    assert named in changed(old, new)


def test_the_first_problems_are_listed_and_the_others_counted():
    row = "X,99/99/2026,Nobody,NODE,m,Nothing,x,y,z\n"
    content = AMERICAN.split("\n", 1)[0] + "\n" + row.replace("Nothing", "Input tokens") * 100
    with pytest.raises(CounterfoilError) as caught:
        read_invoice(content.encode(), mapping=CSV, stated=STATED)
    lines = caught.value.detail.split("\n")
    assert len(lines) == 1 + MAX_LISTED + 1
    assert lines[0].endswith(f"{caught.value.metadata['problems']} problems:")
    assert int(caught.value.metadata["problems"]) >= 700
    assert lines[-1] == f"  and {int(caught.value.metadata['problems']) - MAX_LISTED} more"
    made = preview(content.encode(), mapping=CSV, stated=STATED, rows=3)
    assert made.invoice is None
    assert made.problem_count == int(caught.value.metadata["problems"])
    assert len(made.rows) == 3


def test_reading_stops_where_there_are_more_problems_than_anyone_will_mend(monkeypatch):
    monkeypatch.setattr(faults, "MAX_PROBLEMS", 30)
    content = AMERICAN.split("\n", 1)[0] + "\n" + "X,x,ACME Inc.,,,Service credit,,,($1)\n" * 100
    assert "and 10 more before row 32, where reading stopped" in american(content)
    rows = [{"BilledCost": "x"}] * 100
    assert "and 10 more before row 32" in refusal(focus(*rows), stated=STATED)
    made = preview(content.encode(), mapping=CSV, stated=STATED)
    assert "  and 10 more before row 32, where reading stopped" in lines_of(made)


def test_a_long_text_is_cut_in_the_message():
    told = changed("ACME Inc.", "A" * 5000)
    assert "A" * 60 + "…”" in told
    assert "A" * 61 not in told


def test_an_invoice_number_that_is_a_formula_is_refused_wherever_it_is_said():
    with pytest.raises(CounterfoilError, match="formula") as caught:
        read_invoice(AMERICAN.encode(), mapping=CSV, stated={**STATED, "invoice_id": "=1"})
    assert caught.value.code is Code.MALFORMED
    assert "formula" in refusal(focus({"InvoiceId": "@x"}), stated={"issued_at": "2026-12-01"})
