"""Charges from rows of this project's own FOCUS exports: what a workbook needs to be made where the tags are. Pure.

It is the inverse of `focus_rows` as far as a workbook shows a charge. A charge of a kind without a price (a tax, a credit)
comes back as one of its amount.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from audit_layer.costs.charge import USAGE, AuditState, Charge, ChargeKind
from audit_layer.costs.exports.focus_rows import METERS, PRICED, SECOND
from shared.codec.money import amount_of
from shared.runtime.errors import Code, CounterfoilError

_KINDS: Final[Mapping[str, ChargeKind]] = MappingProxyType(
    {words: kind for kind, words in METERS.items()}
)


def charge_of(row: Mapping[str, Any]) -> Charge:
    """Return the charge of a row, times in ms; MALFORMED for what is no row of ours."""
    try:
        return _charge(row)
    except (KeyError, ValueError, TypeError, ArithmeticError, CounterfoilError) as error:
        raise CounterfoilError(
            Code.MALFORMED, f"a row is none of this project's exports: {error}"[:200]
        ) from error


def _charge(row: Mapping[str, Any]) -> Charge:
    words = row["ChargeDescription"].removeprefix("Correction: ")
    kind = _KINDS[row["SkuMeter"] or words.partition(",")[0]]
    quantity, price, per = _priced(kind, row)
    audit = row["x_AuditState"]
    return Charge(
        tenant=row["BillingAccountId"],
        operator=row["InvoiceIssuerName"],
        kind=kind,
        quantity=quantity,
        unit_price=price,
        per=per,
        amount=amount_of(quantity, price, per),
        currency=row["BillingCurrency"],
        started=row["x_Started"],
        ended=row["x_Ended"],
        period_start=row["BillingPeriodStart"],
        period_end=row["BillingPeriodEnd"],
        node=row["x_Node"],
        model_root=_bytes(row["x_ModelRoot"]),
        model_name=row["x_ModelName"],
        receipt=_bytes(row["x_Receipt"]),
        log_index=row["x_LogIndex"],
        rate_card=_bytes(row["x_RateCard"]),
        cost_centre=_bytes(row["x_CostCentre"]),
        tags=json.loads(row["Tags"]) if row["Tags"] else {},
        invoice_id=row["InvoiceId"],
        correction=row["ChargeClass"] is not None,
        audit=AuditState.UNAUDITED if audit is None else AuditState(audit),
        reason=row["x_Reason"],
        because=_bytes(row["x_Because"]),
    )


def _priced(kind: ChargeKind, row: Mapping[str, Any]) -> tuple[int, Decimal, int]:
    """Return quantity, unit price and what the price is for so many of."""
    if kind not in PRICED:
        return 1, row["BilledCost"], 1
    number, _, unit = row["PricingUnit"].rpartition(" ")
    per = int(number) if number else 1
    gpu = kind is ChargeKind.GPU_SECOND
    if gpu and unit != "GPU-Milliseconds":
        per *= SECOND
    counted = row["ConsumedQuantity"] if kind in USAGE else row["PricingQuantity"]
    quantity = amount_of(SECOND, counted, 1) if gpu else counted
    if quantity != int(quantity):
        raise ValueError(f"{quantity} is no count")
    return int(quantity), row["ListUnitPrice"], per


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
