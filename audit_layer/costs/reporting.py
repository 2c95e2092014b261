"""How a reconciliation is written down: exact numbers as text, and rounded ones for people."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from audit_layer.costs.reconcile import PARTS, Reconciliation

JSON = dict[str, "str | int | dict[str, str] | list[dict[str, object]]"]


def exact(value: Fraction) -> str:
    """Write a rational exactly: as a decimal where it is one, else as `numerator/denominator`."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = 0
    while value.denominator != 1 and (value * 10**places).denominator != 1:
        places += 1
    digits = value * 10**places
    return format(Decimal(digits.numerator).scaleb(-places), "f")


def rounded(value: Fraction, places: int = 2) -> str:
    """Write a rational rounded half to even, for people only."""
    quantum = Decimal(1).scaleb(-places)
    number = Decimal(value.numerator) / Decimal(value.denominator)
    return format(number.quantize(quantum, rounding=ROUND_HALF_EVEN), "f")


def as_json(result: Reconciliation) -> JSON:
    """Return the reconciliation as JSON data with exact numbers."""
    return {
        "invoice_id": result.invoice_id,
        "operator": result.operator,
        "currency": result.currency,
        "proven": exact(result.proven),
        "billed": exact(result.billed),
        "gap": exact(result.gap),
        "parts": {name: exact(result.parts[name]) for name in PARTS},
        "keys": [
            {
                "tenant": variance.key[0],
                "node": variance.key[1],
                "model_root": variance.key[2],
                "tokens": {kind.value: count for kind, count in variance.tokens.items()},
                "parts": {name: exact(value) for name, value in variance.parts.items()},
            }
            for variance in result.keys
        ],
    }
