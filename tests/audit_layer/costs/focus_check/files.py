"""Valid FOCUS files of every dataset, one row for each kind of charge, to break one thing at a time."""

import csv
import io
from pathlib import Path

from audit_layer.costs.focus_check.checking import check_file
from audit_layer.costs.focus_check.columns import DATASETS, Kind

Row = dict[str, str]

_BILLING = {
    "BilledCost": "12.5",
    "EffectiveCost": "12.5",
    "ListCost": "12.5",
    "ContractedCost": "12.5",
    "BillingAccountId": "account-1",
    "BillingAccountName": "Acme",
    "BillingAccountType": "Account",
    "BillingCurrency": "EUR",
    "BillingPeriodStart": "2026-11-01T00:00:00Z",
    "BillingPeriodEnd": "2026-12-01T00:00:00Z",
    "ChargePeriodStart": "2026-11-05T10:00:00Z",
    "ChargePeriodEnd": "2026-11-05T11:00:00Z",
    "InvoiceId": "2026-11/7",
    "InvoiceIssuerName": "Operator A",
    "ChargeDescription": "tokens of November",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceSubcategory": "Generative AI",
    "ServiceName": "Confidential inference",
    "RegionId": "eu-1",
    "RegionName": "Europe",
    "SubAccountId": "team-1",
    "SubAccountName": "Research",
    "SubAccountType": "Team",
    "Tags": '{"cost_centre": "4711"}',
    "PricingCurrency": "EUR",
}
_PRICED = {
    "ListUnitPrice": "0.005",
    "ContractedUnitPrice": "0.005",
    "PricingCurrencyListUnitPrice": "0.005",
    "PricingCurrencyContractedUnitPrice": "0.005",
    "PricingQuantity": "2500.0",
    "PricingUnit": "1000 Tokens",
    "PricingCategory": "Standard",
    "SkuId": "sku-1",
    "SkuPriceId": "sku-1-list",
    "SkuMeter": "output",
    "SkuPriceDetails": '{"GpuCount": 8, "InstanceType": "x", "x_Region": "eu"}',
    "ResourceId": "node-a",
    "ResourceName": "Node A",
    "ResourceType": "Node",
}
_USAGE = {
    **_BILLING,
    **_PRICED,
    "PricingCurrencyEffectiveCost": "12.5",
    "ChargeCategory": "Usage",
    "ChargeFrequency": "Usage-Based",
    "ConsumedQuantity": "2500000",
    "ConsumedUnit": "Tokens",
}
_COMMITMENT = {
    "CommitmentDiscountCategory": "Spend",
    "CommitmentDiscountId": "commitment-1",
    "CommitmentDiscountName": "November",
    "CommitmentDiscountQuantity": "12.5",
    "CommitmentDiscountType": "Prepaid",
    "CommitmentDiscountUnit": "Credits",
}
_NOT_PRICED = {**_BILLING, "PricingCurrencyEffectiveCost": "12.5", "ChargeFrequency": "One-Time"}


def _charge(number: int, base: Row, **changes: str) -> Row:
    return {**base, "ChargeDescription": f"charge {number}", **changes}


def charges() -> dict[str, Row]:
    """Return one valid row of FOCUS 1.2 for each kind of charge."""
    zero = {"EffectiveCost": "0", "PricingCurrencyEffectiveCost": "0.0"}
    nothing = {"ConsumedQuantity": "", "ConsumedUnit": ""}
    rows = {
        "usage": _charge(1, _USAGE),
        "reserved": _charge(
            2, _USAGE, CapacityReservationId="reservation-1", CapacityReservationStatus="Used"
        ),
        "used": _charge(
            3,
            {**_USAGE, **_COMMITMENT},
            PricingCategory="Committed",
            CommitmentDiscountStatus="Used",
            BilledCost="0",
        ),
        "unused": _charge(
            4,
            {**_USAGE, **_COMMITMENT, **nothing},
            PricingCategory="Committed",
            CommitmentDiscountStatus="Unused",
            BilledCost="0.0",
            ResourceId="commitment-1",
        ),
        "purchase": _charge(
            5,
            {**_USAGE, **_COMMITMENT, **nothing, **zero},
            ChargeCategory="Purchase",
            ChargeFrequency="Recurring",
            ResourceId="commitment-1",
        ),
        "tax": _charge(6, _NOT_PRICED, ChargeCategory="Tax", ListCost="11"),
        "credit": _charge(
            7,
            _NOT_PRICED,
            ChargeCategory="Credit",
            **dict.fromkeys(
                (
                    "BilledCost",
                    "EffectiveCost",
                    "ListCost",
                    "ContractedCost",
                    "PricingCurrencyEffectiveCost",
                ),
                "-3.25",
            ),
        ),
        "correction": _charge(
            8,
            _USAGE,
            ChargeClass="Correction",
            ListCost="-1",
            ContractedCost="-1",
            ChargePeriodStart="2026-10-05T10:00:00Z",
            ChargePeriodEnd="2026-10-05T11:00:00Z",
        ),
        "adjustment": _charge(9, _NOT_PRICED, ChargeCategory="Adjustment"),
    }
    return {name: complete(row, "cost-and-usage", "1.2") for name, row in rows.items()} | {}


def complete(row: Row, dataset: str, version: str) -> Row:
    """Return a row with every column of a dataset, and two custom ones."""
    columns = DATASETS[dataset, version].columns
    left = {name: row.get(name, "") for name in columns}
    for name, value in (("ProviderName", "Operator A"), ("PublisherName", "Operator A")):
        if name in columns:
            left[name] = row.get(name, value)
    return {**left, "x_Receipt": "ab", "x_LogIndex": "7"}


def charges_1_4() -> dict[str, Row]:
    """Return the same charges as FOCUS 1.4 has them."""
    moved = {}
    for name, row in charges().items():
        provider = row["ProviderName"]
        changed = {
            **row,
            "ServiceProviderName": provider,
            "HostProviderName": "Not Applicable",
            "InvoiceDetailId": "1",
            "AllocatedMethodId": "split",
            "AllocatedResourceId": "pod-1",
            "AllocatedResourceName": "Pod 1",
            "AllocatedTags": '{"app": "search"}',
            "AllocatedMethodDetails": '{"Elements": [{"Ratio": 0.5}]}',
        }
        if (
            name == "correction"
        ):  # the product holds for it as well: prices are not negative, so the quantity is
            changed |= {"PricingQuantity": "-200.0", "ConsumedQuantity": "-200000.0"}
        moved[name] = complete(changed, "cost-and-usage", "1.4")
    return moved


def invoice_details() -> dict[str, Row]:
    """Return two valid rows of Invoice Detail: a part, and the row that has the payment amount."""
    base = {
        **{name: _BILLING[name] for name in ("BillingAccountId", "BillingCurrency")},
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "BilledCost": "12.5",
        "ChargeCategory": "Usage",
        "InvoiceDetailCreated": "2026-12-01T08:00:00Z",
        "InvoiceDetailLastUpdated": "2026-12-01T08:00:00Z",
        "InvoiceDetailGrain": '{"ServiceName": "inference", "x_Kind": "output"}',
        "InvoiceId": "7",
        "InvoiceIssueDate": "2026-12-02T00:00:00Z",
        "InvoiceIssueStatus": "Issued",
        "InvoiceIssuerName": "Operator A",
        "PaymentCurrency": "USD",
        "PaymentDueDate": "2027-01-01T00:00:00Z",
        "PaymentTerms": "Net 30",
        "ReferenceInvoiceId": "7",
        "PaymentCurrencyInvoiceDetailId": "total",
    }
    rows = {
        "part": {**base, "InvoiceDetailId": "1", "PaymentCurrencyBilledCost": "0"},
        "total": {
            **base,
            "InvoiceDetailId": "total",
            "BilledCost": "0",
            "PaymentCurrencyBilledCost": "13.75",
        },
    }
    return {name: complete(row, "invoice-detail", "1.4") for name, row in rows.items()}


def billing_periods() -> dict[str, Row]:
    """Return two valid rows of Billing Period."""
    base = {
        "BillingPeriodCreated": "2026-10-01T00:00:00Z",
        "BillingPeriodLastUpdated": "2026-12-03T00:00:00Z",
        "InvoiceIssuerName": "Operator A",
    }
    rows = {
        "closed": {
            **base,
            "BillingPeriodStart": "2026-10-01T00:00:00Z",
            "BillingPeriodEnd": "2026-11-01T00:00:00Z",
            "BillingPeriodStatus": "Closed",
        },
        "open": {
            **base,
            "BillingPeriodStart": "2026-11-01T00:00:00Z",
            "BillingPeriodEnd": "2026-12-01T00:00:00Z",
            "BillingPeriodStatus": "Open",
        },
    }
    return {name: complete(row, "billing-period", "1.4") for name, row in rows.items()}


VALID = {
    ("cost-and-usage", "1.2"): charges,
    ("cost-and-usage", "1.4"): charges_1_4,
    ("invoice-detail", "1.4"): invoice_details,
    ("billing-period", "1.4"): billing_periods,
}


def csv_bytes(rows: list[Row]) -> bytes:
    """Return rows as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def check(content: bytes, folder: Path, dataset="cost-and-usage", version="1.2", **options):
    """Write a file and check it."""
    path = folder / "file"
    path.write_bytes(content)
    return check_file(path, DATASETS[dataset, version], **options)


def found(report) -> dict[str, int]:
    """Return how often each rule was broken."""
    return {tally.rule.id: tally.count for tally in report.tallies}


def kinds(kind: Kind, dataset="cost-and-usage", version="1.2") -> list[str]:
    """Return the columns of one kind."""
    columns = DATASETS[dataset, version].columns.values()
    return [column.name for column in columns if column.kind is kind]
