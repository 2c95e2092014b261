"""Our own FOCUS exports conform, by our own strict checker."""

from decimal import Decimal

import pytest

from audit_layer.costs.charge import AuditState, Charge, ChargeKind
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import rows_of
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import csv_lines
from shared.codec.moment import parse_rfc3339
from tests.audit_layer.costs.focus_check.files import check


def _charge(**changes):
    values = {
        "tenant": "acme",
        "operator": "operator-a",
        "node": "node-a",
        "model_root": bytes(32),
        "kind": ChargeKind.OUTPUT,
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
        "invoice_id": "2026-11/7",
        "invoice_line": "12",
    }
    return Charge(**values | changes)


EARLIER = {
    "correction": True,
    "quantity": -61,
    "amount": Decimal("-0.0366"),
    "started": parse_rfc3339("2026-10-27T10:00:00Z"),
    "ended": parse_rfc3339("2026-10-27T10:00:01Z"),
}
CHARGES = [
    _charge(),
    _charge(kind=ChargeKind.INPUT, quantity=5, unit_price=Decimal(2), per=1, amount=Decimal(10)),
    _charge(log_index=8, receipt=b"\x08" * 32, audit=AuditState.HELD, cost_centre=bytes(32)),
    _charge(log_index=9, receipt=b"\x09" * 32, reason="confirmed FAIL", **EARLIER),
]
WHOLE = {
    "node": None,
    "model_root": None,
    "receipt": None,
    "log_index": None,
    "rate_card": None,
    "quantity": 1,
    "per": 1,
    "started": parse_rfc3339("2026-11-01T00:00:00Z"),
    "ended": parse_rfc3339("2026-12-01T00:00:00Z"),
}
AMOUNTS = {
    ChargeKind.DISCOUNT: "-1.5",
    ChargeKind.CREDIT: "-2",
    ChargeKind.MINIMUM: "3",
    ChargeKind.FEE: "4",
    ChargeKind.TAX: "1",
    ChargeKind.ROUNDING: "0.004",
}
CHARGES += [
    _charge(kind=kind, unit_price=Decimal(amount), amount=Decimal(amount), **WHOLE)
    for kind, amount in AMOUNTS.items()
]


@pytest.mark.parametrize(("dataset", "version"), [(FOCUS_1_2, "1.2"), (FOCUS_1_4, "1.4")])
def test_the_export_has_no_findings(tmp_path, dataset, version):
    text = "".join(csv_lines(dataset, rows_of(CHARGES), Totals()))
    report = check(text.encode(), tmp_path, version=version, most=100)
    assert {tally.rule.id: set(tally.columns) for tally in report.tallies} == {}
