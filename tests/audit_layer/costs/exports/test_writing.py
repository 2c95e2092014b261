"""CSV, control totals and the manifest: read back with the standard library, whole or not at all."""

import csv
import io
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import Charge
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_csv import COLUMNS, to_csv
from audit_layer.costs.exports.focus_rows import row_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import beside, verify
from audit_layer.costs.exports.table import FORMULAS, Dataset, Kind, Row, neutral
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import csv_lines, write_table
from shared.codec.moment import parse_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, charge, charges

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
DATASETS = {Format.FOCUS_1_2_CSV: FOCUS_1_2, Format.FOCUS_1_4_CSV: FOCUS_1_4}


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def expected(dataset: Dataset, found: Charge) -> dict[str, object]:
    row = row_of(found)
    cells: dict[str, object] = {}
    for column in dataset.columns:
        cell = row.get(column.name)
        cells[column.name] = neutral(cell) if isinstance(cell, str) else cell
    return cells


def typed(dataset: Dataset, row: dict[str, str]) -> dict[str, object]:
    """A row that was read, as the cells it was written from."""
    cells: dict[str, object] = {}
    for column in dataset.columns:
        text = row[column.name]
        if text == "":
            cells[column.name] = None
        elif column.kind in {Kind.TIME, Kind.INSTANT}:
            cells[column.name] = parse_rfc3339(text)
        elif column.kind is Kind.COUNT:
            cells[column.name] = int(text)
        elif column.kind in {Kind.COST, Kind.PRICE, Kind.QUANTITY}:
            cells[column.name] = Decimal(text)
        else:
            cells[column.name] = text
    return cells


@settings(deadline=None)
@given(st.lists(charges(), max_size=4), st.sampled_from((FOCUS_1_2, FOCUS_1_4)))
def test_a_csv_reader_finds_every_cell_again_and_no_cell_is_a_formula(found, dataset):
    text = "".join(csv_lines(dataset, map(row_of, found), Totals()))
    rows = read(text)
    assert [typed(dataset, row) for row in rows] == [expected(dataset, each) for each in found]
    for row in rows:
        texts = [
            row[column.name]
            for column in dataset.columns
            if column.kind in {Kind.TEXT, Kind.IDENTIFIER}
        ]
        assert not any(cell.startswith(FORMULAS) for cell in texts)
        assert all("." in row[name] for name in dataset.names if name.endswith("Cost"))


def test_lines_end_as_rfc_4180_has_it_however_many_there_are():
    for count in (0, 1, 511, 512, 513, 1500):
        text = to_csv([charge()] * count)
        assert text.startswith(",".join(COLUMNS) + "\r\n")
        assert text.count("\r\n") == text.count("\n") == count + 1
        assert text.endswith("\r\n")
        assert len(read(text)) == count


def test_a_formula_is_neutralised_also_behind_the_separators_of_other_countries():
    (row,) = read(to_csv([charge(tenant="=cmd()", reason="a;=cmd()|b", invoice_id="-7")]))
    assert (row["BillingAccountId"], row["InvoiceId"]) == ("'=cmd()", "'-7")
    assert '"a;=cmd()|b"' in to_csv([charge(reason="a;=cmd()|b")])


@settings(deadline=None)
@given(st.lists(charges(), max_size=6))
def test_control_totals_are_the_sums_by_currency_and_category(found):
    totals, sums = Totals(), defaultdict(Decimal)
    rows = read("".join(csv_lines(FOCUS_1_2, map(row_of, found), totals)))
    for row in rows:
        sums[row["BillingCurrency"], row["ChargeCategory"]] += Decimal(row["BilledCost"])
    told = {
        (currency, category): Decimal(amount)
        for currency, by in totals.as_text().items()
        for category, amount in by.items()
    }
    assert told == dict(sums)
    assert totals.rows == len(found)


def test_totals_lose_no_digit():
    totals = Totals()
    for _ in range(1000):
        totals.add("EUR", "Usage", Decimal("0.000000000000000000000001"))
    totals.add("EUR", "Usage", Decimal(123456789012345678))
    assert totals.as_text() == {"EUR": {"Usage": "123456789012345678.000000000000000000001"}}


@pytest.mark.parametrize("chosen", DATASETS)
def test_a_file_is_described_by_the_signed_manifest_beside_it(tmp_path, chosen):
    path = tmp_path / "november.csv"
    wrote = write_table(path, chosen, DATASETS[chosen], map(row_of, [charge()] * 3), ABOUT, KEY)
    assert names(tmp_path) == ["november.csv", "november.csv.manifest.json"]
    assert verify(path, KEY.public_key()) == wrote
    assert (wrote.file, wrote.rows, wrote.size) == ("november.csv", 3, path.stat().st_size)
    assert wrote.totals == {"EUR": {"Usage": "0.00216"}}
    assert (wrote.dataset, wrote.version) == ("CostAndUsage", chosen.value[6:9])
    assert (wrote.format, wrote.period_start, wrote.period_end, wrote.created) == (
        chosen.value, "2026-11-01T00:00:00.000Z", "2026-12-01T00:00:00.000Z", "2026-12-01T00:00:05.000Z",
    )  # fmt: skip


def test_without_a_key_there_is_no_manifest(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, [], ABOUT)
    assert names(tmp_path) == ["a.csv"]


def test_rows_that_fail_leave_the_old_file_and_the_old_manifest(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, map(row_of, [charge()]), ABOUT, KEY)
    before = path.read_bytes(), beside(path).read_bytes()

    def rows() -> Iterator[Row]:
        for _ in range(5000):
            yield row_of(charge())
        raise ConnectionError("the database went away")

    with pytest.raises(ConnectionError):
        write_table(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, rows(), ABOUT, KEY)
    assert (path.read_bytes(), beside(path).read_bytes()) == before
    assert names(tmp_path) == ["a.csv", "a.csv.manifest.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from audit_layer.costs.exports.focus_columns import FOCUS_1_2
from audit_layer.costs.exports.focus_rows import row_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.writing import write_table
from tests.audit_layer.costs.exports.made import ABOUT, charge
from tests.audit_layer.costs.exports.test_writing import KEY

def rows():
    for number in range(20_000):
        yield row_of(charge())
    os.kill(os.getpid(), signal.SIGKILL)

chosen = Format(sys.argv[2])
write_table(Path(sys.argv[1]), chosen, FOCUS_1_2, rows(), ABOUT, KEY)
"""


@pytest.mark.parametrize("chosen", [Format.FOCUS_1_2_CSV, Format.FOCUS_1_2_PARQUET])
def test_a_process_killed_while_it_writes_leaves_the_old_file_and_its_manifest_verifies(
    tmp_path, chosen
):
    path = tmp_path / f"a.{chosen.container}"
    write_table(path, chosen, FOCUS_1_2, map(row_of, [charge()]), ABOUT, KEY)
    code = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), chosen.value],
        check=False,
        cwd=Path(__file__).parents[4],
    ).returncode
    assert code == -signal.SIGKILL
    assert verify(path, KEY.public_key()).rows == 1
    assert all(
        name.startswith(".") for name in set(names(tmp_path)) - {path.name, beside(path).name}
    )


def test_a_contradicting_extension_writes_nothing(tmp_path):
    with pytest.raises(CounterfoilError, match=r"ends in \.parquet") as caught:
        write_table(tmp_path / "a.parquet", Format.FOCUS_1_2_CSV, FOCUS_1_2, [], ABOUT, KEY)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert names(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    away = tmp_path / "no" / "a.csv"
    with pytest.raises(CounterfoilError, match="No such file") as caught:
        write_table(away, Format.FOCUS_1_2_CSV, FOCUS_1_2, [], ABOUT)
    assert caught.value.code is Code.CONFIGURATION
    assert names(tmp_path) == []
