"""What a contract makes of a period's usage: discounts, fees, credits, a minimum, exchange, rounding. Pure and exact.

Everything is a finite decimal until the total is rounded, once; what rounding adds is a line of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Final, NamedTuple

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.contracts.terms import Cached, Terms, graduated
from shared.codec.money import exact_sum, format_decimal

_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])


class Used(NamedTuple):
    """Tokens of one model and kind that a period bills, and what they come to in the rate cards' currency."""

    model_root: bytes
    kind: ChargeKind
    tokens: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """What a period bills, corrections of earlier ones included."""

    used: Sequence[Used]
    currency: str
    """Of the rate cards."""
    requests: int = 0
    gpu_ms: int = 0
    """Claimed by nodes, within the bounds of physics."""
    failed: Decimal = Decimal(0)
    """What was taken back in this period because a FAIL was confirmed."""
    cached_saving: Decimal = Decimal(0)
    """What the cached tokens would cost more as fresh ones."""
    held: Decimal = Decimal(0)
    """The part of it that awaits another worker's verdict."""


@dataclass(frozen=True, slots=True)
class PeriodCharge:
    """One charge of the whole period, in the billing currency."""

    kind: ChargeKind
    amount: Decimal
    why: str
    """The arithmetic, in words."""
    id: str = ""
    """Which credit it uses."""
    quantity: int = 1
    unit_price: Decimal | None = None
    per: int = 1


@dataclass(frozen=True, slots=True)
class Bill:
    """A period's bill. `total` = `usage` + charges, rounded; what is held is in it and not due yet."""

    currency: str
    usage: Decimal
    charges: Sequence[PeriodCharge]
    held: Decimal
    total: Decimal
    usage_priced: Decimal
    """The usage in the rate cards' currency."""
    pricing_currency: str
    fx_rate: Decimal = Decimal(1)
    contract: bytes = field(default=bytes(32), repr=False)
    """Digest of the terms."""

    @property
    def due(self) -> Decimal:
        """What is to be paid now."""
        return _EXACT.subtract(self.total, self.held)

    def document(self) -> bytes:
        """Return the bill as canonical JSON with exact decimals."""
        text = format_decimal
        data: dict[str, Any] = {
            "currency": self.currency,
            "usage": text(self.usage),
            "usage_priced": text(self.usage_priced),
            "pricing_currency": self.pricing_currency,
            "fx_rate": text(self.fx_rate),
            "charges": [
                {"kind": charge.kind.value, "amount": text(charge.amount), "why": charge.why, "id": charge.id}
                for charge in self.charges
            ],
            "held": text(self.held),
            "total": text(self.total),
            "contract": self.contract.hex(),
        }  # fmt: skip
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def make_bill(
    usage: Usage, terms: Terms, last_day: date, credits_used: Mapping[str, Decimal]
) -> Bill:
    """Return the bill of a period that ends with `last_day`.

    The order is part of the contract: exchange, cached input, fees, discounts, credits for failed answers, the minimum,
    credits, rounding. `credits_used` is what earlier periods used of each. CONFLICT when there is no exchange rate.
    """
    currency = terms.currency or usage.currency
    rate = Decimal(1) if currency == usage.currency else terms.fx_rate(usage.currency, last_day)
    priced = exact_sum(item.amount for item in usage.used)
    amount = _EXACT.multiply(priced, rate)
    charges = [
        *_cached(usage, terms, rate),
        *_fees(usage, terms),
        *_discounts(usage, terms, rate),
        *_failed(usage, terms, rate),
    ]
    subtotal = exact_sum([amount, *(charge.amount for charge in charges)])
    if terms.minimum and subtotal < terms.minimum:  # without one, corrections may leave a credit
        gap = _EXACT.subtract(terms.minimum, subtotal)
        why = f"minimum {terms.minimum:f} − {format_decimal(subtotal)}"
        charges.append(PeriodCharge(ChargeKind.MINIMUM, gap, why))
        subtotal = terms.minimum
    for charge in _credits(terms, last_day, credits_used, subtotal):
        charges.append(charge)
        subtotal = _EXACT.add(subtotal, charge.amount)
    total, rounding = _rounded(subtotal, terms, currency)
    if rounding:
        why = f"{terms.rounding.mode} to {terms.digits(currency)} digits"
        charges.append(PeriodCharge(ChargeKind.ROUNDING, rounding, why))
    return Bill(
        currency=currency,
        usage=amount,
        charges=tuple(charges),
        held=_EXACT.multiply(usage.held, rate),
        total=total,
        usage_priced=priced,
        pricing_currency=usage.currency,
        fx_rate=rate,
        contract=terms.digest,
    )


def _cached(usage: Usage, terms: Terms, rate: Decimal) -> Sequence[PeriodCharge]:
    if terms.cached is not Cached.AS_INPUT or not usage.cached_saving:
        return ()
    amount = _EXACT.multiply(usage.cached_saving, rate)
    return (PeriodCharge(ChargeKind.FEE, amount, "cached input at the price of fresh input"),)


def _fees(usage: Usage, terms: Terms) -> Sequence[PeriodCharge]:
    fees = (
        (ChargeKind.REQUEST, usage.requests, terms.per_request, 1, "requests"),
        (ChargeKind.GPU_SECOND, usage.gpu_ms, terms.per_gpu_second, 1000, "GPU-milliseconds"),
    )
    return [
        PeriodCharge(
            kind,
            _EXACT.divide(_EXACT.multiply(Decimal(quantity), unit), Decimal(per)),
            f"{quantity} {what} × {unit:f} / {per}",
            quantity=quantity,
            unit_price=unit,
            per=per,
        )
        for kind, quantity, unit, per, what in fees
        if quantity and unit
    ]


def _discounts(usage: Usage, terms: Terms, rate: Decimal) -> Sequence[PeriodCharge]:
    found = []
    for discount in terms.discounts:
        amount = exact_sum(
            _EXACT.multiply(item.amount, rate)
            for item in usage.used
            if discount.model in {None, item.model_root.hex()}
            and discount.kind in {None, item.kind}
        )
        less = graduated(amount, discount.tiers)
        if less:
            steps = ", ".join(f"{tier.percent:f} % above {tier.above:f}" for tier in discount.tiers)
            why = f"{steps}, of {format_decimal(amount)}"
            found.append(PeriodCharge(ChargeKind.DISCOUNT, less.copy_negate(), why))
    return found


def _failed(usage: Usage, terms: Terms, rate: Decimal) -> Sequence[PeriodCharge]:
    if not usage.failed or not terms.credit_for_failed:
        return ()
    share = _EXACT.multiply(usage.failed, _EXACT.multiply(rate, terms.credit_for_failed))
    amount = _EXACT.scaleb(share, -2)
    why = f"{terms.credit_for_failed:f} % of {format_decimal(usage.failed)} under confirmed FAILs"
    return (PeriodCharge(ChargeKind.CREDIT, amount.copy_negate(), why),)


def _credits(
    terms: Terms, last_day: date, used: Mapping[str, Decimal], subtotal: Decimal
) -> Sequence[PeriodCharge]:
    found = []
    for credit in sorted(terms.credits, key=lambda item: (item.valid_to or date.max, item.id)):
        left = _EXACT.subtract(credit.amount, used.get(credit.id, Decimal(0)))
        expired = credit.valid_to is not None and last_day >= credit.valid_to
        take = min(left, subtotal)
        if take > 0 and not expired:
            why = f"credit {credit.id}, of which {format_decimal(left)} was left"
            found.append(PeriodCharge(ChargeKind.CREDIT, take.copy_negate(), why, id=credit.id))
            subtotal = _EXACT.subtract(subtotal, take)
    return found


def _rounded(amount: Decimal, terms: Terms, currency: str) -> tuple[Decimal, Decimal]:
    unit = Decimal(1).scaleb(-terms.digits(currency))
    context = Context(prec=120, rounding=terms.rounding.mode.decimal, traps=[InvalidOperation])
    total = context.quantize(amount, unit)
    return total, _EXACT.subtract(total, amount)
