"""Parquet: exact, and the same from columns as from rows. Read back by DuckDB, whose reader is another author's."""

from dataclasses import replace
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import USAGE, Charge, ChargeKind
from audit_layer.costs.exports import parquet
from audit_layer.costs.exports.batches import parquet_from_batches
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import row_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.table import Kind
from audit_layer.costs.exports.writing import write_table
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, MONTH, RECEIPT, charge, charges, columns

CHOSEN = {Format.FOCUS_1_2_PARQUET: FOCUS_1_2, Format.FOCUS_1_4_PARQUET: FOCUS_1_4}


def from_rows(path, found, chosen=Format.FOCUS_1_2_PARQUET):
    return write_table(path, chosen, CHOSEN[chosen], map(row_of, found), ABOUT)


def from_columns(path, batches, chosen=Format.FOCUS_1_2_PARQUET):
    return parquet_from_batches(path, chosen, batches, ABOUT)


def test_the_schema_has_exact_decimals_times_in_utc_and_dictionaries(tmp_path):
    path = tmp_path / "a.parquet"
    from_rows(path, [charge()])
    schema = pq.read_schema(path)
    assert tuple(schema.names) == FOCUS_1_2.names
    for name, type_ in {
        "BilledCost": pa.decimal128(38, 24), "ListUnitPrice": pa.decimal128(38, 15), "PricingQuantity": pa.decimal128(38, 9),
        "ChargePeriodStart": pa.timestamp("ms", tz="UTC"), "x_LogIndex": pa.int64(), "x_Receipt": pa.string(),
        "BillingAccountId": pa.dictionary(pa.int32(), pa.string()),
    }.items():  # fmt: skip
        assert schema.field(name).type == type_
    assert schema.metadata[b"dataset"] == b"CostAndUsage"
    assert schema.metadata[b"dataset_version"] == b"1.2"
    assert not schema.field("BilledCost").nullable


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(charges(), max_size=5))
def test_every_cell_is_read_back_exactly_and_text_is_left_as_it_is(tmp_path, found):
    path = tmp_path / "a.parquet"
    from_rows(path, found)
    times = {Kind.TIME, Kind.INSTANT}
    wanted = [
        f'epoch_ms("{column.name}")' if column.kind in times else f'"{column.name}"'
        for column in FOCUS_1_2.columns
    ]
    read = duckdb.sql(f"SELECT {', '.join(wanted)} FROM read_parquet('{path}')").fetchall()  # noqa: S608
    assert read == [tuple(row_of(one).get(name) for name in FOCUS_1_2.names) for one in found]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    st.one_of(st.lists(charges(USAGE), max_size=8), st.lists(charges(), max_size=4)),
    st.sampled_from(sorted(CHOSEN)),
)
def test_columns_give_the_file_that_rows_give_to_the_byte(tmp_path, found, chosen):
    one = from_rows(tmp_path / "a.parquet", found, chosen)
    other = from_columns(tmp_path / "b.parquet", [columns(found)] if found else [], chosen)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
    assert replace(other, file=one.file) == one


def test_constants_arrow_arrays_and_record_batches_are_columns_too(tmp_path):
    found = [charge(quantity=number, log_index=number) for number in range(1, 50)]
    plain = columns(found)
    one = from_rows(tmp_path / "a.parquet", found)
    varying = {"quantity", "log_index"}
    constants = {name: values if name in varying else values[0] for name, values in plain.items()}
    constants["amount"] = plain["amount"]
    arrays = dict(
        constants, quantity=pa.chunked_array([plain["quantity"][:7], plain["quantity"][7:]])
    )
    arrays["kind"] = pa.array(plain["kind"]).dictionary_encode()
    del arrays["amount"]
    for batch in (constants, arrays, pa.RecordBatch.from_pydict(plain)):
        other = from_columns(tmp_path / "b.parquet", [batch])
        assert other.sha256 == one.sha256


def test_many_combinations_and_row_groups_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 100)
    monkeypatch.setattr("audit_layer.costs.exports.charge_columns._WIDEST", 50)
    found = [
        charge(
            USAGE[i % 5],
            quantity=i + 1,
            per=1000,
            tags={"team": f"t{i * 7 % 13}"},
            node=f"n{i * 5 % 11}",
            tenant=f"c{i % 3}",
        )
        for i in range(730)
    ]
    from_rows(tmp_path / "a.parquet", found)
    from_columns(
        tmp_path / "b.parquet", [columns(found[at : at + 100]) for at in range(0, 730, 100)]
    )
    one, other = (pq.ParquetFile(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert one.num_row_groups == other.num_row_groups == 8
    assert one.read().to_pylist() == other.read().to_pylist()


def test_rows_that_differ_in_one_of_many_fields_of_many_values_stay_apart(tmp_path):
    """The number of possible combinations is 2⁷⁰ here: far more than fit a code of 64 bits."""

    def one(i: int, tenant: int) -> Charge:
        text, hashed = f"v{i}", bytes([i]) * 32
        return charge(
            tenant=f"v{tenant}", operator=text, currency=f"A{chr(65 + i // 26)}{chr(65 + i % 26)}", node=text, model_root=hashed,
            model_name=text, rate_card=hashed, cost_centre=hashed, tags={"a": text}, invoice_id=text, reason=text,
            unit_price=Decimal(i), fx_rate=Decimal(i + 1), pricing_currency=f"B{chr(65 + i // 26)}{chr(65 + i % 26)}",
        )  # fmt: skip

    found = [one(i, i) for i in range(32)] + [one(0, 1)]
    from_columns(tmp_path / "a.parquet", [columns(found)])
    read = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["BillingAccountId"] for row in read] == [row.tenant for row in found]


@pytest.mark.parametrize(
    "changes",
    [
        {"unit_price": Decimal("0.1234567890123456")},
        {"unit_price": Decimal(10) ** 13, "per": 1, "quantity": 1000},
    ],
)
def test_a_number_that_its_column_cannot_hold_exactly_is_refused_and_nothing_is_written(
    tmp_path, changes
):
    for write in (
        lambda path: from_rows(path, [charge(**changes)]),
        lambda path: from_columns(path, [columns([charge(**changes)])]),
    ):
        with pytest.raises(CounterfoilError) as caught:
            write(tmp_path / "a.parquet")
        assert caught.value.code is Code.INVALID_ARGUMENT
    assert list(tmp_path.iterdir()) == []


GOOD = columns([charge(), charge(ChargeKind.INPUT)])
BAD = {
    "unknown columns": dict(GOOD, surprise=[1, 2]),
    "missing columns": {name: GOOD[name] for name in GOOD if name != "tenant"},
    "rows": dict(GOOD, node=["one"]),
    "quantity": dict(GOOD, quantity=["many", "more"]),
    "quantity:": dict(GOOD, quantity=[2**64, 1]),
    "quantity is missing": dict(GOOD, quantity=[None, 1]),
    "tenant is missing": dict(GOOD, tenant=None),
    "not a valid ChargeKind": dict(GOOD, kind=["output", "free"]),
    "not a valid AuditState": dict(GOOD, audit=["passed", "bribed"]),
    "tags that are not": dict(GOOD, tags=['{"a": {}}', None]),
    "an amount that is not": dict(GOOD, amount=[Decimal("0.00072"), Decimal("0.00073")]),
    "an amount that": dict(GOOD, amount=[None, Decimal("0.00072")]),
    "quantity is of the type double": dict(GOOD, quantity=pa.array([1.0, 2.0])),
    "unit_price is of the type float": dict(GOOD, unit_price=pa.array([0.5, 2.0], pa.float32())),
    "unit_price": dict(GOOD, unit_price=[0.5, 0.25]),
    "started is of the type timestamp": dict(GOOD, started=pa.array([1, 2], pa.timestamp("us"))),
    "tenant: ": dict(GOOD, tenant=5),
    "unit_price: ": dict(GOOD, unit_price=0.5),
    "receipt: ": dict(GOOD, receipt=7),
    "not per 7": dict(GOOD, per=[1000, 7]),
    "not per 0": dict(GOOD, per=0),
    "power of ten": dict(GOOD, per=[7, 7], amount=None),
}


@pytest.mark.parametrize("said", BAD)
def test_a_batch_that_is_no_charges_is_refused_by_name(tmp_path, said):
    from_columns(tmp_path / "a.parquet", [GOOD])
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(CounterfoilError, match=said) as caught:
        from_columns(tmp_path / "a.parquet", [GOOD, BAD[said]])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_other_formats_are_not_written_from_columns(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        parquet_from_batches(tmp_path / "a.csv", Format.FOCUS_1_2_CSV, [GOOD], ABOUT)
    assert caught.value.code is Code.UNSUPPORTED


def test_totals_of_columns_are_exact(tmp_path):
    found = [charge(quantity=10**12, unit_price=Decimal("999.999999999"), per=1000)] * 50
    one, other = (
        from_rows(tmp_path / "a.parquet", found),
        from_columns(tmp_path / "b.parquet", [columns(found)]),
    )
    assert one.totals == other.totals == {"EUR": {"Usage": "49999999999950.0"}}
    assert {row["x_Receipt"] for row in pq.read_table(tmp_path / "b.parquet").to_pylist()} == {
        RECEIPT.hex()
    }
    assert MONTH.start < found[0].started
