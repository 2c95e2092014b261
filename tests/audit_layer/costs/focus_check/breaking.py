"""For every rule a change that breaks it and nothing else, on the valid files of `files`."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from tests.audit_layer.costs.focus_check.files import VALID, Row, csv_bytes

USAGE_1_2 = ("cost-and-usage", "1.2")
DETAIL = ("invoice-detail", "1.4")
PERIOD = ("billing-period", "1.4")


@dataclass(frozen=True)
class Broken:
    """A file that breaks a rule: a change of cells of one row, or of the file's bytes."""

    rule: str
    dataset: tuple[str, str]
    row: str = ""
    cells: tuple[tuple[str, str], ...] = ()
    bytes_of: Callable[[list[Row]], bytes] = csv_bytes

    def content(self) -> bytes:
        rows = VALID[self.dataset]()
        if self.row:
            rows[self.row] = {**rows[self.row], **dict(self.cells)}
        return self.bytes_of(list(rows.values()))

    def __str__(self) -> str:
        return f"{self.rule}-{'-'.join((*self.dataset[:1], self.row, *(name for name, _ in self.cells)))}"


def _usage(rule: str, row: str = "usage", **cells: str) -> Broken:
    return Broken(rule, USAGE_1_2, row, tuple(cells.items()))


def _usage_1_4(rule: str, row: str = "usage", **cells: str) -> Broken:
    return Broken(rule, ("cost-and-usage", "1.4"), row, tuple(cells.items()))


def _detail(rule: str, row: str, **cells: str) -> Broken:
    return Broken(rule, DETAIL, row, tuple(cells.items()))


def _period(rule: str, row: str, **cells: str) -> Broken:
    return Broken(rule, PERIOD, row, tuple(cells.items()))


def _file(rule: str, change: Callable[[list[Row]], bytes]) -> Broken:
    return Broken(rule, USAGE_1_2, bytes_of=change)


def without(*names: str) -> Callable[[list[Row]], bytes]:
    """Return a change that leaves columns out."""
    return lambda rows: csv_bytes(
        [{name: cell for name, cell in row.items() if name not in names} for row in rows]
    )


def renamed(old: str, new: str) -> Callable[[list[Row]], bytes]:
    """Return a change of one column's name."""
    return lambda rows: csv_bytes(rows).replace(old.encode(), new.encode(), 1)


def _first(*names: str) -> Callable[[list[Row]], bytes]:
    def change(rows: list[Row]) -> bytes:
        return csv_bytes([{name: row[name] for name in names} | row for row in rows])

    return change


def _bytes(old: bytes, new: bytes) -> Callable[[list[Row]], bytes]:
    return lambda rows: csv_bytes(rows).replace(old, new, 1)


READING = [
    _file("CF-0001", _bytes(b"Confidential", b"Confidenti\xffal")),
    _file("CF-0002", _bytes(b"charge 4", b'"charge" 4')),
    _file("CF-0003", _bytes(b"charge 4", b"charge,4")),
    _file("CF-0004", _bytes(b"charge 4", b"4" * 131_073)),
    _file("CF-0005", lambda rows: gzip.compress(csv_bytes(rows))[:-12]),
    _file("CF-0007", lambda _: b""),
    _file("CF-0008", lambda rows: b"\xef\xbb\xbf" + csv_bytes(rows)),
]
HEADER = [
    _file("CF-0101", without("ChargeDescription")),
    _file("CF-0102", without("InvoiceId")),
    _file("CF-0103", without("RegionName")),
    _file("CF-0104", renamed("x_LogIndex", "x_Receipt")),
    _file("CF-0105", renamed("x_LogIndex", "LogIndex")),
    _file("CF-0106", renamed("AvailabilityZone", "availability_zone")),
    _file("CF-0107", _first("x_Receipt")),
    _file("CF-0108", renamed("x_Receipt", "x_receipt")),
]
CELLS = [
    _usage("CF-0201", ServiceName=""),
    _usage("CF-0201", ListCost=""),
    _usage("CF-0201", ChargePeriodEnd=""),
    _usage("CF-0201", ChargeCategory=""),
    _usage("CF-0201", PricingCurrency=""),
    _usage("CF-0202", BilledCost="1,5"),
    _usage("CF-0202", BilledCost="+1.5"),
    _usage("CF-0202", BilledCost="12 EUR"),
    _usage("CF-0202", BilledCost="1E+3"),
    _usage("CF-0202", BilledCost="NaN"),
    _usage("CF-0202", BilledCost="1." + "0" * 80),
    _usage("CF-0202", BilledCost="1E999"),
    _usage("CF-0203", ChargePeriodEnd="2026-11-05T11:00:00+01:00"),
    _usage("CF-0203", ChargePeriodEnd="2026-11-05 11:00:00"),
    _usage("CF-0203", ChargePeriodEnd="2026-11-31T11:00:00Z"),
    _usage("CF-0203", ChargePeriodEnd="1793491200"),
    _usage("CF-0204", ChargePeriodEnd="2026-11-05T11:00:00.5Z"),
    _usage("CF-0205", ChargeCategory="usage"),
    _usage("CF-0205", ChargeClass="correction"),
    _usage("CF-0205", ChargeFrequency="Daily"),
    _usage("CF-0205", "adjustment", PricingCategory="On-Demand"),
    _usage("CF-0205", ServiceCategory="AI", ServiceName="another"),
    _usage("CF-0205", ServiceSubcategory="Tokens", ServiceName="another"),
    _usage("CF-0205", "used", CommitmentDiscountStatus="Active"),
    _usage("CF-0205", "reserved", CapacityReservationStatus="Idle"),
    _usage(
        "CF-0205",
        "used",
        CommitmentDiscountCategory="Money",
        CommitmentDiscountId="commitment-2",
    ),
    _usage("CF-0206", BillingCurrency="eur", BillingAccountId="other", InvoiceId=""),
    _usage("CF-0206", BillingCurrency="XXX", BillingAccountId="other", InvoiceId=""),
    _usage("CF-0206", PricingCurrency="eur"),
    _usage("CF-0207", Tags="team=research"),
    _usage("CF-0207", Tags='["research"]'),
    _usage("CF-0207", Tags='{"team": {"name": "research"}}'),
    _usage("CF-0207", Tags='{"team": "a", "team": "b"}'),
    _usage("CF-0207", Tags='{"team": NaN}'),
    _usage_1_4("CF-0208", ContractApplied="commitment-1"),
    _usage_1_4("CF-0208", AllocatedMethodDetails='{"Elements": [{"a": 1, "a": 2}]}'),
    _usage("CF-0209", SkuPriceDetails='{"Region": "eu"}'),
    _usage("CF-0209", SkuPriceDetails='{"GpuCount": "8"}'),
    _usage("CF-0209", SkuPriceDetails='{"GpuCount": true}'),
    _usage("CF-0209", SkuPriceDetails='{"InstanceType": 8}'),
    _detail("CF-0210", "part", InvoiceDetailGrain='{"Kind": "output"}'),
    _usage("CF-0211", ChargeDescription="a\x00b"),
    _usage("CF-0211", x_Receipt="\x1b[31m"),
    _usage("CF-0212", ResourceName="N/A"),
    _usage("CF-0212", AvailabilityZone="null"),
    _usage("CF-0213", ChargeDescription="  "),
    _usage("CF-0214", PricingUnit="tokens"),
    _usage("CF-0214", PricingUnit="1,000 Tokens"),
    _usage("CF-0214", ConsumedUnit="gb-hours"),
    _usage("CF-0215", ChargeDescription="=1+1"),
    _usage("CF-0215", x_Receipt="@SUM(A1)"),
]
NULLS = [
    *(
        _usage("CF-0301", "tax", **{name: cell})
        for name, cell in (
            ("ListUnitPrice", "1"),
            ("ContractedUnitPrice", "1"),
            ("PricingCategory", "Standard"),
            ("PricingCurrencyListUnitPrice", "1"),
            ("PricingCurrencyContractedUnitPrice", "1"),
            ("SkuPriceId", "sku-9"),
        )
    ),
    _usage("CF-0301", "tax", SkuId="sku-9", SkuMeter="output"),
    _usage("CF-0301", "tax", PricingQuantity="1", PricingUnit="Tokens"),
    *(
        _usage("CF-0302", row, **{name: ""})
        for row in ("usage", "purchase")
        for name in (
            "ListUnitPrice",
            "ContractedUnitPrice",
            "PricingCategory",
            "PricingCurrencyListUnitPrice",
            "PricingCurrencyContractedUnitPrice",
        )
    ),
    _usage("CF-0302", PricingQuantity="", PricingUnit=""),
    _usage("CF-0302", SkuId="", SkuMeter="", SkuPriceId="another"),
    _usage("CF-0302", SkuPriceId="", SkuPriceDetails=""),
    *(
        _usage("CF-0303", "tax", **{name: cell})
        for name, cell in (
            ("CommitmentDiscountCategory", "Spend"),
            ("CommitmentDiscountName", "November"),
            ("CommitmentDiscountType", "Prepaid"),
            ("CommitmentDiscountUnit", "Credits"),
            ("CapacityReservationStatus", "Used"),
            ("ConsumedUnit", "Tokens"),
            ("PricingUnit", "Tokens"),
            ("ResourceName", "Node"),
            ("ResourceType", "Node"),
            ("SkuMeter", "output"),
            ("SkuPriceDetails", "{}"),
        )
    ),
    _usage("CF-0303", CommitmentDiscountStatus="Used"),
    _usage(
        "CF-0303", "adjustment", CommitmentDiscountQuantity="1", CommitmentDiscountUnit="Credits"
    ),
    _usage("CF-0304", "used", CommitmentDiscountCategory=""),
    _usage("CF-0304", "used", CommitmentDiscountType=""),
    _usage("CF-0304", "used", CommitmentDiscountUnit=""),
    _usage("CF-0304", ConsumedUnit=""),
    _usage("CF-0304", PricingUnit=""),
    _usage("CF-0304", RegionName=""),
    _usage("CF-0304", ResourceType=""),
    _usage("CF-0304", SubAccountName=""),
    _usage("CF-0304", SubAccountType=""),
    _usage_1_4("CF-0303", InvoiceId=""),
    _usage_1_4("CF-0303", AllocatedMethodId="", AllocatedTags=""),
    _usage_1_4("CF-0303", AllocatedMethodId="", AllocatedResourceId="", AllocatedResourceName=""),
    _usage_1_4("CF-0303", AllocatedResourceId=""),
    _usage_1_4("CF-0304", AllocatedResourceName=""),
    _usage_1_4("CF-0304", InvoiceDetailId=""),
    _usage("CF-0305", "purchase", ConsumedQuantity="1", ConsumedUnit="Tokens"),
    _usage("CF-0305", "unused", ConsumedQuantity="1", ConsumedUnit="Tokens"),
    _usage("CF-0306", ConsumedQuantity="", ConsumedUnit=""),
    _usage("CF-0307", "used", CommitmentDiscountStatus=""),
    _usage("CF-0308", "used", CommitmentDiscountQuantity="", CommitmentDiscountUnit=""),
    _usage("CF-0308", "purchase", CommitmentDiscountQuantity="", CommitmentDiscountUnit=""),
    _usage(
        "CF-0309",
        "tax",
        CommitmentDiscountId="commitment-1",
        CommitmentDiscountCategory="Spend",
        CommitmentDiscountType="Prepaid",
        CommitmentDiscountQuantity="1",
        CommitmentDiscountUnit="Credits",
    ),
    _usage("CF-0310", "reserved", CapacityReservationStatus=""),
    _usage("CF-0311", "purchase", ChargeFrequency="Usage-Based"),
    _usage("CF-0312", "used", PricingCategory="Standard"),
    _usage("CF-0312", "purchase", PricingCategory="Committed"),
    _usage("CF-0313", PricingCategory="Committed"),
    _usage("CF-0314", "unused", ResourceId="node-a"),
    _usage("CF-0314", "purchase", ResourceId="", ResourceName="", ResourceType=""),
    _usage("CF-0315", "purchase", CommitmentDiscountStatus="Unused"),
    _usage("CF-0316", ServiceSubcategory="Virtual Machines", ServiceName="another"),
    _usage("CF-0317", SkuMeter=""),
    _usage_1_4("CF-0318", "adjustment", ListUnitPrice="1"),
    _usage_1_4("CF-0318", "adjustment", PricingQuantity="1", PricingUnit="Tokens"),
    _usage_1_4("CF-0319", "correction", ContractedUnitPrice=""),
    _usage_1_4("CF-0319", "correction", PricingCurrencyListUnitPrice=""),
]
ARITHMETIC = [
    _usage("CF-0401", ListCost="12.51"),
    _usage_1_4("CF-0401", "correction", ListCost="-2"),
    _usage_1_4("CF-0403", "correction", ContractedCost="-2"),
    _usage("CF-0401", ListCost="-12.5"),
    _usage("CF-0401", ListCost="0"),
    _usage("CF-0402", ListUnitPrice="0.0050001", PricingCurrencyListUnitPrice="0.0050001"),
    _usage("CF-0403", ContractedCost="12.49"),
    _usage(
        "CF-0404", ContractedUnitPrice="0.0050001", PricingCurrencyContractedUnitPrice="0.0050001"
    ),
    _usage("CF-0405", "adjustment", ListUnitPrice="-1", PricingQuantity="", PricingUnit=""),
    _usage("CF-0405", "adjustment", ContractedUnitPrice="-1"),
    _usage("CF-0405", "adjustment", PricingCurrencyListUnitPrice="-1"),
    _usage("CF-0405", "adjustment", PricingCurrencyContractedUnitPrice="-1"),
    _usage("CF-0406", "credit", ListCost="0"),
    _usage("CF-0406", "credit", ContractedCost="3.25"),
    _usage("CF-0406", "credit", EffectiveCost="0", PricingCurrencyEffectiveCost="0"),
    _usage("CF-0407", "purchase", EffectiveCost="12.5", PricingCurrency="Credits"),
    _usage("CF-0407", "purchase", PricingCurrencyEffectiveCost="1", PricingCurrency="Credits"),
    _usage("CF-0408", "unused", BilledCost="12.5"),
    _usage("CF-0409", PricingCurrencyListUnitPrice="0.006"),
    _usage("CF-0409", PricingCurrencyEffectiveCost="12"),
]
PERIODS = [
    _usage("CF-0501", ChargePeriodEnd="2026-11-05T10:00:00Z"),
    _usage("CF-0501", "tax", ChargePeriodEnd="2026-11-04T10:00:00Z"),
    _period("CF-0501", "open", BillingPeriodEnd="2026-11-01T00:00:00Z"),
    _usage("CF-0502", ChargePeriodStart="2026-10-31T23:59:59Z"),
    _usage("CF-0502", ChargePeriodEnd="2026-12-01T00:00:01Z"),
    _usage(
        "CF-0502",
        ChargePeriodStart="2026-12-01T00:00:00Z",
        ChargePeriodEnd="2026-12-01T00:00:01Z",
    ),
    _usage("CF-0503", ChargeClass="Correction"),
    _detail("CF-0504", "part", InvoiceDetailLastUpdated="2026-12-01T07:59:59Z"),
    _period("CF-0504", "closed", BillingPeriodLastUpdated="2026-09-30T00:00:00Z"),
]
WHOLE = [
    _file("CF-0601", lambda rows: csv_bytes([*rows, rows[2]])),
    _usage("CF-0602", SkuId="sku-2"),
    _usage("CF-0603", ServiceCategory="Compute", ServiceSubcategory="Virtual Machines"),
    _usage("CF-0604", ServiceSubcategory="AI Platforms"),
    _usage("CF-0605", "used", CommitmentDiscountUnit="Tokens"),
    _usage("CF-0605", "used", CommitmentDiscountCategory="Usage"),
    _usage("CF-0606", BillingPeriodEnd="2026-11-30T00:00:00Z"),
    _usage("CF-0607", BillingCurrency="USD", PricingCurrency="Credits", InvoiceId=""),
    _usage("CF-0608", BillingAccountId="account-2"),
    _usage("CF-0608", InvoiceIssuerName="Operator B"),
    _detail("CF-0608", "total", BillingCurrency="USD"),
    _detail("CF-0609", "total", InvoiceIssueStatus="Open"),
    _detail("CF-0609", "total", InvoiceIssueDate=""),
    _detail("CF-0609", "total", PaymentTerms="Net 60"),
    _detail("CF-0610", "part", InvoiceDetailId="total"),
    _period(
        "CF-0611",
        "closed",
        BillingPeriodStart="2026-11-01T00:00:00Z",
        BillingPeriodEnd="2026-12-01T00:00:00Z",
    ),
    _detail("CF-0612", "part", PaymentCurrencyInvoiceDetailId="sum"),
    _detail("CF-0613", "part", PaymentCurrencyBilledCost="1"),
]
EVERY = [*READING, *HEADER, *CELLS, *NULLS, *ARITHMETIC, *PERIODS, *WHOLE]
ELSEWHERE = {"CF-0006", "CF-0109", "CF-0110"}
"""Broken in test_reading (a large file) and test_parquet (types, which CSV does not have)."""
