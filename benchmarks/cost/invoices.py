"""Operators' invoices over a month, written from their own meters, with lies of every kind, and what each must come to."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import TOKENS, ChargeKind
from benchmarks.cost.month import CURRENCIES, HONEST, MODELS, MONTH, NODES, Place, Planted

PER = 1_000_000
FX = Decimal("0.92")
"""EUR for one USD, as operator-b's contracts have it; its invoice uses another rate."""
FX_BILLED = Decimal("0.95")
FIRST, END = date(2026, 10, 1), date(2026, 11, 1)


@dataclass(frozen=True, slots=True)
class Lie:
    """An invoice, and the parts of its variance that were planted, exactly."""

    invoice: BilledInvoice
    parts: dict[str, Fraction]


def price(model: bytes, kind: ChargeKind) -> Decimal:
    """Return the rate card's price of `PER` tokens."""
    n = MODELS.index(model)
    return {
        ChargeKind.INPUT: Decimal(f"{n + 1}.25"),
        ChargeKind.CACHED: Decimal(f"0.{n + 1}25"),
        ChargeKind.OUTPUT: Decimal(f"{n + 4}.5"),
    }[kind]


def worth(model: bytes, tokens: list[int]) -> Fraction:
    """Return what tokens (input, cached, output) come to at the rate card's prices."""
    units = (Fraction(price(model, kind)) / PER for kind in TOKENS)
    return sum((count * unit for count, unit in zip(tokens, units, strict=True)), Fraction(0))


def invoice_of(operator: str, planted: Planted) -> Lie:
    """Return an operator's invoice for everything that its nodes counted, and more."""
    foreign = CURRENCIES[operator] == "USD"
    rate, billed_rate = (FX, FX_BILLED) if foreign else (Decimal(1), Decimal(1))
    parts = dict.fromkeys(("unproven", "quantity", "classification", "price"), Fraction(0))
    lines: list[BilledLine] = []
    lied = (operator, HONEST, NODES[0], MODELS[0])
    dear = (operator, HONEST, NODES[1], MODELS[1])
    for place, metered in sorted(planted.metered.items()):
        if place[0] != operator:
            continue
        tokens, payable = list(metered), planted.payable.get(place, [0, 0, 0])
        parts["unproven"] += worth(place[3], metered) - worth(place[3], payable)
        if place == lied:
            tokens = [tokens[0] + 100, tokens[1] - 100, tokens[2] + 61]
            parts["quantity"] += worth(place[3], [0, 0, 61])
            parts["classification"] += worth(place[3], [100, -100, 0])
        for at, kind in enumerate(TOKENS):
            unit = price(place[3], kind)
            if place == dear and kind is ChargeKind.OUTPUT and not foreign:
                unit += 1
                parts["price"] += Fraction(tokens[at], PER)
            lines.append(_line(len(lines), place, kind, tokens[at], unit * billed_rate))
    billed = sum((line.exact for line in lines), Fraction(0))
    if not foreign:
        ghost = (operator, HONEST, "ghost", MODELS[0])
        lines.append(_line(len(lines), ghost, ChargeKind.OUTPUT, 1000, Decimal("4.5")))
        parts["unproven"] += lines[-1].exact
        lines.append(_line(len(lines), lied, ChargeKind.OUTPUT, 500, Decimal("4.5"), day=END))
        parts["timing"] = lines[-1].exact
    scaled = {name: amount * Fraction(rate) for name, amount in parts.items()}
    scaled["rounding"] = Fraction("0.004")
    scaled["fx"] = billed - billed * Fraction(rate) / Fraction(billed_rate)
    invoice = BilledInvoice(
        invoice_id=f"{operator}-2026-10",
        operator=operator,
        currency="EUR",
        first=FIRST,
        end=END,
        period=MONTH,
        issued=END,
        lines=tuple(lines),
        rounding=Decimal("0.004"),
        total=sum((line.amount for line in lines), Decimal(0)) + Decimal("0.004"),
    )
    return Lie(invoice, {name: amount for name, amount in scaled.items() if amount})


def _line(
    number: int,
    place: Place,
    kind: ChargeKind,
    quantity: int,
    unit: Decimal,
    day: date | None = None,
) -> BilledLine:
    _, tenant, node, model = place
    return BilledLine(
        place=f"row {number + 2}",
        line_id=str(number),
        kind=kind,
        amount=unit * quantity / PER,
        quantity=quantity,
        unit_price=unit,
        per=PER,
        tenant=tenant,
        node=node,
        model_root=model,
        day=day,
    )
