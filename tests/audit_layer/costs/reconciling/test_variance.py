"""Reconciliation: the parts sum to the gap exactly, and each kind of wrong bill lands in its own part."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.intake.ours import billed
from audit_layer.costs.invoices import Invoice
from audit_layer.costs.reconciling.variance import PARTS, Key, Owed, Proven
from audit_layer.costs.reconciling.variance import reconcile as compare
from audit_layer.costs.reporting import as_json, exact, rounded
from shared.runtime.errors import Code, CounterfoilError

MODEL = "ab" * 32
KEY = Key("acme", "node-1", bytes.fromhex(MODEL))
PRICES = {
    ChargeKind.INPUT: Fraction(30, 10**6),
    ChargeKind.CACHED: Fraction(3, 10**6),
    ChargeKind.OUTPUT: Fraction(60, 10**6),
}
UNIT = {ChargeKind.INPUT: "30", ChargeKind.CACHED: "3", ChargeKind.OUTPUT: "60"}


def line(kind, quantity, *, unit=None, node="node-1", day="2026-11-23"):
    unit = unit or UNIT[kind]
    amount = Decimal(unit) * quantity / 10**6
    return {
        "line_id": f"{node}-{kind}-{quantity}-{day}",
        "tenant": "acme",
        "node": node,
        "model_root": MODEL,
        "day": day,
        "kind": kind.value,
        "quantity": quantity,
        "unit_price": unit,
        "per": 10**6,
        "amount": format(amount, "f"),
    }


def invoice(lines, *, rounding="0", **changes):
    exact_total = sum((Decimal(item["amount"]) for item in lines), Decimal(rounding))
    data = {
        "invoice_id": "2026-11",
        "operator": "honest",
        "currency": "EUR",
        "period_start": "2026-11-01",
        "period_end": "2026-12-01",
        "issued_at": "2026-11-23T10:00:00Z",
        "lines": lines,
        "rounding": rounding,
        "total": format(exact_total, "f"),
        **changes,
    }
    return Invoice.parse(json.dumps(data).encode())


def proven(**tokens):
    return [Proven(KEY, {ChargeKind(kind): count for kind, count in tokens.items()}, PRICES)]


def reconcile(given, found, *, currency, **owed):
    return compare([billed(given)], Owed(found, currency, currency, **owed))


def parts(result):
    return {name: value for name, value in result.parts.items() if value}


def test_a_correct_invoice_has_no_variance():
    lines = [
        line(ChargeKind.INPUT, 900),
        line(ChargeKind.CACHED, 100),
        line(ChargeKind.OUTPUT, 500),
    ]
    result = reconcile(invoice(lines), proven(input=900, cached=100, output=500), currency="EUR")
    assert result.gap == 0
    assert parts(result) == {}


def test_an_overclaim_is_a_quantity_variance_to_the_last_token():
    lines = [line(ChargeKind.INPUT, 900), line(ChargeKind.OUTPUT, 561)]
    result = reconcile(invoice(lines), proven(input=900, output=500), currency="EUR")
    assert parts(result) == {"quantity": 61 * PRICES[ChargeKind.OUTPUT]}
    assert result.keys[0].tokens[ChargeKind.OUTPUT] == 61


def test_cached_tokens_billed_as_fresh_are_a_classification_variance():
    lines = [line(ChargeKind.INPUT, 1000), line(ChargeKind.OUTPUT, 1)]
    result = reconcile(invoice(lines), proven(input=400, cached=600, output=1), currency="EUR")
    assert parts(result) == {"classification": 600 * Fraction(27, 10**6)}


def test_another_unit_price_is_a_price_variance():
    lines = [line(ChargeKind.OUTPUT, 1000, unit="66")]
    result = reconcile(invoice(lines), proven(output=1000), currency="EUR")
    assert parts(result) == {"price": Fraction(6, 1000)}


def test_work_without_a_receipt_is_unproven():
    lines = [line(ChargeKind.OUTPUT, 10), line(ChargeKind.OUTPUT, 7, node="node-2")]
    result = reconcile(invoice(lines), proven(output=10), currency="EUR")
    assert parts(result) == {"unproven": 7 * PRICES[ChargeKind.OUTPUT]}


def test_a_day_outside_the_period_is_timing():
    lines = [line(ChargeKind.OUTPUT, 10), line(ChargeKind.OUTPUT, 5, day="2026-12-01")]
    result = reconcile(invoice(lines), proven(output=10), currency="EUR")
    assert parts(result) == {"timing": 5 * PRICES[ChargeKind.OUTPUT]}


def test_rounding_of_the_total_is_the_rounding_part():
    result = reconcile(
        invoice([line(ChargeKind.OUTPUT, 10)], rounding="0.0094"), proven(output=10), currency="EUR"
    )
    assert parts(result) == {"rounding": Fraction(1, 100) - Fraction(600, 10**6)}


def test_proven_work_that_is_not_billed_is_a_negative_quantity():
    result = reconcile(invoice([]), proven(output=10), currency="EUR")
    assert parts(result) == {"quantity": -10 * PRICES[ChargeKind.OUTPUT]}


def test_another_currency_is_refused():
    with pytest.raises(CounterfoilError) as caught:
        reconcile(invoice([]), [], currency="USD")
    assert caught.value.code is Code.CONFLICT


roundings = st.decimals("-0.009999", "0.009999", places=6).map(lambda d: format(d, "f"))
counts = st.fixed_dictionaries({kind.value: st.integers(0, 10**9) for kind in TOKENS})
prices = st.decimals("0", "1000", places=6).map(lambda d: format(d, "f"))


@settings(max_examples=150, deadline=None)
@given(ours=counts, theirs=counts, units=st.tuples(prices, prices, prices), rounding=roundings)
def test_parts_always_sum_to_the_gap(ours, theirs, units, rounding):
    lines = [
        line(kind, theirs[kind.value], unit=unit) for kind, unit in zip(TOKENS, units, strict=True)
    ]
    result = reconcile(invoice(lines, rounding=rounding), proven(**ours), currency="EUR")
    assert sum(result.parts[name] for name in PARTS) == result.gap
    assert result.gap == result.billed - result.proven
    assert result.parts["rounding"] == Fraction(rounding)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"total": 1.5}, "total"),
        ({"total": "1e400"}, "total"),
        ({"total": "NaN"}, "total"),
        ({"currency": "eur"}, "currency"),
        ({"operator": "../x"}, "operator"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_invoice_with_a_bad_field_is_refused_by_its_name(change, field):
    with pytest.raises(CounterfoilError, match=field) as caught:
        invoice([], **change)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 100_000, b"3"])
def test_what_is_not_an_invoice_at_all_is_malformed(data):
    with pytest.raises(CounterfoilError) as caught:
        Invoice.parse(data)
    assert caught.value.code is Code.MALFORMED


def test_exact_numbers_are_written_exactly():
    assert exact(Fraction(1, 8)) == "0.125"
    assert exact(Fraction(1, 3)) == "1/3"
    assert exact(Fraction(-5)) == "-5"
    assert exact(Fraction(12, 10**9)) == "0.000000012"
    assert rounded(Fraction(1, 8)) == "0.12"
    assert exact(Fraction(10**40 + 1, 10**15)) == "1" + "0" * 25 + ".000000000000001"
    assert exact(Fraction(-1, 2**7)) == "-0.0078125"
    assert rounded(Fraction(-1, 3), 6) == "-0.333333"
    assert rounded(Fraction(10**60 + 1, 2), 6) == "5" + "0" * 59 + ".500000"
    assert rounded(Fraction(1, 8), 0) == "0"
    result = reconcile(invoice([line(ChargeKind.OUTPUT, 1)]), proven(output=1), currency="EUR")
    assert json.loads(json.dumps(as_json(result)))["gap"] == "0"
