"""Parquet files: the same rules, with types in place of text."""

import random
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_layer.costs.focus_check.columns import DATASETS, Kind
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.focus_check.files import charges, check, found, kinds

DECIMALS, TIMES = kinds(Kind.DECIMAL), kinds(Kind.DATE_TIME)


def arrays(rows, types):
    """Return columns: decimals and times in the given types, everything else as text."""
    columns = {}
    for name in rows[0]:
        cells = [row[name] or None for row in rows]
        if name in DECIMALS and types.get("decimal") == pa.float64():
            columns[name] = pa.array([cell and float(cell) for cell in cells], pa.float64())
        elif name in DECIMALS and "decimal" in types:
            columns[name] = pa.array([cell and Decimal(cell) for cell in cells], types["decimal"])
        elif name in TIMES and "time" in types:
            moments = [datetime.fromisoformat(cell).astimezone(UTC) for cell in cells]
            columns[name] = pa.array(moments, pa.timestamp("us", "UTC")).cast(types["time"])
        else:
            columns[name] = pa.array(cells, pa.string())
    return columns


def parquet(tmp_path, rows, types=None, **changes):
    path = tmp_path / "made"
    pq.write_table(pa.table({**arrays(rows, types or {}), **changes}), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "types",
    [
        {},
        {"decimal": pa.decimal128(38, 12), "time": pa.timestamp("us", "UTC")},
        {"decimal": pa.decimal256(60, 20), "time": pa.timestamp("ns", "Europe/Berlin")},
        {"decimal": pa.float64(), "time": pa.timestamp("ms", "UTC")},
    ],
    ids=["text", "decimal128", "decimal256", "double"],
)
def test_a_valid_file_has_no_finding(types, tmp_path):
    report = check(parquet(tmp_path, list(charges().values()), types), tmp_path)
    assert report.findings == ()
    assert report.rows == 9


def test_doubles_are_as_close_as_doubles_can_be(tmp_path):
    rows = [{**charges()["usage"], "PricingCurrency": "Credits"} for _ in range(200)]
    rng = random.Random(11)
    for at, row in enumerate(rows):
        quantity, price = rng.random() * 10**6, rng.random()
        row.update(ChargeDescription=str(at), PricingQuantity=repr(quantity))
        row.update(
            dict.fromkeys(
                ("ListUnitPrice", "ContractedUnitPrice"), format(Decimal(repr(price)), "f")
            )
        )
        row.update(dict.fromkeys(("ListCost", "ContractedCost"), repr(quantity * price)))
    doubles = {"decimal": pa.float64()}
    assert check(parquet(tmp_path, rows, doubles), tmp_path).conforms
    rows[7]["ListCost"] = repr(float(rows[7]["ListCost"]) * (1 + 1e-14))
    report = check(parquet(tmp_path, rows, doubles), tmp_path)
    assert [(finding.row, finding.column) for finding in report.findings] == [(9, "ListCost")]


def test_numbers_are_exact_to_the_last_digit(tmp_path):
    rows = list(charges().values())
    types = {"decimal": pa.decimal128(38, 12)}
    rows[0]["ListCost"] = "12.500000000001"
    report = check(parquet(tmp_path, rows, types), tmp_path)
    assert found(report) == {"CF-0401": 1}


def test_a_map_is_no_serialized_json(tmp_path):
    tags = pa.array([[("team", "a")]] * 9, pa.map_(pa.string(), pa.string()))
    report = check(parquet(tmp_path, list(charges().values()), Tags=tags), tmp_path)
    assert found(report) == {"CF-0109": 1}


def test_a_time_without_zone_is_told(tmp_path):
    types = {"time": pa.timestamp("us")}
    report = check(parquet(tmp_path, list(charges().values()), types), tmp_path)
    assert found(report) == {"CF-0110": 4}
    assert report.conforms


def test_a_fraction_of_a_second_is_found_in_a_timestamp(tmp_path):
    rows = list(charges().values())
    rows[0]["ChargePeriodStart"] = "2026-11-05T10:00:00.25Z"
    types = {"time": pa.timestamp("us", "UTC")}
    assert found(check(parquet(tmp_path, rows, types), tmp_path)) == {"CF-0204": 1}


def test_the_same_rules_hold(tmp_path):
    rows = charges()
    rows["used"]["CommitmentDiscountStatus"] = "Active"
    rows["tax"]["SkuPriceId"] = "sku"
    report = check(parquet(tmp_path, list(rows.values())), tmp_path)
    assert [(f.rule, f.row) for f in report.findings] == [("CF-0205", 4), ("CF-0301", 7)]


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_never_conforms(part, tmp_path):
    content = parquet(tmp_path, list(charges().values()))
    report = check(content[: int(len(content) * part)], tmp_path)
    assert not report.complete
    assert found(report) == {"CF-0005": 1}


def test_a_damaged_file_is_judged_or_refused(tmp_path):
    content = parquet(tmp_path, list(charges().values()) * 50)
    rng = random.Random(3)
    for _ in range(25):
        damaged = bytearray(content)
        for at in rng.sample(range(4, len(damaged)), 3):
            damaged[at] = rng.randrange(256)
        assert check(bytes(damaged), tmp_path).rows <= 10**6


def test_a_long_text_that_many_rows_share_is_in_memory_once(tmp_path):
    rows = [{**charges()["usage"], "x_LogIndex": str(at)} for at in range(5000)]
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["a" * 10_000_000])
    path = tmp_path / "made"
    columns = pa.table({**arrays(rows, {}), "ChargeDescription": text})  # 50 GB if written out
    pq.write_table(columns, path, store_schema=False)
    report = check(path.read_bytes(), tmp_path)
    assert found(report) == {"CF-0004": 5000}
    assert report.rows == 5000


def test_a_file_of_more_rows_than_its_size_can_hold_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_layer.costs.focus_check.parquet.MAX_ROWS", 1000)
    monkeypatch.setattr("audit_layer.costs.focus_check.parquet.ROWS_PER_BYTE", 1)
    same = parquet(tmp_path, [charges()["usage"]] * 60_000)
    report = check(same, tmp_path)
    assert found(report) == {"CF-0006": 1}
    assert not report.complete


def test_bytes_that_are_no_utf_8_are_found(tmp_path):
    names = pa.array([b"a\xff"] * 9, pa.binary()).view(pa.string())
    report = check(parquet(tmp_path, list(charges().values()), ServiceName=names), tmp_path)
    assert found(report) == {"CF-0001": 1}
    assert not report.complete


def test_the_columns_of_the_data_are_those_of_the_dataset():
    assert {*DECIMALS, *TIMES} < set(DATASETS["cost-and-usage", "1.2"].columns)


def test_a_page_that_becomes_larger_than_the_memory_allowed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_layer.costs.focus_check.parquet.MEMORY", 192 << 20)
    assert check(parquet(tmp_path, list(charges().values())), tmp_path).conforms
    large = pa.array(["a" * (150 << 20)], pa.large_string())
    pq.write_table(pa.table({"ChargeDescription": large}), tmp_path / "made", compression="zstd")
    content = (tmp_path / "made").read_bytes()
    assert len(content) < 1 << 20
    report = check(content, tmp_path)
    assert found(report)["CF-0005"] == 1
    assert not report.complete


def test_parquet_without_its_package_is_told(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text('print(\'{"missing": "pyarrow"}\')')
    monkeypatch.setattr("audit_layer.costs.focus_check.parquet.CHILD", child)
    with pytest.raises(CounterfoilError) as caught:
        check(b"PAR1", tmp_path)
    assert caught.value.code is Code.CONFIGURATION
    assert "pyarrow" in caught.value.detail


@pytest.mark.parametrize(
    "told", ["", '{"names": ["a"], "holds": ["text"], "types": ["x"], "rows": 2}\n["1"]\n']
)
def test_decoding_that_ends_early_is_no_end_of_the_file(told, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(f"import os; os.write(1, {told.encode()!r}); os.abort()")
    monkeypatch.setattr("audit_layer.costs.focus_check.parquet.CHILD", child)
    report = check(b"PAR1", tmp_path)
    assert found(report)["CF-0005"] == 1
    assert not report.complete
