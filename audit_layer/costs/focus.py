"""FOCUS 1.2 export: rated lines as cost and usage rows (FinOps Open Cost and Usage Specification).

One row per rated line that is payable or held, and one per line of an earlier period that ceased to be payable, or became
so again, in this period (`ChargeClass` Correction). Amounts are exact decimals, times are UTC with `Z`, periods are half-open,
custom columns begin with `x_`. Text cells that a spreadsheet would take for a formula are neutralised with a leading
apostrophe.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from shared.codec.moment import to_rfc3339

COLUMNS: Final = (
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
    "ListUnitPrice",
    "ContractedUnitPrice",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "CommitmentDiscountStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "InvoiceIssuerName",
    "ResourceId",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "Tags",
    "x_Receipt",
    "x_LogIndex",
    "x_RateCard",
    "x_ModelRoot",
    "x_Node",
    "x_Standing",
    "x_Reason",
    "x_Because",
)

NUMERIC: Final = frozenset(
    name for name in COLUMNS if name.endswith(("Cost", "UnitPrice", "Quantity"))
)
FORMULAS: Final = tuple("=+-@\t\r\n＝＋－＠")
"""First characters that make a cell a formula; Excel accepts the full-width forms as well."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One rated line with the context that FOCUS requires. Times in ms; periods half-open."""

    tenant: str
    operator: str
    node: str
    model_root: bytes
    kind: str
    quantity: int
    unit_price: Decimal
    per: int
    amount: Decimal
    currency: str
    started: int
    ended: int
    period_start: int
    period_end: int
    receipt: bytes
    log_index: int
    rate_card: bytes
    cost_centre: bytes | None = None
    correction: bool = False
    """Whether it reverses (negative) or restores a charge of an earlier period."""
    held: bool = False
    """Whether a FAIL awaits a second worker: not payable yet."""
    reason: str | None = None
    because: bytes | None = None
    """Why it is held or corrected, and the entry of the statement that says so."""


def decimal_text(value: Decimal | int) -> str:
    """Write a number as FOCUS requires: no exponent, whole numbers with `.0`."""
    text = format(Decimal(value), "f")
    if "." not in text:
        return f"{text}.0"
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def neutral(text: str) -> str:
    """Keep a spreadsheet from reading text as a formula."""
    return f"'{text}" if text.startswith(FORMULAS) else text


def row_of(charge: Charge) -> dict[str, str]:
    """Return one FOCUS row; every column is present, an empty string is FOCUS's null."""
    amount, unit = decimal_text(charge.amount), decimal_text(charge.unit_price)
    priced_in = "Tokens" if charge.per == 1 else f"{charge.per} Tokens"
    values = {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), amount),
        "ListUnitPrice": unit,
        "ContractedUnitPrice": unit,
        "BillingAccountId": charge.tenant,
        "BillingAccountName": charge.tenant,
        "BillingCurrency": charge.currency,
        "BillingPeriodStart": to_rfc3339(charge.period_start),
        "BillingPeriodEnd": to_rfc3339(charge.period_end),
        "ChargePeriodStart": to_rfc3339(charge.started),
        "ChargePeriodEnd": to_rfc3339(charge.ended),
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if charge.correction else "",
        "ChargeDescription": f"{'correction of ' * charge.correction}{charge.kind} tokens, model {charge.model_root.hex()[:16]}",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": decimal_text(charge.quantity),
        "ConsumedUnit": "Tokens",
        "PricingCategory": "Standard",
        "PricingQuantity": decimal_text(Decimal(charge.quantity) / charge.per),
        "PricingUnit": priced_in,
        "ProviderName": charge.operator,
        "PublisherName": charge.operator,
        "InvoiceIssuerName": charge.operator,
        "ResourceId": f"{charge.operator}/{charge.node}",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Confidential inference",
        "SkuId": f"{charge.model_root.hex()[:16]}-{charge.kind}",
        "Tags": f'{{"cost_centre":"{charge.cost_centre.hex()}"}}' if charge.cost_centre else "",
        "x_Receipt": charge.receipt.hex(),
        "x_LogIndex": str(charge.log_index),
        "x_RateCard": charge.rate_card.hex(),
        "x_ModelRoot": charge.model_root.hex(),
        "x_Node": charge.node,
        "x_Standing": "corrected" if charge.correction else "held" if charge.held else "payable",
        "x_Reason": charge.reason or "",
        "x_Because": charge.because.hex() if charge.because else "",
    }
    return {
        column: values.get(column, "") if column in NUMERIC else neutral(values.get(column, ""))
        for column in COLUMNS
    }


def to_csv(charges: Iterable[Charge]) -> str:
    """Return the export as CSV with a header row (RFC 4180)."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for charge in charges:
        writer.writerow(row_of(charge))
    return out.getvalue()
