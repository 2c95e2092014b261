"""Invoices and proofs, built without files."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.reconciling.variance import Key, Owed, Proven
from shared.codec.moment import days_period

ONE, TWO = b"\x01" * 32, b"\x02" * 32
FIRST, END = date(2026, 11, 1), date(2026, 12, 1)
INPUT, CACHED, OUTPUT = TOKENS
PRICES = {INPUT: Fraction(30, 10**6), CACHED: Fraction(3, 10**6), OUTPUT: Fraction(60, 10**6)}
UNIT = {INPUT: "30", CACHED: "3", OUTPUT: "60"}


def tokens(kind: ChargeKind, quantity: int, unit: str | None = None, **changes: Any) -> BilledLine:
    """A line of tokens, priced per million; its amount is exact unless it is given."""
    price = Decimal(unit or UNIT[kind])
    return BilledLine(
        **{
            "place": f"row {quantity}",
            "line_id": f"{kind}-{quantity}",
            "kind": kind,
            "amount": price * quantity / 10**6,
            "quantity": quantity,
            "unit_price": price,
            "per": 10**6,
            "tenant": "acme",
            "model_root": ONE,
            **changes,
        }
    )


def amount(kind: ChargeKind, value: str, **changes: Any) -> BilledLine:
    """A line that has an amount and nothing else."""
    return BilledLine(place="row 1", line_id="x", kind=kind, amount=Decimal(value), **changes)


def invoice(*lines: BilledLine, rounding: str = "0", **changes: Any) -> BilledInvoice:
    """An invoice for November whose total is that of its lines, with the rounding."""
    total = sum((line.amount for line in lines), Decimal(rounding))
    return BilledInvoice(
        **{
            "invoice_id": "N-1",
            "operator": "alpha",
            "currency": "EUR",
            "first": FIRST,
            "end": END,
            "period": days_period(FIRST, END),
            "issued": END,
            "lines": lines,
            "rounding": Decimal(rounding),
            "total": total,
            **changes,
        }
    )


def proven(
    node: str = "one", model: bytes = ONE, *, refused: Mapping[ChargeKind, int] | None = None,
    tenant: str = "acme", prices: Mapping[ChargeKind, Fraction] = PRICES, **counts: int,
) -> Proven:  # fmt: skip
    """What receipts prove of one node and model."""
    counted = {ChargeKind(kind): count for kind, count in counts.items()}
    return Proven(Key(tenant, node, model), counted, prices, refused or {})


def owed(*found: Proven, **changes: Any) -> Owed:
    """What is proven, in euros."""
    return Owed(**{"proven": found, "currency": "EUR", "billing_currency": "EUR", **changes})
