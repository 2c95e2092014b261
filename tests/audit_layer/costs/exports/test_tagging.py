"""Tags are filled where the file is wanted: for rows of the book's tenant, without a change to anything else."""

import csv
import json
from dataclasses import replace
from io import BytesIO, StringIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import PRICED, row_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.from_focus import charge_of
from audit_layer.costs.exports.tagging import Tagging, fill_csv, fill_parquet, tagged_rows
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import write_table
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.replacing import replacing
from shared.statements.tag_book import TagBook
from shared.statements.tags import TagKey
from tests.audit_layer.costs.exports.made import ABOUT, charge, charges

KEY = TagKey(bytes(range(32)))
SEARCH, ADS = {"team": "search"}, {"team": '=ads,"x"', "project": "ÿ"}  # fmt: skip
BOOK = TagBook.of(KEY, "acme", (SEARCH, ADS))
CENTRES = (None, KEY.blind("acme", SEARCH), KEY.blind("acme", ADS), bytes(32))
NOTHING = TagBook("acme", {})
ANY = st.lists(
    st.tuples(charges(), st.sampled_from(CENTRES)).map(
        lambda pair: replace(pair[0], cost_centre=pair[1], tags={})
    ),
    max_size=6,
)


def expected(row):
    tags = BOOK.tags_of(row.cost_centre) if row.tenant == "acme" else {}
    return replace(row, tags=tags)


def written(path, chosen, dataset, found):
    manifest = write_table(path, chosen, dataset, map(row_of, found), ABOUT)
    return path.read_bytes(), manifest


def filled_csv(path, data, book, size=7, dataset=FOCUS_1_2):
    totals = Totals()
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    with replacing(path) as out:
        fill_csv(dataset, chunks, Tagging(book), out, totals)
    return path.read_bytes(), totals


def filled_parquet(path, data, book, dataset=FOCUS_1_4):
    totals = Totals()
    with replacing(path) as out:
        fill_parquet(dataset, BytesIO(data), Tagging(book), out, totals)
    return path.read_bytes(), totals


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY, st.integers(1, 500))
def test_a_csv_is_what_the_writer_makes_of_charges_with_tags(tmp_path, found, size):
    """To the byte, whatever the chunks that it comes in."""
    path = tmp_path / "a.csv"
    plain, manifest = written(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, found)
    tagged, _ = written(path, Format.FOCUS_1_2_CSV, FOCUS_1_2, map(expected, found))
    assert filled_csv(path, plain, NOTHING, size)[0] == plain
    data, totals = filled_csv(path, plain, BOOK, size)
    assert data == tagged
    assert (totals.rows, totals.as_text()) == (manifest.rows, manifest.totals)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY)
def test_a_parquet_file_has_the_rows_that_the_writer_makes_of_charges_with_tags(tmp_path, found):
    path = tmp_path / "a.parquet"
    plain, manifest = written(path, Format.FOCUS_1_4_PARQUET, FOCUS_1_4, found)
    tagged, _ = written(path, Format.FOCUS_1_4_PARQUET, FOCUS_1_4, map(expected, found))
    data, totals = filled_parquet(path, plain, BOOK)
    assert pq.read_schema(BytesIO(data)).equals(pq.read_schema(BytesIO(tagged)))
    assert pq.read_table(BytesIO(data)).to_pylist() == pq.read_table(BytesIO(tagged)).to_pylist()
    assert (totals.rows, totals.as_text()) == (manifest.rows, manifest.totals)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY)
def test_the_charges_of_a_workbook_are_those_that_were_exported(tmp_path, found):
    """What a workbook does not show (the price in another currency) and what a charge without a price does not say is left."""
    path = tmp_path / "a.parquet"
    data, _ = written(path, Format.FOCUS_1_4_PARQUET, FOCUS_1_4, found)
    read = list(map(charge_of, tagged_rows(FOCUS_1_4, BytesIO(data), Tagging(BOOK))))
    shown = []
    for one in map(expected, found):
        same = replace(one, verified_quantity=None, pricing_currency=None, fx_rate=None)
        if one.kind not in PRICED:
            same = replace(same, quantity=1, unit_price=one.amount)
        shown.append(same)
    assert read == shown


def test_a_value_copied_by_another_tenant_stays_blind(tmp_path):
    centre = CENTRES[1]
    rows = [charge(tenant=tenant, cost_centre=centre) for tenant in ("acme", "bolt")]
    data, _ = written(tmp_path / "a.csv", Format.FOCUS_1_2_CSV, FOCUS_1_2, rows)
    text = filled_csv(tmp_path / "a.csv", data, BOOK)[0].decode()
    found = {row["BillingAccountId"]: row["Tags"] for row in csv.DictReader(StringIO(text))}
    assert found == {"acme": json.dumps(SEARCH, separators=(",", ":")), "bolt": ""}


def test_what_a_file_says_in_tags_is_not_taken_over(tmp_path):
    """The server has no tags to tell; only the book says what a value stands for."""
    rows = [charge(cost_centre=CENTRES[3], tags={"team": "invented"})]
    data, _ = written(tmp_path / "a.csv", Format.FOCUS_1_2_CSV, FOCUS_1_2, rows)
    assert b"invented" in data
    assert b"invented" not in filled_csv(tmp_path / "a.csv", data, BOOK)[0]
    data, _ = written(tmp_path / "a.parquet", Format.FOCUS_1_4_PARQUET, FOCUS_1_4, rows)
    (row,) = tagged_rows(FOCUS_1_4, BytesIO(data), Tagging(BOOK))
    assert row["Tags"] is None


def hostile_csvs():
    good = ",".join(FOCUS_1_2.names) + "\r\n"
    cells = dict.fromkeys(FOCUS_1_2.names, "x")
    return {
        b"": "columns",
        b"a,b\r\n": "columns",
        b"\xff": "UTF-8",
        (good + "1,2\r\n").encode(): "1th",
        (good + ",".join({**cells, "BilledCost": "NaN"}.values())).encode(): "1th",
        (good + ",".join({**cells, "BilledCost": "1e999999999"}.values())).encode(): "1th",
        (good + '"' + "x" * 200_000).encode(): "CSV",
        (good + "x" * 3_000_000).encode(): "line of more than",
        (good + '"a"b\r\n').encode(): "CSV",
    }


@pytest.mark.parametrize(("data", "said"), hostile_csvs().items(), ids=lambda _: "")
def test_what_is_no_export_of_ours_is_refused_and_replaces_nothing(tmp_path, data, said):
    path = tmp_path / "a.csv"
    path.write_text("last month")
    with pytest.raises(CounterfoilError, match=said) as caught:
        filled_csv(path, data, BOOK, 2**16)
    assert caught.value.code is Code.MALFORMED
    assert path.read_text() == "last month"


def test_a_file_that_is_no_parquet_of_ours_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    whole, _ = written(path, Format.FOCUS_1_4_PARQUET, FOCUS_1_4, [charge()])
    other = BytesIO()
    pq.write_table(pa.table({"a": [1]}), other)
    old, _ = written(path, Format.FOCUS_1_2_PARQUET, FOCUS_1_2, [charge()])
    for data in (b"", b"PAR1" * 9, whole[:-20], other.getvalue(), old):
        with pytest.raises(CounterfoilError) as caught:
            filled_parquet(tmp_path / "b.parquet", data, BOOK)
        assert caught.value.code is Code.MALFORMED
        assert not (tmp_path / "b.parquet").exists()


def test_a_row_of_another_kind_is_refused():
    for changes in ({"SkuMeter": "Bananas"}, {"x_ModelRoot": "zz"}, {"PricingUnit": "2 1 x"}):
        row = {name: row_of(charge(ChargeKind.INPUT)).get(name) for name in FOCUS_1_4.names}
        with pytest.raises(CounterfoilError) as caught:
            charge_of({**row, **changes})
        assert caught.value.code is Code.MALFORMED
