"""Reconciliation: why an invoice differs from what receipts prove, in parts that sum to the gap exactly. Pure.

Both sides are added up per (tenant, node, model). The gap is split with exact rationals, in this fixed order. Timing and
rounding are those of the whole invoice; the other parts are found for each key, quantity to price by substituting one
factor after another:

1. *unproven*: keys that no witnessed, ordered receipt supports are billed in full without proof; for other keys, what is
   billed beyond the proven for receipts that are not payable (protocol §8), kind by kind;
2. *timing*: lines for days outside the invoice's own period;
3. *quantity*: the billed totals of prompt and output tokens replace the proven ones, at proven prices;
4. *classification*: the billed split of the prompt into cached and not cached replaces the proven one;
5. *price*: billed unit prices replace the contract's;
6. *rounding*: what the stated amounts and total add to exact quantity × price.

There is no exchange-rate part, because invoice and contract must have one currency: any other is refused. An invoice
that omits proven work shows a negative quantity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.invoices import Invoice, InvoiceLine
from shared.runtime.errors import Code, CounterfoilError

PARTS = ("unproven", "timing", "quantity", "classification", "price", "rounding")
Key = tuple[str, str, str]
"""(tenant, node, model root in hex)"""


@dataclass(frozen=True, slots=True)
class Proven:
    """What receipts prove for one key: tokens by kind, and the contract's price per token."""

    quantities: Mapping[ChargeKind, int]
    prices: Mapping[ChargeKind, Fraction]
    refused: Mapping[ChargeKind, int] = field(default_factory=dict)
    """Tokens of receipts that are not payable."""


@dataclass(slots=True)
class _Billed:
    quantities: dict[ChargeKind, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    value: dict[ChargeKind, Fraction] = field(
        default_factory=lambda: dict.fromkeys(TOKENS, Fraction(0))
    )

    def add(self, line: InvoiceLine) -> None:
        self.quantities[line.kind] += line.quantity
        self.value[line.kind] += line.exact


@dataclass(frozen=True, slots=True)
class KeyVariance:
    """The variance of one key: tokens billed beyond the proven, and its parts in money."""

    key: Key
    tokens: Mapping[ChargeKind, int]
    parts: Mapping[str, Fraction]
    refused: Mapping[ChargeKind, int] = field(default_factory=dict)
    """Of these, tokens billed for receipts that are not payable."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The answer: proven and billed totals, and parts that sum to their difference."""

    invoice_id: str
    operator: str
    currency: str
    proven: Fraction
    billed: Fraction
    parts: Mapping[str, Fraction]
    keys: tuple[KeyVariance, ...]
    held: Fraction = Fraction(0)
    """The part of what is proven that awaits a second worker's verdict: not payable yet."""

    @property
    def gap(self) -> Fraction:
        """Billed − proven."""
        return self.billed - self.proven


def reconcile(
    invoice: Invoice,
    proven: Mapping[Key, Proven],
    *,
    currency: str,
    held: Fraction = Fraction(0),
) -> Reconciliation:
    """Compare an invoice with what receipts prove. CONFLICT when the contract has a different currency."""
    if invoice.currency != currency:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the invoice is in {invoice.currency}, but the contract is in {currency}",
            remedy="Convert it at a rate that both parties signed, and reconcile the result.",
        )
    inside = [line for line in invoice.lines if line.day in invoice.days]
    outside = [line for line in invoice.lines if line.day not in invoice.days]
    billed = _billed_by_key(inside)
    keys = [
        _walk(key, proven.get(key), billed.get(key, _Billed()))
        for key in sorted({*proven, *billed})
    ]
    parts = {name: Fraction(0) for name in PARTS}
    for variance in keys:
        for name, value in variance.parts.items():
            parts[name] += value
    parts["timing"] += sum((line.exact for line in outside), Fraction(0))
    stated = Fraction(invoice.total)
    parts["rounding"] += stated - sum((line.exact for line in invoice.lines), Fraction(0))
    result = Reconciliation(
        invoice_id=invoice.invoice_id,
        operator=invoice.operator,
        currency=currency,
        proven=sum((_value(item) for item in proven.values()), Fraction(0)),
        billed=stated,
        parts=parts,
        keys=tuple(keys),
        held=held,
    )
    assert sum(parts.values()) == result.gap
    return result


def _billed_by_key(lines: Iterable[InvoiceLine]) -> dict[Key, _Billed]:
    billed: dict[Key, _Billed] = {}
    for line in lines:
        billed.setdefault((line.tenant, line.node, line.model_root), _Billed()).add(line)
    return billed


def _value(proven: Proven) -> Fraction:
    return sum(
        (proven.quantities.get(kind, 0) * proven.prices[kind] for kind in TOKENS), Fraction(0)
    )


def _walk(key: Key, proven: Proven | None, billed: _Billed) -> KeyVariance:
    total = sum(billed.value.values(), Fraction(0))
    if proven is None:
        return KeyVariance(key, dict(billed.quantities), {"unproven": total})
    ours = {kind: proven.quantities.get(kind, 0) for kind in TOKENS}
    theirs = billed.quantities
    refused = {
        kind: min(proven.refused.get(kind, 0), max(0, theirs[kind] - ours[kind])) for kind in TOKENS
    }
    base = {kind: ours[kind] + refused[kind] for kind in TOKENS}
    prompt = theirs[ChargeKind.INPUT] + theirs[ChargeKind.CACHED]
    cached = min(base[ChargeKind.CACHED], prompt)
    resized = {
        ChargeKind.INPUT: prompt - cached,
        ChargeKind.CACHED: cached,
        ChargeKind.OUTPUT: theirs[ChargeKind.OUTPUT],
    }
    steps = [*(_at(item, proven) for item in (ours, base, resized, theirs)), total]
    names = ("unproven", "quantity", "classification", "price")
    parts = {name: steps[i + 1] - steps[i] for i, name in enumerate(names)}
    tokens = {kind: theirs[kind] - ours[kind] for kind in TOKENS}
    return KeyVariance(key, tokens, parts, refused)


def _at(quantities: Mapping[ChargeKind, int], proven: Proven) -> Fraction:
    return sum((quantities[kind] * proven.prices[kind] for kind in TOKENS), Fraction(0))
