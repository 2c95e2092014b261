"""Why an invoice differs from what receipts and the contract prove, in parts that sum to the gap exactly. Pure.

Both sides are added up by those of tenant, node and model that every line of the invoice names. The gap is split with exact
rationals by substituting one factor after another, in this fixed order:

1. *unproven*: what no witnessed, ordered receipt supports: keys without one are billed in full without proof; for other
   keys, what is billed beyond the proven for receipts that are not payable (protocol §8), kind by kind; fees that the
   contract does not have;
2. *quantity*: the billed totals of prompt and output tokens replace the proven ones, at proven prices;
3. *classification*: the billed split of the prompt into cached and not cached replaces the proven one;
4. *price*: billed unit prices replace the contract's; discounts, credits, minimum and fees other than the contract's;
5. *fx*: where the bill is in another currency than the rate card, the billed exchange rate replaces the contract's. The
   billed rate is the one number that, times the card's prices, gives every billed price; without such a number the
   difference is one of price;
6. *timing*: lines for days outside the invoice's own period;
7. *rounding*: what the stated amounts and total add to exact quantity × price.

Tax is left out of both sides. An invoice that omits proven work shows a negative quantity.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import TOKENS, ChargeKind
from shared.runtime.errors import Code, CounterfoilError

PARTS: Final = ("unproven", "quantity", "classification", "price", "fx", "timing", "rounding")
_TERMS: Final = (
    *(ChargeKind.REQUEST, ChargeKind.GPU_SECOND, ChargeKind.DISCOUNT),
    *(ChargeKind.CREDIT, ChargeKind.MINIMUM, ChargeKind.FEE),
)
"""Charges of a whole period that the contract decides."""
ZERO: Final = Fraction(0)


class Key(NamedTuple):
    """What lines are compared by; None where the invoice does not tell them apart."""

    tenant: str | None
    node: str | None
    model_root: bytes | None

    def only(self, named: Sequence[bool]) -> "Key":
        """Return the key without the parts that are not named."""
        tenant, node, model = named
        return Key(
            self.tenant if tenant else None,
            self.node if node else None,
            self.model_root if model else None,
        )


@dataclass(frozen=True, slots=True)
class Proven:
    """What receipts prove for one tenant, node and model: tokens by kind, and the rate card's price of one token."""

    key: Key
    tokens: Mapping[ChargeKind, int]
    prices: Mapping[ChargeKind, Fraction]
    refused: Mapping[ChargeKind, int] = field(default_factory=dict)
    """Tokens of receipts that are not payable."""


@dataclass(frozen=True, slots=True)
class Owed:
    """What a tenant owes an operator for a period, as far as it is proven."""

    proven: Sequence[Proven]
    currency: str
    """Of the rate cards."""
    billing_currency: str
    fx_rate: Fraction = Fraction(1)
    """Units of the billing currency for one of the rate cards'."""
    terms: Mapping[ChargeKind, Fraction] = field(default_factory=dict)
    """What the contract adds or takes off, in the billing currency."""
    held: Fraction = ZERO
    """The part of it that awaits another worker's verdict, in the billing currency."""


@dataclass(frozen=True, slots=True)
class KeyVariance:
    """The variance of one key: tokens billed beyond the proven, and its parts in money."""

    key: Key
    tokens: Mapping[ChargeKind, int]
    parts: Mapping[str, Fraction]
    refused: Mapping[ChargeKind, int] = field(default_factory=dict)
    """Of these, tokens billed for receipts that are not payable."""
    places: Sequence[str] = ()
    """The invoice's lines that bill it."""

    @property
    def total(self) -> Fraction:
        """Billed − proven."""
        return sum(self.parts.values(), ZERO)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The answer: proven and billed totals, and parts that sum to their difference."""

    invoice_id: str
    operator: str
    tenant: str | None
    currency: str
    proven: Fraction
    billed: Fraction
    """Without tax."""
    parts: Mapping[str, Fraction]
    keys: tuple[KeyVariance, ...]
    terms: Mapping[ChargeKind, Fraction]
    """Where the invoice's discounts, credits, minimum and fees differ from the contract's."""
    tax: Fraction = ZERO
    held: Fraction = ZERO
    fx_billed: Fraction | None = None
    """The exchange rate that the invoice used, where it can be told."""

    @property
    def gap(self) -> Fraction:
        """Billed − proven."""
        return self.billed - self.proven


@dataclass(slots=True)
class _Side:
    """Tokens by kind, what they come to, and the lines behind them."""

    tokens: dict[ChargeKind, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    value: dict[ChargeKind, Fraction] = field(default_factory=lambda: dict.fromkeys(TOKENS, ZERO))
    refused: dict[ChargeKind, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    listed: dict[ChargeKind, Fraction] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    unpriced: Fraction = ZERO
    """Billed without a quantity."""

    def price(self, kind: ChargeKind) -> Fraction:
        """Return the price of one token, averaged by quantity where it changed."""
        count = self.tokens[kind]
        return self.value[kind] / count if count else self.listed[kind]


def reconcile(invoices: Sequence[BilledInvoice], owed: Owed) -> Reconciliation:
    """Explain billed − proven exactly. Several invoices are one with its credit notes, and are added up.

    Errors: CONFLICT when one is in another currency than the contract's bills.
    """
    first = invoices[0]
    for invoice in invoices:
        if invoice.currency != owed.billing_currency:
            raise CounterfoilError(
                Code.CONFLICT,
                f"invoice {invoice.invoice_id} is in {invoice.currency}, but the contract bills in {owed.billing_currency}",
                remedy="Record a contract whose currency is the invoice's, with the exchange rates that were agreed on.",
            )
    inside = [line for one in invoices for line in one.lines if _within(line, one)]
    outside = [line for one in invoices for line in one.lines if not _within(line, one)]
    billed = _billed(line for line in inside if line.kind in TOKENS)
    named = _named(billed)
    proven = _proven(owed, named)
    fx_billed = _fx_billed(proven, billed, owed)
    keys = tuple(
        _walk(key, proven.get(key), billed.get(key, _Side()), owed.fx_rate, fx_billed)
        for key in sorted({*proven, *billed}, key=repr)
    )
    parts = {name: sum((item.parts.get(name, ZERO) for item in keys), ZERO) for name in PARTS}
    terms = _terms(inside, owed)
    for kind, difference in terms.items():
        unknown = kind is ChargeKind.FEE and kind not in owed.terms
        parts["unproven" if unknown else "price"] += difference
    tax = _sum(
        Fraction(line.amount)
        for one in invoices
        for line in one.lines
        if line.kind is ChargeKind.TAX
    )
    stated = _sum(Fraction(one.total) for one in invoices) - tax
    parts["timing"] += _sum(map(_counted, outside))
    parts["rounding"] += stated - _sum(map(_counted, (*inside, *outside)))
    worth = _sum(_worth(item) for item in proven.values()) * owed.fx_rate
    result = Reconciliation(
        invoice_id=first.invoice_id,
        operator=first.operator,
        tenant=first.tenant,
        currency=owed.billing_currency,
        proven=worth + _sum(owed.terms.values()),
        billed=stated,
        parts=parts,
        keys=keys,
        terms={kind: difference for kind, difference in terms.items() if difference},
        tax=tax,
        held=owed.held,
        fx_billed=fx_billed if owed.billing_currency != owed.currency else None,
    )
    assert sum(parts.values()) == result.gap
    return result


def _within(line: BilledLine, invoice: BilledInvoice) -> bool:
    return line.day is None or invoice.first <= line.day < invoice.end


def _counted(line: BilledLine) -> Fraction:
    """Return what a line comes to before rounding, tax apart."""
    return ZERO if line.kind in {ChargeKind.TAX, ChargeKind.ROUNDING} else line.exact


def _sum(values: Iterable[Fraction]) -> Fraction:
    return sum(values, ZERO)


def _billed(lines: Iterable[BilledLine]) -> dict[Key, _Side]:
    """Add lines up by the parts of a key that all of them name."""
    found = list(lines)
    named = [
        all(getattr(line, name) is not None for line in found) for name in Key._fields
    ]  # fmt: skip
    sides: dict[Key, _Side] = defaultdict(_Side)
    for line in found:
        whole = Key(line.tenant, line.node, line.model_root)
        side = sides[whole.only(named)]
        side.places.append(line.place)
        if line.quantity is None:
            side.unpriced += line.exact
        else:
            side.tokens[line.kind] += line.quantity
            side.value[line.kind] += line.exact
    return sides


def _named(billed: Mapping[Key, _Side]) -> tuple[bool, bool, bool]:
    """Return which parts of a key the invoice tells apart; all of them if it has no line."""
    if not billed:
        return True, True, True
    key = next(iter(billed))
    return key.tenant is not None, key.node is not None, key.model_root is not None


def _proven(owed: Owed, named: tuple[bool, bool, bool]) -> dict[Key, _Side]:
    sides: dict[Key, _Side] = defaultdict(_Side)
    for item in owed.proven:
        side = sides[item.key.only(named)]
        for kind in TOKENS:
            tokens = item.tokens.get(kind, 0)
            side.tokens[kind] += tokens
            side.value[kind] += tokens * item.prices[kind]
            side.refused[kind] += item.refused.get(kind, 0)
            side.listed[kind] = item.prices[kind]
    return dict(sides)


def _worth(side: _Side) -> Fraction:
    return _sum(side.value.values())


def _fx_billed(
    proven: Mapping[Key, _Side], billed: Mapping[Key, _Side], owed: Owed
) -> Fraction | None:
    """Return the one rate at which every billed price is the card's; None without one."""
    if owed.currency == owed.billing_currency:
        return None
    rates = set()
    for key, side in billed.items():
        ours = proven.get(key)
        for kind in TOKENS:
            if ours is not None and side.tokens[kind] and ours.price(kind):
                rates.add(side.price(kind) / ours.price(kind))
    return rates.pop() if len(rates) == 1 and min(rates) > 0 else None


def _walk(
    key: Key, proven: _Side | None, billed: _Side, rate: Fraction, fx_billed: Fraction | None
) -> KeyVariance:
    """Split one key's variance. Every step is a value in the billing currency; a part is the step to the next one."""
    total = _worth(billed) + billed.unpriced
    if proven is None:
        return KeyVariance(key, dict(billed.tokens), {"unproven": total}, places=billed.places)
    ours, theirs = proven.tokens, billed.tokens
    refused = {
        kind: min(proven.refused[kind], max(0, theirs[kind] - ours[kind])) for kind in TOKENS
    }
    base = {kind: ours[kind] + refused[kind] for kind in TOKENS}
    prompt = theirs[ChargeKind.INPUT] + theirs[ChargeKind.CACHED]
    cached = min(base[ChargeKind.CACHED], prompt)
    resized = {
        ChargeKind.INPUT: prompt - cached,
        ChargeKind.CACHED: cached,
        ChargeKind.OUTPUT: theirs[ChargeKind.OUTPUT],
    }

    def at(tokens: Mapping[ChargeKind, int]) -> Fraction:
        return _sum(tokens[kind] * proven.price(kind) for kind in TOKENS) * rate

    steps = [at(ours), at(base), at(resized), at(theirs)]
    if billed.unpriced and not any(theirs.values()):  # amounts only: quantity and price are one
        steps = [at(ours)] * 4
    billed_rate = rate if fx_billed is None else fx_billed
    priced = total * rate / billed_rate  # what is billed, were it exchanged as agreed
    steps += [priced, total]
    names = ("unproven", "quantity", "classification", "price", "fx")
    parts = {name: steps[i + 1] - steps[i] for i, name in enumerate(names)}
    unknown = bool(billed.unpriced) and not any(theirs.values())
    tokens = {} if unknown else {kind: theirs[kind] - ours[kind] for kind in TOKENS}
    return KeyVariance(key, tokens, parts, refused, billed.places)


def _terms(lines: Iterable[BilledLine], owed: Owed) -> dict[ChargeKind, Fraction]:
    """Return, for each kind of charge of a whole period, billed − agreed."""
    found = {kind: -owed.terms.get(kind, ZERO) for kind in _TERMS}
    for line in lines:
        if line.kind in found:
            found[line.kind] += line.exact
    return found
