"""What FOCUS's columns say of a charge, and FOCUS's arithmetic, which holds exactly."""

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.charge import USAGE, AuditState, ChargeKind
from audit_layer.costs.exports import focus_rows
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import OWN, PRICED, row_of, rows_of, shared_cells
from shared.codec.moment import MAX_MS
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import (
    CARD,
    MODEL,
    MONTH,
    RECEIPT,
    VERDICT,
    charge,
    charges,
)

COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
MANDATORY = {
    *COSTS, "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription", "PricingQuantity",
    "PricingUnit", "InvoiceIssuerName", "ServiceCategory", "ServiceName",
}  # fmt: skip


def test_the_versions_have_their_mandatory_columns_and_ours_come_last():
    """1.2 names provider and publisher; 1.4 has service provider and host instead, and the invoice's line."""
    assert MANDATORY | {"ProviderName", "PublisherName"} <= set(FOCUS_1_2.names)
    assert MANDATORY | {"ServiceProviderName", "HostProviderName", "InvoiceDetailId"} <= set(
        FOCUS_1_4.names
    )
    assert not {"ServiceProviderName", "HostProviderName", "InvoiceDetailId"} & set(FOCUS_1_2.names)
    assert not {"ProviderName", "PublisherName", "CommitmentDiscountStatus"} & set(FOCUS_1_4.names)
    for dataset in (FOCUS_1_2, FOCUS_1_4):
        ours = [name.startswith("x_") for name in dataset.names]
        assert ours == sorted(ours)
        assert len(set(dataset.names)) == len(dataset.names)


def test_a_row_of_tokens_says_what_was_used_where_at_what_price():
    row = row_of(
        charge(
            verified_quantity=1150, audit=AuditState.FAILED, invoice_id="7", tags={"team": "r&d"}
        )
    )
    expected = {
        "BilledCost": Decimal("0.00072"), "ListUnitPrice": Decimal("0.60"), "PricingQuantity": Decimal("0.0012"),
        "PricingUnit": "1000000 Tokens", "ConsumedQuantity": Decimal(1200), "ConsumedUnit": "Tokens",
        "BillingAccountId": "acme", "InvoiceIssuerName": "alpha", "ProviderName": "alpha", "HostProviderName": "alpha",
        "BillingCurrency": "EUR", "PricingCurrency": "EUR", "BillingPeriodStart": MONTH.start, "BillingPeriodEnd": MONTH.end,
        "ChargePeriodStart": MONTH.start + 1000, "ChargePeriodEnd": MONTH.start + 3000,
        "x_Started": MONTH.start + 1500, "x_Ended": MONTH.start + 2750,
        "ChargeCategory": "Usage", "ChargeClass": None, "ChargeFrequency": "Usage-Based", "PricingCategory": "Standard",
        "ChargeDescription": f"Output tokens, model tiny ({MODEL.hex()[:16]}), 0.6 EUR per 1000000 Tokens",
        "ServiceCategory": "AI and Machine Learning", "ServiceSubcategory": "Generative AI", "InvoiceId": "7",
        "ResourceId": "alpha/one", "SkuId": f"{MODEL.hex()[:16]}-output", "SkuMeter": "Output tokens",
        "SkuPriceId": f"{MODEL.hex()[:16]}-output@{CARD.hex()[:16]}", "Tags": '{"team":"r&d"}',
        "x_Receipt": RECEIPT.hex(), "x_LogIndex": 5, "x_RateCard": CARD.hex(), "x_ModelRoot": MODEL.hex(), "x_Node": "one",
        "x_VerifiedQuantity": Decimal(1150), "x_QuantityVariance": Decimal(50), "x_AuditState": "failed",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert json.loads(str(row["SkuPriceDetails"])) == {"x_Kind": "output", "x_Model": "tiny"}


def test_a_correction_keeps_the_original_charge_period_and_says_why():
    why = {"reason": "confirmed FAIL: tokens", "because": VERDICT}
    row = row_of(charge(quantity=-1200, correction=True, verified_quantity=9, **why))
    assert row["ChargeClass"] == "Correction"
    assert row["BilledCost"] == Decimal("-0.00072")
    assert row["ChargePeriodStart"] == MONTH.start + 1000
    assert (row["x_Reason"], row["x_Because"]) == ("confirmed FAIL: tokens", VERDICT.hex())
    assert row["x_QuantityVariance"] is None


@pytest.mark.parametrize(
    ("kind", "category", "frequency"),
    [
        (ChargeKind.DISCOUNT, "Credit", "One-Time"), (ChargeKind.CREDIT, "Credit", "One-Time"),
        (ChargeKind.MINIMUM, "Adjustment", "One-Time"), (ChargeKind.FEE, "Purchase", "Recurring"),
        (ChargeKind.TAX, "Tax", "One-Time"), (ChargeKind.ROUNDING, "Adjustment", "One-Time"),
    ],
)  # fmt: skip
def test_a_period_charge_has_its_category_and_a_price_only_where_something_was_bought(
    kind, category, frequency
):
    row = row_of(charge(kind, unit_price=Decimal(10)))
    assert (row["ChargeCategory"], row["ChargeFrequency"]) == (category, frequency)
    priced = (
        "ListUnitPrice",
        "PricingQuantity",
        "PricingUnit",
        "PricingCategory",
        "SkuId",
        "SkuPriceId",
    )
    assert {row.get(name) is not None for name in priced} == {category == "Purchase"}
    assert row["ConsumedQuantity"] is None
    assert row["x_AuditState"] is None
    assert {row[name] for name in COSTS} == {Decimal(10)}


@pytest.mark.parametrize(
    ("kind", "per", "unit", "consumed"),
    [
        (ChargeKind.INPUT, 1, "Tokens", "1234"), (ChargeKind.REQUEST, 1000, "1000 Requests", "1234"),
        (ChargeKind.GPU_SECOND, 1000, "GPU-Seconds", "1.234"), (ChargeKind.GPU_SECOND, 10**6, "1000 GPU-Seconds", "1.234"),
        (ChargeKind.GPU_SECOND, 1, "GPU-Milliseconds", "1.234"),
    ],
)  # fmt: skip
def test_units_are_those_of_the_kind(kind, per, unit, consumed):
    row = row_of(charge(kind, quantity=1234, per=per))
    assert (row["PricingUnit"], row["ConsumedQuantity"]) == (unit, Decimal(consumed))


def test_a_bill_in_another_currency_than_the_rate_card_shows_both_prices():
    row = row_of(
        charge(unit_price=Decimal("0.138"), pricing_currency="USD", fx_rate=Decimal("0.92"))
    )
    assert (row["BillingCurrency"], row["PricingCurrency"]) == ("EUR", "USD")
    assert row["PricingCurrencyListUnitPrice"] == Decimal("0.15")
    assert row["PricingCurrencyEffectiveCost"] == Decimal("0.00018")
    third = row_of(charge(unit_price=Decimal(1), pricing_currency="USD", fx_rate=Decimal(3)))
    assert third["PricingCurrencyListUnitPrice"] == Decimal("0.333333333333333")


def test_a_charge_whose_amount_is_not_quantity_times_price_is_refused():
    with pytest.raises(CounterfoilError, match="is not 1200 × ") as caught:
        row_of(charge(amount=Decimal("0.00073")))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("started", "ended", "end"),
    [(0, 0, 1000), (999, 1000, 1000), (0, 1, 1000), (0, 1001, 2000), (MAX_MS, MAX_MS, MAX_MS)],
)
def test_a_charge_period_is_of_whole_seconds_and_never_empty_but_at_the_end_of_time(
    started, ended, end
):
    row = row_of(charge(started=started, ended=ended))
    assert row["ChargePeriodEnd"] == end


@settings(deadline=None)
@given(charges())
def test_the_identities_of_focus_hold_exactly(found):
    row = row_of(found)
    assert {row[name] for name in COSTS} == {found.amount}
    for price, cost in (
        ("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost"), ("ListUnitPrice", "BilledCost"),
        ("PricingCurrencyListUnitPrice", "PricingCurrencyEffectiveCost"),
    ):  # fmt: skip
        if found.kind in PRICED:
            assert Fraction(row[price]) * Fraction(row["PricingQuantity"]) == Fraction(row[cost])
    assert (
        int(row["ChargePeriodStart"]) <= found.started <= found.ended <= int(row["ChargePeriodEnd"])
    )
    for name in FOCUS_1_2.columns + FOCUS_1_4.columns:
        assert name.nullable or row[name.name] is not None, name


@settings(deadline=None)
@given(st.lists(charges(), max_size=8))
def test_rows_in_a_row_are_the_rows_one_by_one(found):
    again = [*found, *reversed(found)]
    with patch.object(focus_rows, "REMEMBERED", 2):
        rows = list(rows_of(again))
    assert rows == [row_of(one) for one in again]


@settings(deadline=None)
@given(charges(USAGE), charges(USAGE))
def test_shared_cells_depend_on_no_field_that_is_a_charges_own(one, other):
    swapped = replace(one, **{name: getattr(other, name) for name in OWN})
    assert shared_cells(swapped) == shared_cells(one)
