"""FOCUS rows of any provider, and our own export, are read as an invoice; each row that cannot be is named."""

import csv
import gzip
import io
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit_layer.costs.charge import USAGE, AuditState, Charge, ChargeKind
from audit_layer.costs.exports import formats as exports
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import row_of
from audit_layer.costs.exports.writing import write_table
from audit_layer.costs.intake.focus_rows import Unit, unit_of
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.read import Format, preview, read_invoice
from shared.codec.moment import Period
from tests.audit_layer.costs.exports.made import ABOUT, MODEL, MONTH, charge
from tests.audit_layer.costs.intake.refusals import refusal

STATED = {"invoice_id": "INV-77", "issued_at": "2026-12-01"}
ROW: dict[str, Any] = {
    "BilledCost": "0.6",
    "ContractedCost": "0.6",
    "ContractedUnitPrice": "0.6",
    "BillingAccountId": "acme",
    "BillingCurrency": "EUR",
    "BillingPeriodStart": "2026-11-01T00:00:00Z",
    "BillingPeriodEnd": "2026-12-01T00:00:00Z",
    "ChargePeriodStart": "2026-11-03T10:00:00Z",
    "ChargePeriodEnd": "2026-11-03T11:00:00Z",
    "ChargeCategory": "Usage",
    "ChargeClass": "",
    "ChargeDescription": "Tokens, out",
    "ConsumedQuantity": "1000.0",
    "ConsumedUnit": "Tokens",
    "PricingQuantity": "1.0",
    "PricingUnit": "1000 Tokens",
    "InvoiceIssuerName": "alpha",
    "InvoiceId": "INV-77",
    "SkuId": "abcd-output",
    "SkuMeter": "",
}


def focus(*rows: dict[str, Any]) -> bytes:
    """A FOCUS file with these rows; `...` removes a column from the first row, and so from the file."""
    made = [{**ROW, **row} for row in rows]
    columns = [name for name in made[0] if made[0][name] is not ...]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(made)
    return out.getvalue().encode()


def read(*rows: dict[str, Any], **options):
    return read_invoice(focus(*rows), stated={"issued_at": "2026-12-01"}, **options)


def refused(*rows: dict[str, Any], **options) -> str:
    return refusal(focus(*rows), stated={"issued_at": "2026-12-01"}, **options)


def exported(path: Path, chosen: exports.Format, charges: list[Charge]) -> bytes:
    """What our own export writes."""
    dataset = FOCUS_1_2 if "1.2" in chosen.value else FOCUS_1_4
    write_table(path, chosen, dataset, map(row_of, charges), ABOUT)
    return path.read_bytes()


@pytest.mark.parametrize(
    "chosen", [chosen for chosen in exports.Format if chosen.value.startswith("focus-")]
)
def test_our_own_export_is_read_back_line_by_line(tmp_path, chosen):
    made = [
        charge(),
        charge(ChargeKind.INPUT, quantity=10),
        charge(ChargeKind.CACHED, quantity=0, audit=AuditState.HELD),
        charge(ChargeKind.REQUEST, quantity=7, per=1),
        charge(ChargeKind.GPU_SECOND, quantity=12_345, per=1000),
        charge(quantity=-1200, correction=True, started=MONTH.start - 9000, ended=MONTH.start - 8000),
        charge(ChargeKind.FEE, unit_price=Decimal(5)),
        charge(ChargeKind.CREDIT, unit_price=Decimal(-1)),
        charge(ChargeKind.DISCOUNT, unit_price=Decimal(-2)),
        charge(ChargeKind.TAX, unit_price=Decimal("0.38")),
        charge(ChargeKind.MINIMUM, unit_price=Decimal(3)),
    ]  # fmt: skip
    invoice = read_invoice(exported(tmp_path / "a", chosen, made), stated=STATED)
    for line, one in zip(invoice.lines, made, strict=True):
        told = {ChargeKind.DISCOUNT: ChargeKind.CREDIT, ChargeKind.MINIMUM: ChargeKind.FEE}
        assert (line.kind, line.amount, line.tenant) == (
            told.get(one.kind, one.kind),
            one.amount,
            "acme",
        )
        if one.kind in USAGE:
            assert (line.quantity, line.unit_price, line.per) == (
                one.quantity,
                one.unit_price,
                one.per,
            )
            assert (line.node, line.model_root) == ("one", MODEL)
        assert line.day == (date(2026, 10, 31) if one.correction else date(2026, 11, 1))
    assert (invoice.operator, invoice.currency, invoice.format) == ("alpha", "EUR", "focus")
    assert (invoice.first, invoice.end, invoice.period) == (
        date(2026, 11, 1),
        date(2026, 12, 1),
        MONTH,
    )
    assert (invoice.total, invoice.rounding) == (sum(one.amount for one in made), 0)


def test_an_export_without_a_row_has_no_invoice_in_it(tmp_path):
    for chosen in (exports.Format.FOCUS_1_2_CSV, exports.Format.FOCUS_1_2_PARQUET):
        assert "no row is a line" in refusal(exported(tmp_path / "a", chosen, []), stated=STATED)


def test_a_providers_file_is_known_by_its_header_and_read_out_of_gzip():
    invoice = read({})
    assert (invoice.invoice_id, invoice.operator, invoice.issued) == (
        "INV-77",
        "alpha",
        date(2026, 12, 1),
    )
    [line] = invoice.lines
    assert (line.place, line.line_id, line.kind, line.quantity, line.per) == (
        "row 2",
        "row-2",
        "output",
        1000,
        1000,
    )
    assert (line.unit_price, line.amount, line.day) == (
        Decimal("0.6"),
        Decimal("0.6"),
        date(2026, 11, 3),
    )
    assert line.description == "Tokens, out"
    zipped = gzip.compress(focus({}))
    assert read_invoice(zipped, format=Format.FOCUS, stated={"issued_at": "2026-12-01"}) == invoice


@pytest.mark.parametrize(
    ("row", "kind", "quantity", "per"),
    [
        ({"SkuId": "abcd-cached"}, "cached", 1000, 1000),
        ({"SkuMeter": "Input Tokens"}, "input", 1000, 1000),
        ({"SkuMeter": "Cached Input Tokens"}, "cached", 1000, 1000),
        ({"x_ChargeKind": "input"}, "input", 1000, 1000),
        ({"ConsumedUnit": "", "ConsumedQuantity": ""}, "output", 1000, 1000),
        ({"ConsumedUnit": "1K tokens", "ConsumedQuantity": "1"}, "output", 1000, 1000),
        ({"ConsumedQuantity": "1E3"}, "output", 1000, 1000),
        ({"ConsumedUnit": "Requests", "PricingUnit": "Requests", "ConsumedQuantity": "1", "SkuId": ""}, "request", 1, 1),
        ({"ConsumedUnit": "GPU-Seconds", "PricingUnit": "GPU-Hours", "ConsumedQuantity": "3600"},
         "gpu-second", 3_600_000, 3_600_000),
        ({"ConsumedUnit": "GB", "PricingUnit": "GB-Months"}, "fee", None, 1),
        ({"ChargeCategory": "Tax"}, "tax", None, 1),
        ({"ChargeCategory": "Credit", "BilledCost": "-0.6"}, "credit", None, 1),
        ({"ChargeCategory": "Purchase"}, "fee", None, 1),
        ({"ChargeCategory": "Adjustment"}, "fee", None, 1),
        ({"ChargeCategory": "Adjustment", "BilledCost": "-0.6"}, "credit", None, 1),
        ({"ChargeCategory": "Adjustment", "BilledCost": "0.004", "x_ChargeKind": "rounding"}, "rounding", None, 1),
        ({"ChargeCategory": "Adjustment", "BilledCost": "-0.6", "x_ChargeKind": "discount"}, "discount", None, 1),
        ({"ChargeCategory": "Tax", "x_ChargeKind": "input"}, "tax", None, 1),
        ({"ChargeCategory": "Credit", "BilledCost": "-1", "x_ChargeKind": "output"}, "credit", None, 1),
    ],
)  # fmt: skip
def test_a_row_is_what_its_category_and_unit_say(row, kind, quantity, per):
    [line] = read(row).lines
    assert (line.kind, line.quantity, line.per) == (kind, quantity, per)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("Tokens", Unit("tokens", 1)), ("token", Unit("tokens", 1)), ("1000 Tokens", Unit("tokens", 1000)),
        ("1M tokens", Unit("tokens", 10**6)), ("million tokens", Unit("tokens", 10**6)), ("1K  Tokens", Unit("tokens", 1000)),
        ("Requests", Unit("requests", 1)), ("GPU Hours", Unit("gpu", 3_600_000)), ("GPU-Milliseconds", Unit("gpu", 1)),
        ("GB", None), ("", None), ("0 Tokens", None), ("Token-Months", None), ("tokens tokens", None), ("9999999999B tokens", None),
        ("١ tokens", None),
    ],
)  # fmt: skip
def test_a_unit_is_tokens_requests_gpu_time_or_unknown(text, unit):
    assert unit_of(text) == unit


def test_a_mapping_says_which_column_tells_the_direction_and_what_names_mean():
    given = {
        "format": "focus",
        "columns": {"kind": "x_Direction", "model": "x_Model"},
        "values": {"kind": {"prompt": "input", "completion": "output"}, "operator": {"Alpha Cloud, Inc.": "alpha"},
                   "tenant": {"1234-5678": "acme"}},
        "constants": {"tenant": "acme"},
    }  # fmt: skip
    made = InvoiceMapping.model_validate(given)
    row = {
        "x_Direction": "prompt", "x_Model": "small-7b", "InvoiceIssuerName": "Alpha Cloud, Inc.", "BillingAccountId": "1234-5678",
    }  # fmt: skip
    invoice = read(row, mapping=made, names={"small-7b": b"\xab" * 32}.get)
    assert (invoice.operator, invoice.tenant) == ("alpha", "acme")
    assert (invoice.lines[0].kind, invoice.lines[0].model_root, invoice.lines[0].tenant) == (
        "input",
        b"\xab" * 32,
        "acme",
    )
    told = refused(
        {**row, "x_Direction": "promt"}, mapping=made, names={"small-7b": b"\xab" * 32}.get
    )
    assert "x_Direction" in told
    assert "found “promt”" in told


def test_what_is_stated_of_the_whole_does_not_hide_what_the_rows_say():
    stated = {"issued_at": "2026-12-01", "operator": "beta", "tenant": "bolt"}
    told = refusal(focus({}), stated=stated)
    assert "operator: found “alpha”, expected beta, which stated says" in told
    assert "tenant: found “acme”, expected bolt" in told


def test_a_price_that_the_billed_cost_does_not_follow_is_left_out():
    [line] = read({"PricingUnit": "Requests"}).lines
    assert (line.quantity, line.unit_price, line.amount) == (1000, None, Decimal("0.6"))
    [line] = read({"BilledCost": "0"}).lines
    assert (line.quantity, line.unit_price, line.amount, line.exact) == (1000, None, 0, 0)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"ContractedCost": "0.7"}, "column B (ContractedCost): found “0.7”, expected 1000 × 0.6 / 1000"),
        ({"BilledCost": ""}, "(BilledCost), amount: is empty"),
        ({"BilledCost": "1,5"}, "(BilledCost), amount: found “1,5”"),
        ({"BilledCost": "NaN"}, "(BilledCost), amount: found “NaN”"),
        ({"BillingCurrency": "EUX"}, "(BillingCurrency), currency: found “EUX”"),
        ({"ChargeCategory": "usage"}, "(ChargeCategory): found “usage”, expected one of Usage, Tax"),
        ({"ConsumedQuantity": "0.5"}, "quantity: found “0.5”, expected a whole number"),
        ({"ConsumedQuantity": "-1000", "ContractedCost": "-0.6", "BilledCost": "-0.6"}, "quantity: found “-1000”"),
        ({"ConsumedQuantity": "1E30"}, "quantity: found “1E30”"),
        ({"SkuId": "abcd"}, "kind: nothing says whether these are input, cached or output"),
        ({"ChargePeriodStart": "2026-11-03"}, "(ChargePeriodStart), day: found “2026-11-03”"),
        ({"BillingPeriodStart": "2026-11-01T01:00:00Z"}, "period_start"),
        ({"BillingPeriodEnd": "2026-10-01T00:00:00Z"}, "period_end"),
        ({"BillingAccountId": "Acme Inc"}, "tenant: found “Acme Inc”"),
        ({"InvoiceIssuerName": ""}, "operator: is stated nowhere"),
        ({"InvoiceIssuerName": "=cmd()"}, "operator: found “=cmd()”"),
        ({"InvoiceId": "=1"}, "invoice_id: found “=1”"),
        ({"ChargeCategory": "Credit", "BilledCost": "5"}, "a negative amount"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named(row, named):
    assert named in refused(row)


def test_two_invoices_in_one_file_are_refused():
    assert "invoice_id: found “INV-78”, expected INV-77, which row 2 says" in refused(
        {}, {"InvoiceId": "INV-78"}
    )
    assert "currency: found “USD”, expected EUR" in refused({}, {"BillingCurrency": "USD"})
    told = refused({}, {"BillingPeriodStart": "2026-10-01T00:00:00Z"})
    assert "period_start: found “2026-10-01T00:00:00Z”, expected 2026-11-01" in told


def test_a_correction_of_an_earlier_period_may_be_negative():
    row = {
        "ChargeClass": "Correction",
        "ConsumedQuantity": "-1000",
        "ContractedCost": "-0.6",
        "BilledCost": "-0.6",
    }
    invoice = read({}, {**row, "ChargePeriodStart": "2026-10-03T10:00:00Z"})
    assert [line.quantity for line in invoice.lines] == [1000, -1000]
    assert invoice.total == 0


def test_days_outside_the_period_are_noted_for_reconciliation():
    made = preview(
        focus({"ChargePeriodStart": "2026-10-03T10:00:00Z"}), stated={"issued_at": "2026-12-01"}
    )
    assert made.invoice is not None
    assert any("1 lines are for days outside" in note for note in made.notes)


def test_a_billing_period_in_another_zone_is_read_when_the_mapping_says_so():
    berlin = InvoiceMapping.model_validate(
        {"format": "focus", "dates": {"time_zone": "Europe/Berlin"}}
    )
    row = {"BillingPeriodStart": "2026-10-31T23:00:00Z", "BillingPeriodEnd": "2026-11-30T23:00:00Z"}
    assert read(row, mapping=berlin).period == Period(
        MONTH.start - 3_600_000, MONTH.end - 3_600_000
    )
    assert "set dates.time_zone" in refused(row)


def test_a_header_that_is_not_that_of_focus_is_refused():
    assert "no column BilledCost" in refused({"BilledCost": ...}, format=Format.FOCUS)
    assert "is text, but neither" in refused({"BilledCost": ...})
    doubled = focus({}).replace(b"SkuMeter", b"BilledCost")
    assert "the column “BilledCost” twice" in refusal(doubled, stated=STATED)


def test_a_row_of_another_length_is_refused():
    content = focus({}, {}) + b"1,2,3\r\n"
    assert "row 4: the row has 3 cells, but the header names 20 columns" in refusal(
        content, stated=STATED
    )
