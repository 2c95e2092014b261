"""FOCUS in Parquet is the same invoice as in CSV; what asks for more than it should is refused, and nothing crashes."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from audit_layer.costs.intake import parquet_table as module
from audit_layer.costs.intake.limits import MAX_ROWS
from audit_layer.costs.intake.read import Format, read_invoice
from tests.audit_layer.costs.intake.refusals import refusal
from tests.audit_layer.costs.intake.test_focus import ROW, focus

STATED = {"issued_at": "2026-12-01"}
NUMBERS = (
    "BilledCost",
    "ContractedCost",
    "ContractedUnitPrice",
    "ConsumedQuantity",
    "PricingQuantity",
)
TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")


def written(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    parquet.write_table(table, out, **options)
    return out.getvalue()


def table_of(*rows: dict[str, str], number: Any, time: Any) -> pa.Table:
    made = [{**ROW, **row} for row in rows]

    def value(name: str, text: str) -> Any:
        if name in NUMBERS:
            return float(text) if pa.types.is_floating(number) else Decimal(text)
        return datetime.fromisoformat(text) if name in TIMES else text or None

    def kind(name: str) -> Any:
        return number if name in NUMBERS else time if name in TIMES else pa.string()

    return pa.table(
        {name: pa.array([value(name, row[name]) for row in made], kind(name)) for name in ROW}
    )


def refused(content: bytes) -> str:
    return refusal(content, stated=STATED)


@pytest.mark.parametrize("number", [pa.float64(), pa.decimal128(38, 18), pa.decimal256(60, 30)])
@pytest.mark.parametrize(
    "time", [pa.timestamp("ms", "UTC"), pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin")]
)
def test_it_is_the_same_invoice_as_in_csv(number, time):
    rows = [
        {},
        {
            "SkuId": "abcd-input",
            "BilledCost": "0.1",
            "ContractedCost": "0.1",
            "ContractedUnitPrice": "0.1",
        },
    ]
    made = read_invoice(written(table_of(*rows, number=number, time=time)), stated=STATED)
    wanted = read_invoice(focus(*rows), stated=STATED)
    assert [line.place for line in made.lines] == ["row 1", "row 2"]
    for line, other in zip(made.lines, wanted.lines, strict=True):
        assert (line.kind, line.quantity, line.unit_price, line.amount, line.day, line.tenant) == (
            other.kind, other.quantity, other.unit_price, other.amount, other.day, other.tenant,
        )  # fmt: skip
    assert (made.total, made.period, made.invoice_id) == (wanted.total, wanted.period, "INV-77")


def test_nested_columns_are_passed_over_and_dictionaries_read():
    table = table_of({}, number=pa.float64(), time=pa.timestamp("ms", "UTC"))
    table = table.set_column(
        table.column_names.index("SkuId"), "SkuId", table["SkuId"].dictionary_encode()
    )
    tags = pa.array([[("team", "a")]], pa.map_(pa.string(), pa.string()))
    made = read_invoice(written(table.append_column("Tags", tags)), stated=STATED)
    assert [line.kind for line in made.lines] == ["output"]


def test_a_problem_names_the_row():
    rows = [{}, {"BillingAccountId": "Not a name\nat all"}, {"ChargeCategory": "Free"}]
    told = refused(written(table_of(*rows, number=pa.float64(), time=pa.timestamp("ms", "UTC"))))
    assert "row 2, column" in told
    assert "row 3, column" in told


def test_a_parquet_file_that_is_not_focus_is_refused():
    content = written(pa.table({"a": [1]}))
    assert "is not FOCUS: it has no column" in refused(content)
    assert "to be read as json" in refusal(content, format=Format.JSON)


def bomb(text: str, rows: int, **options: Any) -> bytes:
    table = table_of(*[{}] * 1, number=pa.float64(), time=pa.timestamp("ms", "UTC"))
    columns = {
        name: pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), table[name].combine_chunks().cast(pa.string()))
        for name in table.column_names if table[name].null_count == 0
    }  # fmt: skip
    columns["ChargeDescription"] = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array([text])
    )
    return written(pa.table(columns), compression="zstd", **options)


def test_a_few_kilobytes_that_ask_for_terabytes_are_refused():
    content = bomb("x" * 2_000_000, 900_000)
    assert len(content) < 100_000
    assert "characters in one cell" in refused(content) or "memory" in refused(content)


def test_what_is_wrong_far_into_a_file_is_told():
    rows: list[dict[str, str]] = [{}] * 3000 + [{"ChargeDescription": "x" * 40_000}]
    table = table_of(*rows, number=pa.float64(), time=pa.timestamp("ms", "UTC"))
    assert "characters in one cell" in refused(written(table))


def test_a_page_that_asks_for_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MEMORY", 200 * 2**20)
    text = "x" * (150 * 2**20)
    table = table_of({}, number=pa.float64(), time=pa.timestamp("ms", "UTC"))
    at = table.column_names.index("ChargeDescription")
    table = table.set_column(at, "ChargeDescription", pa.array([text], pa.large_string()))
    content = written(table, compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(content) < 100_000
    assert "memory" in refused(content)


def test_too_many_rows_are_refused_by_what_the_file_says_of_itself():
    indices = pa.array([0] * (MAX_ROWS + 1), pa.int8())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["x"]))
    assert f"more than {MAX_ROWS} rows" in refused(written(pa.table({"BilledCost": column})))


def test_a_truncated_or_changed_file_is_refused_or_read_but_never_a_crash():
    content = written(table_of({}, number=pa.float64(), time=pa.timestamp("ms", "UTC")))
    assert "truncated" in refused(content[:-1])
    assert "truncated" in refused(content[: len(content) // 2])
    assert "damaged" in refused(content[:100] + content[-8:])
    assert "truncated" in refused(b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1")
    assert "damaged" in refused(content[:4] + bytes(len(content) - 400) + content[-396:])


def test_without_the_package_the_file_is_refused_by_its_name(monkeypatch, tmp_path):
    script = tmp_path / "child.py"
    source = module.parquet_child.__file__
    with open(source, encoding="utf-8") as file:  # noqa: PTH123
        script.write_text(
            file.read().replace("import pyarrow as pa", "import no_such_pyarrow as pa")
        )
    monkeypatch.setattr(module.parquet_child, "__file__", str(script))
    content = written(table_of({}, number=pa.float64(), time=pa.timestamp("ms", "UTC")))
    assert "package pyarrow, which reads it, is not installed" in refused(content)


def test_dates_and_times_are_read_as_focus_writes_them():
    child = module.parquet_child
    assert child._text(datetime(2026, 11, 3, 1, tzinfo=UTC)) == "2026-11-03T01:00:00Z"
    assert child._text(date(2026, 11, 3)) == "2026-11-03T00:00:00Z"
    assert child._text(1e-7) == "0.0000001"
    assert child._text(True) == "true"
