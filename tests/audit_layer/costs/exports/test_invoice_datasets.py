"""FOCUS 1.4's Invoice Detail and Billing Period: what the spec asks of them, and that an invoice's records sum to it."""

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.exports.billing_period import BILLING_PERIOD_1_4, BilledPeriod, period_rows
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.invoice_detail import (
    INVOICE_DETAIL_1_4,
    Issue,
    IssueStatus,
    invoice_rows,
)
from audit_layer.costs.exports.writing import write_table
from shared.codec.moment import day_period
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, MODEL, MONTH

ISSUE = Issue(
    terms="Net 30", created=MONTH.end, updated=MONTH.end + 7000, due=MONTH.end + 30 * 86_400_000
)
LINE = BilledLine(
    "lines[1]", "1", ChargeKind.OUTPUT, Decimal("0.06"), 100, Decimal("0.60"), 1000, "acme", "node-a", MODEL, date(2026, 11, 27)
)  # fmt: skip


def invoice(*lines: BilledLine, **changes: object) -> BilledInvoice:
    values: dict[str, object] = {
        "invoice_id": "2026-11/7", "operator": "alpha", "currency": "EUR", "first": date(2026, 11, 1),
        "end": date(2026, 12, 1), "period": MONTH, "issued": date(2026, 12, 1), "lines": lines, "rounding": Decimal(0),
        "total": exact_sum(line.amount for line in lines), **changes,
    }  # fmt: skip
    return BilledInvoice(**values)  # type: ignore[arg-type]


def test_a_record_is_a_line_with_its_issuer_its_account_and_its_grain():
    (row,) = invoice_rows([(invoice(LINE), ISSUE)])
    expected = {
        "BilledCost": Decimal("0.06"), "BillingAccountId": "acme", "BillingCurrency": "EUR", "PaymentCurrency": "EUR",
        "BillingPeriodStart": MONTH.start, "BillingPeriodEnd": MONTH.end, "ChargeCategory": "Usage",
        "InvoiceId": "2026-11/7", "ReferenceInvoiceId": "2026-11/7", "InvoiceDetailId": "1", "InvoiceIssuerName": "alpha",
        "InvoiceIssueStatus": "Issued", "InvoiceIssueDate": day_period(date(2026, 12, 1)).start, "PaymentTerms": "Net 30",
        "PaymentDueDate": ISSUE.due, "InvoiceDetailCreated": MONTH.end, "InvoiceDetailLastUpdated": MONTH.end + 7000,
        "x_Quantity": Decimal(100), "x_Unit": "Tokens", "x_UnitPrice": Decimal("0.60"), "x_PricingUnit": "1000 Tokens",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert json.loads(str(row["InvoiceDetailGrain"])) == {
        "ServiceName": "Confidential inference", "SkuId": f"{MODEL.hex()[:16]}-output", "ResourceId": "alpha/node-a",
        "x_Kind": "output", "x_ModelRoot": MODEL.hex(), "x_Day": "2026-11-27",
    }  # fmt: skip
    assert set(row) <= set(INVOICE_DETAIL_1_4.names)


def test_a_credit_note_names_the_invoice_that_it_adjusts():
    credit = replace(LINE, amount=Decimal(-1), kind=ChargeKind.CREDIT)
    (row,) = invoice_rows([(invoice(credit, corrects="2026-10/3"), ISSUE)])
    assert row["ReferenceInvoiceId"] == "2026-10/3"
    assert row["ChargeCategory"] == "Credit"


@settings(deadline=None)
@given(
    st.lists(st.decimals(-1000, 1000, places=6), min_size=1, max_size=6),
    st.decimals(-1, 1, places=6),
)
def test_the_records_of_an_invoice_sum_to_its_total_and_have_ids_of_their_own(amounts, rest):
    ids = ("rounding", "2", "rounding-2", "4", "5", "6")
    lines = [replace(LINE, line_id=ids[i], amount=amount) for i, amount in enumerate(amounts)]
    found = invoice(*lines, total=exact_sum((*amounts, rest)))
    rows = list(invoice_rows([(found, ISSUE)]))
    assert exact_sum(row["BilledCost"] for row in rows) == found.total
    assert len({row["InvoiceDetailId"] for row in rows}) == len(rows) == len(lines) + bool(rest)
    for column in INVOICE_DETAIL_1_4.columns:
        assert column.nullable or all(row.get(column.name) is not None for row in rows), column.name


def test_a_line_that_says_nowhere_whom_it_bills_is_refused_by_its_place():
    nobody = replace(LINE, tenant=None)
    with pytest.raises(CounterfoilError, match=r"lines\[1\]") as caught:
        list(invoice_rows([(invoice(nobody), ISSUE)]))
    assert caught.value.code is Code.MALFORMED
    (row,) = invoice_rows([(invoice(nobody, tenant="bolt"), ISSUE)])
    assert row["BillingAccountId"] == "bolt"


def test_a_period_is_open_until_it_was_closed():
    rows = list(
        period_rows(
            [BilledPeriod("alpha", MONTH, 5_250), BilledPeriod("beta", MONTH, 5_250, closed=9_999)]
        )
    )
    assert [row["BillingPeriodStatus"] for row in rows] == ["Open", "Closed"]
    assert [row["BillingPeriodLastUpdated"] for row in rows] == [5_000, 9_000]
    assert {tuple(row) for row in rows} == {BILLING_PERIOD_1_4.names}
    assert (rows[1]["BillingPeriodStart"], rows[1]["BillingPeriodEnd"]) == (MONTH.start, MONTH.end)


def test_both_datasets_are_written_as_csv_and_parquet(tmp_path):
    voided = replace(ISSUE, status=IssueStatus.VOIDED, purchase_order="=PO-1")
    for chosen, dataset, rows in (
        (Format.INVOICE_DETAIL_CSV, INVOICE_DETAIL_1_4, lambda: invoice_rows([(invoice(LINE), voided)])),
        (Format.INVOICE_DETAIL_PARQUET, INVOICE_DETAIL_1_4, lambda: invoice_rows([(invoice(LINE), voided)])),
        (Format.BILLING_PERIOD_CSV, BILLING_PERIOD_1_4, lambda: period_rows([BilledPeriod("alpha", MONTH, 0)])),
        (Format.BILLING_PERIOD_PARQUET, BILLING_PERIOD_1_4, lambda: period_rows([BilledPeriod("alpha", MONTH, 0)])),
    ):  # fmt: skip
        path = tmp_path / f"{chosen.value}.{chosen.container}"
        manifest = write_table(path, chosen, dataset, rows(), ABOUT)
        assert (manifest.rows, manifest.dataset, manifest.version) == (1, dataset.name, "1.4")
        if dataset is INVOICE_DETAIL_1_4:
            assert manifest.totals == {"EUR": {"Usage": "0.06"}}
    lines = (tmp_path / "focus-1.4-invoice-detail-csv.csv").read_text().splitlines()
    assert "Voided" in lines[1]
    assert "'=PO-1" in lines[1]
    (row,) = pq.read_table(tmp_path / "focus-1.4-invoice-detail-parquet.parquet").to_pylist()
    assert row["PurchaseOrderNumber"] == "=PO-1"
