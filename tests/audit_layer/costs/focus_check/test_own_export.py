"""Our own FOCUS export: the findings that it has, each of them known."""

from decimal import Decimal

from audit_layer.costs.focus import Charge, to_csv

from shared.codec.moment import parse_rfc3339
from tests.audit_layer.costs.focus_check.files import check


def _charge(**changes):
    values = {
        "tenant": "acme",
        "operator": "operator-a",
        "node": "node-a",
        "model_root": bytes(32),
        "kind": "output",
        "quantity": 61,
        "unit_price": Decimal("0.6"),
        "per": 1000,
        "amount": Decimal("0.0366"),
        "currency": "EUR",
        "started": parse_rfc3339("2026-11-27T10:00:00.120Z"),
        "ended": parse_rfc3339("2026-11-27T10:00:01.500Z"),
        "period_start": parse_rfc3339("2026-11-01T00:00:00Z"),
        "period_end": parse_rfc3339("2026-12-01T00:00:00Z"),
        "receipt": bytes(32),
        "log_index": 7,
        "rate_card": bytes(32),
    }
    return Charge(**values | changes)


EARLIER = {
    "correction": True,
    "amount": Decimal("-0.0366"),
    "started": parse_rfc3339("2026-10-27T10:00:00Z"),
    "ended": parse_rfc3339("2026-10-27T10:00:01Z"),
}
CHARGES = [
    _charge(),
    _charge(kind="input", quantity=5, unit_price=Decimal(2), per=1, amount=Decimal(10)),
    _charge(log_index=8, receipt=b"\x08" * 32, held=True, cost_centre=b"\x05"),
    _charge(log_index=9, receipt=b"\x09" * 32, reason="confirmed FAIL", **EARLIER),
]
KNOWN = {
    "CF-0102": {"InvoiceId", "ServiceSubcategory"},
    "CF-0103": {
        "CommitmentDiscountCategory",
        "CommitmentDiscountId",
        "CommitmentDiscountName",
        "CommitmentDiscountQuantity",
        "CommitmentDiscountType",
        "CommitmentDiscountUnit",
        "ResourceName",
        "SkuMeter",
        "SkuPriceDetails",
        "SkuPriceId",
    },
    "CF-0204": {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"},
}


def test_the_export_has_the_known_findings_and_no_other(tmp_path):
    report = check(to_csv(CHARGES).encode(), tmp_path, most=100)
    assert {tally.rule.id: set(tally.columns) for tally in report.tallies} == KNOWN
