"""Charges as rows of FOCUS Cost and Usage: what each column says. Pure and exact.

The identities of FOCUS hold to the last digit: every cost of a priced row is its unit price × PricingQuantity. Prices in
the rate card's currency are the bill's divided by the rate; where that is no finite decimal, they are rounded half to
even to the 15 digits of the column, and the cost in that currency is that price × PricingQuantity.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from audit_layer.costs.charge import TOKENS, USAGE, Charge, ChargeKind
from audit_layer.costs.exports.table import SCALES, Cell, Kind, Row, decimal_text
from shared.codec.moment import MAX_MS
from shared.codec.money import amount_of
from shared.runtime.errors import Code, CounterfoilError

CATEGORIES: Final[Mapping[ChargeKind, str]] = MappingProxyType(
    {
        **dict.fromkeys(USAGE, "Usage"),
        ChargeKind.DISCOUNT: "Credit",  # it depends on the whole period's usage: granted after the fact
        ChargeKind.CREDIT: "Credit",
        ChargeKind.MINIMUM: "Adjustment",
        ChargeKind.FEE: "Purchase",
        ChargeKind.TAX: "Tax",
        ChargeKind.ROUNDING: "Adjustment",
    }
)
METERS: Final[Mapping[ChargeKind, str]] = MappingProxyType(
    {
        ChargeKind.INPUT: "Input tokens",
        ChargeKind.CACHED: "Cached input tokens",
        ChargeKind.OUTPUT: "Output tokens",
        ChargeKind.REQUEST: "Requests",
        ChargeKind.GPU_SECOND: "GPU time",
        ChargeKind.DISCOUNT: "Volume discount",
        ChargeKind.CREDIT: "Credit",
        ChargeKind.MINIMUM: "Shortfall of the committed minimum",
        ChargeKind.FEE: "Fee",
        ChargeKind.TAX: "Tax",
        ChargeKind.ROUNDING: "Rounding",
    }
)
SERVICE: Final = "Confidential inference"
PRICED: Final = frozenset({*USAGE, ChargeKind.FEE})
"""The kinds whose rows state a price: FOCUS's Usage and Purchase."""
OWN: Final = frozenset(
    {
        "quantity", "amount", "started", "ended", "receipt", "log_index", "verified_quantity", "because",
    }
)  # fmt: skip
"""The fields of a charge that `shared_cells` does not look at."""
_SHARED: Final = attrgetter(
    *(field.name for field in fields(Charge) if field.name not in OWN | {"tags"})
)
REMEMBERED: Final = 4096
"""Combinations of shared fields whose cells `rows_of` keeps."""
SECOND: Final = 1000
"""Milliseconds. FOCUS's times are in whole seconds, and GPU time is counted in ms and told in seconds."""
_WIDE: Final = Context(prec=120, rounding=ROUND_HALF_EVEN)


def row_of(charge: Charge) -> Row:
    """Return one row, with the columns of 1.2 and of 1.4; INVALID_ARGUMENT when its amount is not quantity × price / per."""
    return {**shared_cells(charge), **own_cells(charge)}


def rows_of(charges: Iterable[Charge]) -> Iterator[Row]:
    """Yield the row of each charge. The cells that many share are worked out once."""
    known: dict[object, dict[str, Cell]] = {}
    for charge in charges:
        key = _SHARED(charge), tuple(sorted(charge.tags.items()))
        shared = known.get(key)
        if shared is None:
            if len(known) == REMEMBERED:
                known.clear()
            shared = known[key] = shared_cells(charge)
        yield {**shared, **own_cells(charge)}


def shared_cells(charge: Charge) -> dict[str, Cell]:
    """Return the cells that follow from all fields but `OWN`."""
    root = charge.model_root.hex() if charge.model_root else None
    name = charge.operator
    return {
        **_price_cells(charge),
        "BillingAccountId": charge.tenant,
        "BillingAccountName": charge.tenant,
        "BillingCurrency": charge.currency,
        "BillingPeriodStart": charge.period_start,
        "BillingPeriodEnd": charge.period_end,
        "ChargeCategory": CATEGORIES[charge.kind],
        "ChargeClass": "Correction" if charge.correction else None,
        "ChargeDescription": describe(charge),
        "ChargeFrequency": _frequency(charge.kind),
        "InvoiceId": charge.invoice_id,
        "InvoiceDetailId": charge.invoice_line,
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), name),
        **dict.fromkeys(("ServiceProviderName", "HostProviderName"), name),
        "ResourceId": resource_id(charge.operator, charge.node) if charge.node else None,
        "ResourceName": charge.node,
        "ResourceType": "Inference node" if charge.node else None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": SERVICE,
        "ServiceSubcategory": "Generative AI",
        "Tags": json_text(charge.tags) if charge.tags else None,
        "x_AuditState": charge.audit.value if charge.kind in USAGE else None,
        "x_RateCard": charge.rate_card.hex() if charge.rate_card else None,
        "x_Node": charge.node,
        "x_ModelRoot": root,
        "x_ModelName": charge.model_name,
        "x_CostCentre": charge.cost_centre.hex() if charge.cost_centre else None,
        "x_Reason": charge.reason,
    }


def own_cells(charge: Charge) -> dict[str, Cell]:
    """Return the cells that are a charge's own: quantities, costs, times, receipt."""
    amount = amount_of(charge.quantity, charge.unit_price, charge.per)
    if amount != charge.amount:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"a charge of {charge.amount} {charge.currency} is not {charge.quantity} × {charge.unit_price} / {charge.per}",
        )
    priced, used = charge.kind in PRICED, charge.kind in USAGE
    quantity = amount_of(charge.quantity, Decimal(1), charge.per) if priced else None
    verified = charge.verified_quantity
    variance = (
        None if verified is None or charge.correction or not used else charge.quantity - verified
    )
    return {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), amount),
        "PricingCurrencyEffectiveCost": _foreign_cost(charge, amount, quantity),
        "ChargePeriodStart": charge.started // SECOND * SECOND,
        "ChargePeriodEnd": period_end(charge.started, charge.ended),
        "ConsumedQuantity": exact_quantity(charge.kind, charge.quantity) if used else None,
        "PricingQuantity": quantity,
        "x_Receipt": charge.receipt.hex() if charge.receipt else None,
        "x_LogIndex": charge.log_index,
        "x_Started": charge.started,
        "x_Ended": charge.ended,
        "x_VerifiedQuantity": None if verified is None else exact_quantity(charge.kind, verified),
        "x_QuantityVariance": None if variance is None else exact_quantity(charge.kind, variance),
        "x_Because": charge.because.hex() if charge.because else None,
    }


def period_end(started: int, ended: int) -> int:
    """Return the exclusive end, in ms, of the whole seconds in which something took place: at least one."""
    return min(max(-(-ended // SECOND), started // SECOND + 1) * SECOND, MAX_MS)


def describe(charge: Charge) -> str:
    """Return the charge in words: what, of which model, at what price."""
    words = f"{'Correction: ' * charge.correction}{METERS[charge.kind]}"
    if charge.model_root is not None:
        root = charge.model_root.hex()[:16]
        words += f", model {charge.model_name} ({root})" if charge.model_name else f", model {root}"
    if charge.kind in USAGE:
        words += f", {decimal_text(charge.unit_price)} {charge.currency} per {pricing_unit(charge.kind, charge.per)}"
    return words


def pricing_unit(kind: ChargeKind, per: int) -> str:
    """Return the unit of a price in FOCUS's notation: `Tokens`, `1000 Tokens`, `GPU-Seconds`."""
    name = consumed_unit(kind)
    if kind is ChargeKind.GPU_SECOND:
        if per < SECOND:
            name = "GPU-Milliseconds"
        else:
            per //= SECOND
    return name if per == 1 else f"{per} {name}"


def consumed_unit(kind: ChargeKind) -> str:
    """Return the unit in which a kind is counted."""
    if kind in TOKENS:
        return "Tokens"
    return {ChargeKind.REQUEST: "Requests", ChargeKind.GPU_SECOND: "GPU-Seconds"}.get(kind, "Units")


def sku_id(operator: str, model_root: bytes | None, kind: ChargeKind) -> str:
    """Return what is sold: a kind of consumption of one model, whatever its price."""
    return f"{operator if model_root is None else model_root.hex()[:16]}-{kind}"


def resource_id(operator: str, node: str) -> str:
    """Return the fully qualified name of a node."""
    return f"{operator}/{node}"


def foreign_price(charge: Charge) -> Decimal:
    """Return the unit price in the currency of the rate card."""
    if charge.fx_rate is None:
        return charge.unit_price
    return _divided(charge.unit_price, charge.fx_rate, Kind.PRICE)


def _price_cells(charge: Charge) -> dict[str, Cell]:
    """Return the cells about prices; null where FOCUS wants none (taxes, credits, adjustments)."""
    cells: dict[str, Cell] = {"PricingCurrency": charge.pricing_currency or charge.currency}
    if charge.kind not in PRICED:
        return cells
    sku = sku_id(charge.operator, charge.model_root, charge.kind)
    foreign = foreign_price(charge)
    return {
        **cells,
        "ListUnitPrice": charge.unit_price,
        "ContractedUnitPrice": charge.unit_price,
        "PricingCurrencyListUnitPrice": foreign,
        "PricingCurrencyContractedUnitPrice": foreign,
        "ConsumedUnit": consumed_unit(charge.kind) if charge.kind in USAGE else None,
        "PricingCategory": "Standard",
        "PricingUnit": pricing_unit(charge.kind, charge.per),
        "SkuId": sku,
        "SkuMeter": METERS[charge.kind],
        "SkuPriceId": f"{sku}@{charge.rate_card.hex()[:16]}" if charge.rate_card else sku,
        "SkuPriceDetails": json_text(
            {"x_Kind": charge.kind.value, "x_Model": charge.model_name or charge.model_root.hex()}
            if charge.model_root
            else {"x_Kind": charge.kind.value}
        ),
    }


def _foreign_cost(charge: Charge, amount: Decimal, quantity: Decimal | None) -> Decimal:
    if charge.fx_rate is None:
        return amount
    if quantity is None:
        return _divided(amount, charge.fx_rate, Kind.COST)
    return _WIDE.multiply(foreign_price(charge), quantity)


def _divided(value: Decimal, rate: Decimal, kind: Kind) -> Decimal:
    """Return the quotient: exactly where it has a finite decimal that fits the column, else rounded half to even."""
    context = _WIDE.copy()
    context.clear_flags()
    quotient = context.divide(value, rate)
    step = Decimal(1).scaleb(-SCALES[kind])
    exponent = quotient.normalize(_WIDE).as_tuple().exponent
    if not context.flags[Inexact] and isinstance(exponent, int) and exponent >= -SCALES[kind]:
        return quotient
    return _WIDE.quantize(quotient, step)


def exact_quantity(kind: ChargeKind, quantity: int) -> Decimal:
    """Return a quantity in its `consumed_unit`."""
    return amount_of(quantity, Decimal(1), SECOND if kind is ChargeKind.GPU_SECOND else 1)


def _frequency(kind: ChargeKind) -> str:
    if kind in USAGE:
        return "Usage-Based"
    return "Recurring" if kind is ChargeKind.FEE else "One-Time"


def json_text(pairs: Mapping[str, str]) -> str:
    """Return FOCUS's key-value format: a flat JSON object."""
    return json.dumps(dict(sorted(pairs.items())), ensure_ascii=False, separators=(",", ":"))
