"""Whether the books say what was planted, and nothing else."""

from collections import Counter
from fractions import Fraction
from typing import Any, Final

from sqlalchemy import Engine, text

from audit_layer.costs.reconciling.variance import Reconciliation
from audit_layer.costs.service import Costs
from audit_layer.storage.engine import session
from benchmarks.cost.invoices import FX, invoice_of, worth
from benchmarks.cost.month import CURRENCIES, Planted

REASONS: Final = {
    "answered-twice": "the order was answered before",
    "failed": "failed",
    "unsigned-cancel": "it is called cancelled, but the tenant did not sign a cancellation",
    "no-deadline": "it is called late, but the order sets no deadline",
    "nothing": "nothing was delivered",
    "over-bound": "tokens, but at most 10 were ordered",
    "unknown-card": "rate card not in the log before it",
    "superseded": "superseded by another attempt",
    "convicted": "confirmed FAIL: tokens",
}
"""What makes each planted fault not payable, in the books' words."""


class WrongError(Exception):
    """The books do not say what was planted."""


def same(what: str, found: object, wanted: object) -> None:
    """Raise WrongError unless both are equal."""
    if found != wanted:
        raise WrongError(f"{what}: {found}, but {wanted} was planted")


def check_faults(engine: Engine, planted: Planted) -> None:
    """Compare the reasons in the books with the faults: each one, classified, and no other."""
    query = text(
        "SELECT coalesce(r.reason, c.reason), count(*) FROM costs_rated_receipts r"
        " LEFT JOIN costs_corrections c ON c.receipt = r.receipt"
        " WHERE r.reason IS NOT NULL OR c.reason IS NOT NULL GROUP BY 1"
    )
    with session(engine) as db:
        rows = [(reason, count) for reason, count in db.execute(query)]
    found: Counter[str] = Counter()
    for reason, count in rows:
        named = [
            name for name, words in REASONS.items() if reason == words or reason.endswith(words)
        ]
        if len(named) != 1:
            raise WrongError(f"{count} receipts are not payable because {reason!r}")
        found[named[0]] += count
    same("faults", +found, +Counter({name: planted.faults[name] for name in REASONS}))
    waiting = sum(row.state.value == "held" for row in Costs(engine).unpaid(limit=10**7))
    same("held", waiting, planted.faults["held"])


def check_variance(operator: str, found: Reconciliation, planted: Planted) -> None:
    """Compare an invoice's variance with the lies in it; operator-a's leaves out the contract's discount besides."""
    discount = sum(found.terms.values(), Fraction(0))
    parts = dict(found.parts)
    parts["price"] -= discount
    same(f"{operator}: discount left out", bool(discount), operator == "operator-a")
    same(
        f"{operator}: parts",
        {name: amount for name, amount in parts.items() if amount},
        invoice_of(operator, planted).parts,
    )


def check_export(totals: Any, planted: Planted) -> None:
    """Compare the control totals with what is payable."""
    expected = sum(
        (
            worth(model, tokens) * Fraction(FX if CURRENCIES[operator] == "USD" else 1)
            for (operator, _, _, model), tokens in planted.payable.items()
        ),
        Fraction(0),
    )
    same("exported usage", Fraction(totals["EUR"]["Usage"]), expected)
