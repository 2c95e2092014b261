"""Invoices of every shape: whatever a line says or leaves out, the parts sum to the gap, and each wrong lands in its own."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.billed import BilledLine
from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.reconciling.variance import (
    PARTS,
    Owed,
    Reconciliation,
    reconcile,
)
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.reconciling.built import (
    CACHED,
    INPUT,
    ONE,
    OUTPUT,
    PRICES,
    TWO,
    amount,
    invoice,
    owed,
    proven,
    tokens,
)

USD = {"currency": "USD", "fx_rate": Fraction("0.9")}


def parts(result: Reconciliation) -> dict[str, Fraction]:
    assert sum(result.parts.values()) == result.gap == result.billed - result.proven
    return {name: value for name, value in result.parts.items() if value}


# -- coarser invoices ----------------------------------------------------------------------------------------------


def test_an_invoice_that_names_no_node_is_compared_with_all_nodes_together():
    found = owed(proven("one", input=400, output=10), proven("two", input=600, output=20))
    assert parts(reconcile([invoice(tokens(INPUT, 1000), tokens(OUTPUT, 30))], found)) == {}
    result = reconcile([invoice(tokens(INPUT, 1000), tokens(OUTPUT, 37))], found)
    assert parts(result) == {"quantity": 7 * PRICES[OUTPUT]}
    (key,) = result.keys
    assert key.key == ("acme", None, ONE)


def test_one_line_without_a_model_makes_the_whole_invoice_one_without_models():
    found = owed(proven(model=ONE, output=10), proven(model=TWO, output=20))
    lines = (tokens(OUTPUT, 10), tokens(OUTPUT, 20, model_root=None))
    result = reconcile([invoice(*lines)], found)
    assert parts(result) == {}
    assert [key.key for key in result.keys] == [("acme", None, None)]


def test_models_that_are_named_are_compared_one_by_one():
    """Too much of one and too little of the other do not cancel out of sight."""
    found = owed(proven(model=ONE, output=10), proven(model=TWO, output=20))
    result = reconcile([invoice(tokens(OUTPUT, 15), tokens(OUTPUT, 15, model_root=TWO))], found)
    assert parts(result) == {}
    assert {k.key.model_root: k.parts["quantity"] for k in result.keys} == {
        ONE: 5 * PRICES[OUTPUT], TWO: -5 * PRICES[OUTPUT],
    }  # fmt: skip


def test_a_model_that_nobody_proves_is_unproven():
    found = owed(proven(output=10))
    lines = (tokens(OUTPUT, 10), tokens(OUTPUT, 4, model_root=TWO))
    assert parts(reconcile([invoice(*lines)], found)) == {"unproven": 4 * PRICES[OUTPUT]}


def test_a_price_that_changed_within_the_days_is_averaged_by_quantity():
    dear = {**PRICES, OUTPUT: Fraction(90, 10**6)}
    found = owed(proven(output=100), proven(output=200, prices=dear))
    lines = (tokens(OUTPUT, 100), tokens(OUTPUT, 200, "90"))
    assert parts(reconcile([invoice(*lines)], found)) == {}
    assert parts(reconcile([invoice(tokens(OUTPUT, 300, "80"))], found)) == {}


# -- amounts alone -------------------------------------------------------------------------------------------------


def test_a_line_with_only_an_amount_differs_in_price():
    found = owed(proven(input=1000, output=500))
    exact = 1000 * PRICES[INPUT] + 500 * PRICES[OUTPUT]
    line = amount(OUTPUT, "0.07", tenant="acme", model_root=ONE)
    result = reconcile([invoice(line)], found)
    assert parts(result) == {"price": Fraction("0.07") - exact}
    assert result.keys[0].tokens == {}


def test_amounts_beside_quantities_are_price_too():
    line = amount(OUTPUT, "0.5", tenant="acme", model_root=ONE)
    result = reconcile([invoice(tokens(OUTPUT, 500), line)], owed(proven(output=500)))
    assert parts(result) == {"price": Fraction("0.5")}


# -- charges of the whole period -----------------------------------------------------------------------------------


def test_the_contracts_charges_are_expected_and_others_are_price_or_unproven():
    terms = {
        ChargeKind.DISCOUNT: Fraction(-5),
        ChargeKind.CREDIT: Fraction(-2),
        ChargeKind.MINIMUM: Fraction(3),
        ChargeKind.REQUEST: Fraction(1),
    }
    found = owed(proven(output=10), terms=terms)
    agreed = (
        tokens(OUTPUT, 10), amount(ChargeKind.DISCOUNT, "-5"), amount(ChargeKind.CREDIT, "-2"),
        amount(ChargeKind.MINIMUM, "3"), amount(ChargeKind.REQUEST, "1"),
    )  # fmt: skip
    assert parts(reconcile([invoice(*agreed)], found)) == {}
    less = (*agreed[:1], amount(ChargeKind.DISCOUNT, "-4"), *agreed[2:])
    result = reconcile([invoice(*less)], found)
    assert parts(result) == {"price": Fraction(1)}
    assert result.terms == {ChargeKind.DISCOUNT: Fraction(1)}
    for kind, of in ((ChargeKind.FEE, "unproven"), (ChargeKind.CREDIT, "price"), (ChargeKind.GPU_SECOND, "price")):  # fmt: skip
        assert parts(reconcile([invoice(*agreed, amount(kind, "7"))], found)) == {of: Fraction(7)}


def test_tax_is_on_neither_side():
    found = owed(proven(output=10**6))
    result = reconcile([invoice(tokens(OUTPUT, 10**6), amount(ChargeKind.TAX, "11.40"))], found)
    assert parts(result) == {}
    assert (result.billed, result.tax) == (Fraction(60), Fraction("11.40"))


def test_rounding_of_lines_and_of_the_total_is_rounding_alone():
    """1000 lines of 0.00375 are 3.75, and 10 where each is rounded up to a cent."""
    price = {**PRICES, OUTPUT: Fraction("0.00375")}
    line = tokens(OUTPUT, 1, "3750")
    found = owed(proven(output=1000, prices=price))
    once = reconcile([invoice(*[line] * 1000)], found)
    assert (once.gap, parts(once)) == (0, {})
    each = reconcile([invoice(*[replace(line, amount=Decimal("0.01"))] * 1000)], found)
    assert parts(each) == {"rounding": Fraction("6.25")}
    total = reconcile([invoice(line, rounding="0.00625")], owed(proven(output=1, prices=price)))
    assert parts(total) == {"rounding": Fraction("0.00625")}


def test_lines_of_other_days_are_timing_whatever_they_are():
    outside = date(2026, 12, 1)
    lines = (
        tokens(OUTPUT, 10), tokens(OUTPUT, 5, day=outside), amount(ChargeKind.FEE, "2", day=outside),
        amount(ChargeKind.TAX, "1", day=outside),
    )  # fmt: skip
    result = reconcile([invoice(*lines)], owed(proven(output=10)))
    assert parts(result) == {"timing": 5 * PRICES[OUTPUT] + 2}


# -- exchange ------------------------------------------------------------------------------------------------------


def test_another_exchange_rate_is_fx_and_another_price_is_price():
    found = owed(proven(input=1000, output=10**6), **USD)
    agreed = (tokens(INPUT, 1000, "27"), tokens(OUTPUT, 10**6, "54"))
    assert parts(reconcile([invoice(*agreed)], found)) == {}
    dear = (tokens(INPUT, 1000, "30"), tokens(OUTPUT, 10**6, "60"))
    result = reconcile([invoice(*dear)], found)
    assert parts(result) == {"fx": (1000 * PRICES[INPUT] + 60) / 10}
    assert result.fx_billed == 1
    one_price = (tokens(INPUT, 1000, "27"), tokens(OUTPUT, 10**6, "60"))
    result = reconcile([invoice(*one_price)], found)
    assert parts(result) == {"price": Fraction(6)}
    assert result.fx_billed is None


def test_quantity_beside_another_rate_is_told_apart_from_it():
    """7 tokens too many at the agreed rate; what the other rate adds is added to all of them."""
    result = reconcile([invoice(tokens(OUTPUT, 107, "60"))], owed(proven(output=100), **USD))
    assert parts(result) == {
        "quantity": 7 * PRICES[OUTPUT] * Fraction("0.9"), "fx": 107 * PRICES[OUTPUT] / 10,
    }  # fmt: skip


def test_an_invoice_in_another_currency_than_the_contracts_is_refused():
    with pytest.raises(CounterfoilError, match="bills in EUR") as caught:
        reconcile([invoice(tokens(OUTPUT, 1), currency="USD")], owed(proven(output=1)))
    assert caught.value.code is Code.CONFLICT


# -- credit notes --------------------------------------------------------------------------------------------------


def test_a_credit_note_is_added_to_what_it_corrects():
    found = owed(proven(output=100))
    over = invoice(tokens(OUTPUT, 161))
    note = invoice(tokens(OUTPUT, -61), invoice_id="C-1", corrects="N-1")
    assert parts(reconcile([over], found)) == {"quantity": 61 * PRICES[OUTPUT]}
    result = reconcile([over, note], found)
    assert parts(result) == {}
    assert result.invoice_id == "N-1"
    partly = invoice(amount(ChargeKind.CREDIT, "-0.001"), invoice_id="C-1", corrects="N-1")
    assert parts(reconcile([over, partly], found)) == {
        "quantity": 61 * PRICES[OUTPUT], "price": Fraction("-0.001"),
    }  # fmt: skip


# -- classification ------------------------------------------------------------------------------------------------


def test_a_tracker_that_saw_fewer_cached_tokens_differs_by_classification_alone():
    """0.939487 was computed with 49 563 cached tokens, and 0.865846 billed with 65 304: 15 741 tokens are the whole gap."""
    units = {INPUT: "5.1981", CACHED: "0.5198", OUTPUT: "26.0076"}
    price = {kind: Fraction(unit) / 10**6 for kind, unit in units.items()}
    prompt, output = 165_304, 12_000
    found = owed(proven(input=prompt - 49_563, cached=49_563, output=output, prices=price))
    lines = (
        tokens(INPUT, prompt - 65_304, units[INPUT]), tokens(CACHED, 65_304, units[CACHED]),
        tokens(OUTPUT, output, units[OUTPUT]),
    )  # fmt: skip
    result = reconcile([invoice(*lines)], found)
    assert (f"{float(result.proven):.6f}", f"{float(result.billed):.6f}") == ("0.939487", "0.865846")  # fmt: skip
    moved = 65_304 - 49_563
    assert parts(result) == {"classification": moved * (price[CACHED] - price[INPUT])}
    assert result.keys[0].tokens == {INPUT: -moved, CACHED: moved, OUTPUT: 0}


@given(prompt=st.integers(0, 10**6), data=st.data())
def test_the_same_prompt_split_otherwise_is_classification_alone(prompt: int, data: st.DataObject):
    ours, theirs = (data.draw(st.integers(0, prompt)) for _ in range(2))
    found = owed(proven(input=prompt - ours, cached=ours, output=5))
    lines = (tokens(INPUT, prompt - theirs), tokens(CACHED, theirs), tokens(OUTPUT, 5))
    expected = (theirs - ours) * (PRICES[CACHED] - PRICES[INPUT])
    result = reconcile([invoice(*lines)], found)
    assert parts(result) == ({"classification": expected} if expected else {})


# -- any invoice ---------------------------------------------------------------------------------------------------

money = st.decimals("-1000", "1000", places=6).map(str)
units = st.decimals("0", "100", places=6).map(str)
where = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["acme", None]),
        "node": st.sampled_from(["one", "two", None]),
        "model_root": st.sampled_from([ONE, TWO, None]),
        "day": st.sampled_from([date(2026, 11, 5), date(2026, 12, 1), None]),
    }
)
counted = st.builds(
    lambda kind, count, unit, off, place: replace(tokens(kind, count, unit, **place), amount=Decimal(off)),
    st.sampled_from(TOKENS), st.integers(-1000, 10**6), units, money, where,
)  # fmt: skip
unpriced = st.builds(
    lambda kind, count, value, place: amount(kind, value, quantity=count, **place),
    st.sampled_from(TOKENS), st.none() | st.integers(0, 1000), money, where,
)  # fmt: skip
charges = st.builds(
    lambda kind, value, place: amount(kind, value, **place),
    st.sampled_from([kind for kind in ChargeKind if kind not in TOKENS]), money, where,
)  # fmt: skip
counts = st.fixed_dictionaries({kind.value: st.integers(0, 10**6) for kind in TOKENS})
proofs = st.builds(
    lambda node, model, found, refused: proven(node, model, refused=refused, **found),
    st.sampled_from(["one", "two"]), st.sampled_from([ONE, TWO]), counts,
    st.dictionaries(st.sampled_from(TOKENS), st.integers(0, 1000)),
)  # fmt: skip
agreed = st.dictionaries(
    st.sampled_from([ChargeKind.DISCOUNT, ChargeKind.FEE, ChargeKind.MINIMUM]),
    st.fractions(-10, 10),
    max_size=2,
)
exchanges = st.sampled_from([{}, USD])


@settings(deadline=None)
@given(
    lines=st.lists(counted | unpriced | charges, max_size=8),
    note=st.lists(counted | charges, max_size=2),
    proofs=st.lists(proofs, max_size=4),
    terms=agreed,
    exchange=exchanges,
    rounding=money,
)
def test_the_parts_of_any_invoice_sum_to_its_gap(
    lines: list[BilledLine], note: list[BilledLine], proofs: list[object], terms: dict[ChargeKind, Fraction],
    exchange: dict[str, object], rounding: str,
):  # fmt: skip
    """Recomputed here: what is billed is the total without tax, what is proven is tokens at card prices and the terms."""
    found: Owed = owed(*proofs, terms=terms, **exchange)  # type: ignore[arg-type]
    both = [invoice(*lines, rounding=rounding), invoice(*note, invoice_id="C-1", corrects="N-1")]
    result = reconcile(both, found)
    parts(result)
    assert set(result.parts) == set(PARTS)
    tax = sum(Fraction(line.amount) for line in (*lines, *note) if line.kind is ChargeKind.TAX)
    assert result.billed == sum(Fraction(one.total) for one in both) - tax
    worth = sum(item.tokens[kind] * item.prices[kind] for item in found.proven for kind in TOKENS)
    assert result.proven == worth * found.fx_rate + sum(terms.values())
    for key in result.keys:
        assert all(count >= 0 for count in key.refused.values())
