"""Files made at random: a valid one has no finding, and one spoiled cell has at least one."""

from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.focus_check.columns import DATASETS, Kind
from tests.audit_layer.costs.focus_check.files import VALID, charges, check, csv_bytes, kinds

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
AMOUNTS = st.decimals(-(10**9), 10**9, places=6)
PRICES = st.decimals(0, 10**6, places=8)
TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=5)


@st.composite
def usage(draw):
    """Return valid rows of plain usage with exact products."""
    rows = []
    for at in range(draw(st.integers(1, 5))):
        quantity, price = draw(PRICES), draw(PRICES)
        cost = format(quantity * price, "f")
        billed = format(draw(AMOUNTS), "f")
        rows.append(
            {
                **charges()["usage"],
                "PricingCurrency": "Credits",
                "ChargeDescription": f"{at} {draw(TEXT)}",
                "ResourceId": f"node {draw(TEXT)}",
                "PricingQuantity": format(quantity, "f"),
                "BilledCost": billed,
                "EffectiveCost": billed,
                **dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice"), format(price, "f")),
                **dict.fromkeys(("ListCost", "ContractedCost"), cost),
            }
        )
    return rows


@SETTINGS
@given(usage())
def test_valid_rows_have_no_finding(tmp_path, rows):
    report = check(csv_bytes(rows), tmp_path)
    assert report.findings == ()


SPOILED = {
    Kind.DECIMAL: ["1,5", "$1", "1/2", "abc"],
    Kind.DATE_TIME: ["2026-11-05", "05.11.2026 11:00", "2026-11-05T11:00:00"],
    Kind.NATIONAL: ["Euro", "EURO", "€"],
    Kind.STRING: ["N/A", "a\x00"],
    Kind.KEY_VALUE: ["{", "[]", '{"a": {}}'],
    Kind.OBJECT: ["{", "[]"],
    Kind.UNIT: ["null", "\x07"],
    Kind.CURRENCY: ["usd", "N/A"],
}


@SETTINGS
@given(st.data())
def test_one_spoiled_cell_has_a_finding_in_its_row_and_column(tmp_path, data):
    dataset = data.draw(st.sampled_from(sorted(VALID)))
    rows = list(VALID[dataset]().values())
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(sorted(DATASETS[dataset].columns)))
    kind = DATASETS[dataset].columns[column].kind
    rows[at][column] = data.draw(st.sampled_from(SPOILED[kind]))
    report = check(csv_bytes(rows), tmp_path, *dataset)
    assert (at + 2, column) in {(finding.row, finding.column) for finding in report.findings}
    assert not report.conforms


@SETTINGS
@given(st.data())
def test_one_lost_value_of_a_column_without_nulls_has_a_finding(tmp_path, data):
    dataset = data.draw(st.sampled_from(sorted(VALID)))
    columns = DATASETS[dataset].columns
    rows = list(VALID[dataset]().values())
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from([name for name, its in columns.items() if not its.nullable]))
    rows[at][column] = ""
    report = check(csv_bytes(rows), tmp_path, *dataset)
    assert ("CF-0201", at + 2, column) in {(f.rule, f.row, f.column) for f in report.findings}


@SETTINGS
@given(usage(), st.data())
def test_one_changed_amount_has_a_finding(tmp_path, rows, data):
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(["ListCost", "ContractedCost"]))
    change = data.draw(AMOUNTS.filter(bool)) / Decimal(10**12)
    rows[at][column] = format(Decimal(rows[at][column]) + change, "f")
    report = check(csv_bytes(rows), tmp_path)
    assert {(f.row, f.column) for f in report.findings} == {(at + 2, column)}


@SETTINGS
@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_no_bytes_break_the_checker(tmp_path, noise, at):
    content = csv_bytes(list(charges().values()))
    report = check(content[:at] + noise + content[at:], tmp_path)
    assert report.rows >= 0


def test_every_kind_of_column_is_among_the_spoiled():
    assert set(SPOILED) == set(Kind)
    assert kinds(Kind.OBJECT, version="1.4")
