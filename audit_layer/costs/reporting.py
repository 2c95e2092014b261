"""How a reconciliation is written: exact numbers as text, and rounded ones for people."""

from fractions import Fraction

from audit_layer.costs.reconciling.variance import PARTS, Reconciliation

JSON = dict[str, object]


def exact(value: Fraction) -> str:
    """Write a rational exactly: as a decimal if it has a finite one, else as `numerator/denominator`."""
    rest = value.denominator
    powers = {2: 0, 5: 0}
    for prime in powers:
        while rest % prime == 0:
            rest //= prime
            powers[prime] += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(powers.values())
    return _plain(int(value * 10**places), places)


def rounded(value: Fraction, places: int = 2) -> str:
    """Write a rational rounded half to even, for people only."""
    return _plain(round(value * 10**places), places)


def _plain(digits: int, places: int) -> str:
    """Write digits × 10⁻ᵖˡᵃᶜᵉˢ; decimals would round it to the 28 digits of their context."""
    text = str(abs(digits)).rjust(places + 1, "0")
    whole, rest = text[: len(text) - places], text[len(text) - places :]
    return f"{'-' * (digits < 0)}{whole}{'.' * bool(places)}{rest}"


def as_json(result: Reconciliation) -> JSON:
    """Return the reconciliation as JSON data with exact numbers."""
    return {
        "invoice_id": result.invoice_id,
        "operator": result.operator,
        "tenant": result.tenant,
        "currency": result.currency,
        "proven": exact(result.proven),
        "held": exact(result.held),
        "billed": exact(result.billed),
        "tax": exact(result.tax),
        "gap": exact(result.gap),
        "fx_billed": None if result.fx_billed is None else exact(result.fx_billed),
        "parts": {name: exact(result.parts[name]) for name in PARTS},
        "terms": {kind.value: exact(value) for kind, value in result.terms.items()},
        "keys": [
            {
                "tenant": variance.key.tenant,
                "node": variance.key.node,
                "model_root": variance.key.model_root and variance.key.model_root.hex(),
                "tokens": {kind.value: count for kind, count in variance.tokens.items()},
                "refused": {kind.value: count for kind, count in variance.refused.items()},
                "parts": {name: exact(value) for name, value in variance.parts.items()},
                "lines": list(variance.places),
            }
            for variance in result.keys
        ],
    }
