"""FOCUS 1.4 Invoice Detail: an operator's invoice, line by line, as its issuer states it. Pure.

One record is one line of the invoice, lines of zero included. What the stated total has beyond the lines (rounding) is a
record of its own, so that the records of an invoice sum to its total exactly. Metrics of a line for which FOCUS has no
column are in `x_` columns, and what makes a line a line (model, node, kind, day) is in InvoiceDetailGrain.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import USAGE, ChargeKind
from audit_layer.costs.exports.focus_rows import (
    CATEGORIES,
    METERS,
    SERVICE,
    consumed_unit,
    exact_quantity,
    json_text,
    pricing_unit,
    resource_id,
    sku_id,
)
from audit_layer.costs.exports.table import Cell, Column, Dataset, Kind, Row
from shared.codec.moment import day_period
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError

INVOICE_DETAIL_1_4: Final = Dataset(
    "InvoiceDetail",
    "1.4",
    (
        Column("BilledCost", Kind.COST),
        Column("BillingAccountId", Kind.TEXT),
        Column("BillingCurrency", Kind.TEXT),
        Column("BillingPeriodEnd", Kind.TIME),
        Column("BillingPeriodStart", Kind.TIME),
        Column("ChargeCategory", Kind.TEXT),
        Column("InvoiceDetailCreated", Kind.TIME),
        Column("InvoiceDetailDescription", Kind.TEXT, nullable=True),
        Column("InvoiceDetailGrain", Kind.IDENTIFIER, nullable=True),
        Column("InvoiceDetailId", Kind.IDENTIFIER),
        Column("InvoiceDetailLastUpdated", Kind.TIME),
        Column("InvoiceId", Kind.TEXT),
        Column("InvoiceIssueDate", Kind.TIME, nullable=True),
        Column("InvoiceIssueStatus", Kind.TEXT),
        Column("InvoiceIssuerName", Kind.TEXT),
        Column("PaymentCurrency", Kind.TEXT),
        Column("PaymentDueDate", Kind.TIME, nullable=True),
        Column("PaymentTerms", Kind.TEXT),
        Column("PurchaseOrderNumber", Kind.TEXT, nullable=True),
        Column("ReferenceInvoiceId", Kind.TEXT),
        Column("x_Quantity", Kind.QUANTITY, nullable=True),
        Column("x_Unit", Kind.TEXT, nullable=True),
        Column("x_UnitPrice", Kind.PRICE, nullable=True),
        Column("x_PricingUnit", Kind.TEXT, nullable=True),
    ),
)
ROUNDING: Final = "rounding"
"""InvoiceDetailId of the record that no line of the invoice states."""


class IssueStatus(StrEnum):
    """FOCUS's InvoiceIssueStatus."""

    OPEN = "Open"
    ISSUED = "Issued"
    VOIDED = "Voided"


@dataclass(frozen=True, slots=True)
class Issue:
    """What FOCUS asks about an invoice beyond its lines. Times in ms."""

    terms: str
    """As the invoice says, for example `Net 30`."""
    created: int
    updated: int
    """When the books took the invoice, and when they last changed what they say about it."""
    status: IssueStatus = IssueStatus.ISSUED
    due: int | None = None
    purchase_order: str | None = None


def invoice_rows(invoices: Iterable[tuple[BilledInvoice, Issue]]) -> Iterator[Row]:
    """Yield the records of invoices; MALFORMED for a line that says nowhere whom it bills."""
    for invoice, issue in invoices:
        yield from _rows(invoice, issue)


def _rows(invoice: BilledInvoice, issue: Issue) -> Iterator[Row]:
    common: dict[str, Cell] = {
        "BillingCurrency": invoice.currency,
        "BillingPeriodStart": invoice.period.start,
        "BillingPeriodEnd": invoice.period.end,
        "InvoiceDetailCreated": issue.created,
        "InvoiceDetailLastUpdated": max(issue.created, issue.updated),
        "InvoiceId": invoice.invoice_id,
        "InvoiceIssueDate": day_period(invoice.issued).start,
        "InvoiceIssueStatus": issue.status.value,
        "InvoiceIssuerName": invoice.operator,
        "PaymentCurrency": invoice.currency,
        "PaymentDueDate": issue.due,
        "PaymentTerms": issue.terms,
        "PurchaseOrderNumber": issue.purchase_order,
        "ReferenceInvoiceId": invoice.corrects or invoice.invoice_id,
    }
    for line in invoice.lines:
        yield {**common, **_line_cells(invoice, line)}
    rest = exact_sum((invoice.total, *(line.amount.copy_negate() for line in invoice.lines)))
    if rest:
        yield {
            **common,
            "BilledCost": rest,
            "BillingAccountId": _account(invoice, invoice.lines[0] if invoice.lines else None),
            "ChargeCategory": CATEGORIES[ChargeKind.ROUNDING],
            "InvoiceDetailDescription": METERS[ChargeKind.ROUNDING],
            "InvoiceDetailId": _unused(ROUNDING, {line.line_id for line in invoice.lines}),
        }


def _line_cells(invoice: BilledInvoice, line: BilledLine) -> dict[str, Cell]:
    used, grain = line.kind in USAGE, _grain(invoice, line)
    counted = line.quantity is not None and used
    return {
        "BilledCost": line.amount,
        "BillingAccountId": _account(invoice, line),
        "ChargeCategory": CATEGORIES[line.kind],
        "InvoiceDetailDescription": line.description or METERS[line.kind],
        "InvoiceDetailGrain": json_text(grain),
        "InvoiceDetailId": line.line_id,
        "x_Quantity": None if line.quantity is None else exact_quantity(line.kind, line.quantity),
        "x_Unit": consumed_unit(line.kind) if counted else None,
        "x_UnitPrice": line.unit_price,
        "x_PricingUnit": pricing_unit(line.kind, line.per)
        if line.unit_price is not None and used
        else None,
    }


def _grain(invoice: BilledInvoice, line: BilledLine) -> dict[str, str]:
    grain = {"ServiceName": SERVICE, "x_Kind": line.kind.value}
    if line.model_root is not None:
        grain["SkuId"] = sku_id(invoice.operator, line.model_root, line.kind)
        grain["x_ModelRoot"] = line.model_root.hex()
    if line.node is not None:
        grain["ResourceId"] = resource_id(invoice.operator, line.node)
    if line.day is not None:
        grain["x_Day"] = line.day.isoformat()
    return grain


def _account(invoice: BilledInvoice, line: BilledLine | None) -> str:
    tenant = (line.tenant if line else None) or invoice.tenant
    if tenant is None:
        place = line.place if line else "the total"
        raise CounterfoilError(
            Code.MALFORMED, f"invoice {invoice.invoice_id} does not say whom {place} bills"
        )
    return tenant


def _unused(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
