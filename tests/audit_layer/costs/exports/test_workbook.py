"""The workbook as openpyxl, another author's reader, finds it."""

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from zipfile import ZipFile

import openpyxl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.exports import summary, workbook
from audit_layer.costs.exports.manifest import verify
from audit_layer.costs.exports.summary import NO_MODEL, OTHERS, Summary
from audit_layer.costs.exports.table import decimal_text
from audit_layer.costs.exports.workbook import write_workbook
from shared.runtime.errors import CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, MONTH, charge, charges

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "http://example.com",
    "internal:Lines!A1",
    "{=1}",
    "007",
    "1E5",
    "TRUE",
    "  =1",
]


def sheets(path):
    return openpyxl.load_workbook(path)


def rows(sheet):
    header, *found = sheet.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in found]


def table(sheet, title):
    """The table of the summary under a title, as {text: (shown, exact)}."""
    found, inside = {}, False
    for text, shown, exact in sheet.iter_rows(min_col=1, max_col=3, values_only=True):
        if inside and text is None:
            return found
        if inside:
            found[text] = (shown, exact)
        inside = inside or (text, shown) == title
    return found


def test_lines_show_a_rounded_amount_and_the_exact_one_beside_it_as_text(tmp_path):
    path = tmp_path / "a.xlsx"
    exact = Decimal("0.000123456789012345")
    found = [
        charge(quantity=1, unit_price=exact, per=1),
        charge(currency="JPY", quantity=10**7, per=1),
        charge(currency="GPUTOKEN", per=1),
    ]
    manifest = write_workbook(path, found, ABOUT, KEY)
    assert verify(path, KEY.public_key()) == manifest
    lines = sheets(path)["Lines"]
    one, yen, token = rows(lines)
    assert (one["Amount"], one["Amount (exact)"]) == (0.000123, "0.000123456789012345")
    assert (yen["Amount"], yen["Amount (exact)"]) == (6_000_000, "6000000.0")
    assert token["Amount (exact)"] == "720.0"
    formats = [lines.cell(row, 13).number_format for row in (2, 3, 4)]
    assert formats == ['#,##0.000000 "EUR"', '#,##0.0000 "JPY"', '#,##0.0000000000 "GPUTOKEN"']
    assert lines.freeze_panes == "A2"
    assert lines.column_dimensions["N"].width > 20
    assert one["Team"] == "acme"
    assert one["Receipt"] == found[0].receipt.hex()


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_is_a_string_and_no_cell_is_a_formula_or_a_link(tmp_path, text):
    path = tmp_path / "a.xlsx"
    write_workbook(
        path,
        [charge(tenant=text, model_name=text, reason=text, tags={"team": text}, node=text)],
        ABOUT,
    )
    book = sheets(path)
    for sheet in book:
        for row in sheet.iter_rows():
            for cell in row:
                assert cell.data_type != "f"
                assert cell.hyperlink is None
    (row,) = rows(book["Lines"])
    assert {row[name] for name in ("Tenant", "Team", "Model", "Reason", "Node")} == {text}
    with ZipFile(path) as archive:
        assert not any(
            b"<f>" in archive.read(name) for name in archive.namelist() if "sheet" in name
        )


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(st.lists(charges(), max_size=6))
def test_the_exact_column_and_the_summary_sum_to_the_control_totals(tmp_path, found):
    path = tmp_path / "a.xlsx"
    manifest = write_workbook(path, found, ABOUT)
    book, sums = sheets(path), defaultdict(Decimal)
    for row in rows(book["Lines"]):
        sums[row["Currency"]] += Decimal(row["Amount (exact)"])
    assert manifest.rows == len(found)
    for currency, by in manifest.totals.items():
        assert sum(map(Decimal, by.values())) == sums[currency]
        for name in ("By team", "By model", "By day"):
            parts = table(book["Summary"], (name, f"Amount ({currency})"))
            assert sum(Decimal(exact) for _, exact in parts.values()) == sums[currency]


def test_the_summary_has_a_table_and_a_chart_by_team_model_and_day_for_each_currency(tmp_path):
    path = tmp_path / "a.xlsx"
    day = 86_400_000
    found = [
        charge(quantity=10**6, tags={"team": "search"}),
        charge(
            quantity=3 * 10**6,
            tags={"cost_centre": "4711"},
            started=MONTH.start + day,
            model_name="big",
        ),
        charge(ChargeKind.FEE, unit_price=Decimal(5), started=MONTH.start + 2 * day),
        replace(charge(quantity=10**6), currency="USD"),
    ]
    write_workbook(path, found, ABOUT)
    page = sheets(path)["Summary"]
    assert list(table(page, ("By team", "Amount (EUR)")).items()) == [
        ("acme", (5, "5.0")), ("4711", (1.8, "1.8")), ("search", (0.6, "0.6")),
    ]  # fmt: skip
    assert set(table(page, ("By model", "Amount (EUR)"))) == {NO_MODEL, "big", "tiny"}
    assert list(table(page, ("By day", "Amount (EUR)"))) == [
        "2026-11-01",
        "2026-11-02",
        "2026-11-03",
    ]
    assert table(page, ("By team", "Amount (USD)")) == {"acme": (0.6, "0.6")}
    assert len(page._charts) == 6
    (series,) = page._charts[0].series
    assert series.val.numRef.f == "Summary!$B$5:$B$7"
    assert page.freeze_panes == "A4"


def test_days_are_those_of_the_zone(tmp_path):
    path = tmp_path / "a.xlsx"
    late = charge(started=MONTH.start + 23 * 3_600_000 + 1_800_000)
    write_workbook(path, [late], ABOUT, zone="Europe/Berlin")
    (row,) = rows(sheets(path)["Lines"])
    assert (row["Day"], row["Started (UTC)"]) == ("2026-11-02", "2026-11-01T23:30:00.000Z")


def test_more_lines_than_a_sheet_holds_go_on_in_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(workbook, "MOST_ROWS", 4)
    path = tmp_path / "a.xlsx"
    write_workbook(path, [charge(quantity=number) for number in range(1, 10)], ABOUT)
    book = sheets(path)
    assert book.sheetnames == ["Summary", "Lines", "Lines 2", "Lines 3"]
    assert [row["Quantity"] for name in book.sheetnames[1:] for row in rows(book[name])] == list(
        range(1, 10)
    )


def test_no_charges_are_an_empty_workbook_and_a_failure_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.xlsx"
    assert write_workbook(path, [], ABOUT).rows == 0
    assert sheets(path).sheetnames == ["Summary", "Lines"]
    before, waiting = path.read_bytes(), tmp_path / "waiting"
    waiting.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(waiting))
    with pytest.raises(CounterfoilError, match="power of ten"):
        write_workbook(path, (charge(per=per) for per in (1, 7)), ABOUT)
    assert path.read_bytes() == before
    assert sorted(name.name for name in tmp_path.iterdir()) == ["a.xlsx", "waiting"]
    assert list(waiting.iterdir()) == []


def test_a_summary_tells_a_bounded_number_of_teams_apart_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(summary, "MOST", 3)
    found = Summary()
    for number in range(10):
        found.add(charge(quantity=10**6 * (number + 1), tags={"team": f"t{number}"}))
    ((_, by),) = found
    assert set(by["team"]) == {"t0", "t1", "t2", OTHERS}
    assert decimal_text(sum(by["team"].values())) == "33.0"
