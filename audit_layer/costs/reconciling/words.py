"""A reconciliation in words: what differs, by how many tokens, at which node, on which lines, and what to do. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.reconciling.variance import KeyVariance, Reconciliation
from audit_layer.costs.reporting import rounded
from shared.codec.money import minor_digits
from shared.runtime.errors import CounterfoilError
from shared.runtime.printable import printable

Name = Callable[[bytes], str]
"""A model's name for people."""
MAX_PLACES: Final = 12
MAX_NUMBER: Final = 128
"""Characters shown of a name or number that a stranger wrote."""
_WHAT: Final = {
    "unproven": "billed without a receipt that proves it, or for a receipt that is not payable",
    "quantity": "other numbers of tokens than receipts prove",
    "classification": "cached tokens billed as fresh ones, or the reverse",
    "price": "other prices or terms than the rate card and the contract have",
    "fx": "another exchange rate than the contract has",
    "timing": "lines for days outside the invoice's own period",
    "rounding": "rounding of amounts and of the total",
}
_DO: Final = {
    "unproven": "Ask for the receipts; pay nothing of it without them.",
    "quantity": "Dispute the lines.",
    "classification": "Dispute the lines: each receipt says how many tokens were cached.",
    "price": "Dispute the lines: the rate card is signed.",
    "fx": "Dispute the rate: the contract states it for the period's last day.",
    "timing": "Ask for an invoice of the period to which the lines belong.",
    "rounding": "Nothing: it is within the currency's smallest unit.",
}


_TOO_MUCH: Final = "Dispute the lines: a bill is rounded once, to the currency's smallest unit."


@dataclass(frozen=True, slots=True)
class Sentence:
    """One part of a variance in words."""

    part: str
    amount: Fraction
    text: str
    do: str


def in_words(result: Reconciliation, name: Name) -> list[Sentence]:
    """Return one sentence for each part that is not zero, the largest first."""
    found = []
    for part, amount in result.parts.items():
        if amount:
            text = f"{_money(amount, result.currency)}: {_WHAT[part]}.{_where(result, part, name)}"
            petty = part != "rounding" or is_petty(amount, result.currency)
            found.append(Sentence(part, amount, text, _DO[part] if petty else _TOO_MUCH))
    return sorted(found, key=lambda item: -abs(item.amount))


def is_petty(rounding: Fraction, currency: str) -> bool:
    """Whether rounding is what one total, rounded once, may bring about: less than the currency's smallest unit."""
    try:
        digits = minor_digits(currency)
    except CounterfoilError:  # a token: the contract says how many digits it has
        digits = 6
    return abs(rounding) < Fraction(1, 10**digits)


def headline(result: Reconciliation) -> str:
    """Return the whole in one sentence."""
    gap, number = result.gap, printable(result.invoice_id, MAX_NUMBER)
    if not gap:
        return f"Invoice {number} bills exactly what is proven."
    way = "more" if gap > 0 else "less"
    share = f" ({rounded(abs(gap) * 100 / abs(result.proven), 2)} %)" if result.proven else ""
    return (
        f"Invoice {number} bills {_money(abs(gap), result.currency)} {way} than the "
        f"{_money(result.proven, result.currency)} that are proven{share}."
    )


def _where(result: Reconciliation, part: str, name: Name) -> str:
    keys = [key for key in result.keys if key.parts.get(part)]
    keys.sort(key=lambda key: -abs(key.parts[part]))
    told = [_key(key, part, result.currency, name) for key in keys[:3]]
    if len(keys) > 3:
        told.append(f"and {len(keys) - 3} more")
    if part == "price":
        told += [
            f"{kind.value}: {_money(difference, result.currency)}"
            for kind, difference in result.terms.items()
        ]
    return f" {'; '.join(told)}." if told else ""


def _key(item: KeyVariance, part: str, currency: str, name: Name) -> str:
    tenant, node, root = item.key
    where = [
        *([] if node is None else [f"node {printable(node, MAX_NUMBER)}"]),
        *([] if root is None else [f"model {printable(name(root), MAX_NUMBER)}"]),
        *([] if tenant is None else [f"tenant {printable(tenant, MAX_NUMBER)}"]),
    ]
    counts = _tokens(item, part)
    tokens = [f"{counts[kind]:+d} {kind.value}" for kind in TOKENS if counts.get(kind)]
    counted = f" ({', '.join(tokens)} tokens)" if tokens else ""
    return (
        f"{', '.join(where) or 'all of it'}: {_money(item.parts[part], currency)}{counted}"
        f"{_lines(item.places)}"
    )


def _tokens(item: KeyVariance, part: str) -> Mapping[ChargeKind, int]:
    """Return the tokens that a part is about: those of unpaid receipts, those beyond, or those that changed their kind."""
    if part == "unproven":
        return item.refused if any(item.refused.values()) else item.tokens
    if part in {"quantity", "classification"}:
        beyond = {kind: n - item.refused.get(kind, 0) for kind, n in item.tokens.items()}
        moved = {ChargeKind.CACHED: beyond.get(ChargeKind.CACHED, 0)}
        return beyond if part == "quantity" else moved
    return {}


def _lines(places: Sequence[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
    told = [printable(place, MAX_NUMBER) for place in places[:MAX_PLACES]]
    return f", {', '.join(told)}{more}"


def _money(amount: Fraction, currency: str) -> str:
    return f"{rounded(amount, 6)} {currency}"
