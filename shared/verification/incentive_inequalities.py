"""The inequalities between what a dishonest party gains and what it loses, with their numbers. Pure.

docs/incentives.md says what every symbol means and where each inequality comes from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from typing import Final

from shared.codec.money import MAX_SCALE
from shared.verification.incentive_terms import Terms

SHOWN_DIGITS: Final = 9
_SHOWN: Final = Context(prec=SHOWN_DIGITS)
_EXACT: Final = Context(prec=10_000, traps=[Inexact, InvalidOperation])


@dataclass(frozen=True, slots=True)
class Stakes:
    """What is at risk: the audit rate p of a node of good standing, and the slash S that a conviction takes."""

    p: Fraction
    slash: Fraction


@dataclass(frozen=True, slots=True)
class Inequality:
    """left > right, or left ≥ right where equality suffices."""

    name: str
    formula: str
    numbers: str
    """The formula with its numbers, each to nine digits."""
    left: Fraction
    right: Fraction
    strict: bool
    remedy: str
    """What would make it hold."""

    @property
    def holds(self) -> bool:
        """Whether it holds, exactly."""
        return self.left > self.right if self.strict else self.left >= self.right


def shown(number: Fraction | int) -> str:
    """Return a number as a plain decimal of at most nine significant digits."""
    exact = Fraction(number)
    rounded = _SHOWN.divide(Decimal(exact.numerator), Decimal(exact.denominator))
    text = format(rounded, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact(number: Fraction) -> str:
    """Return a number as a plain decimal, or as a fraction where it has more than 12 places."""
    scaled = number * 10**MAX_SCALE
    if scaled.denominator > 1:
        return str(number)
    text = format(_EXACT.scaleb(Decimal(scaled.numerator), -MAX_SCALE), "f")
    return text.rstrip("0").rstrip(".")


def about_nodes(terms: Terms, at: Stakes, unsettled: int) -> Iterator[Inequality]:
    """Yield what must hold so that a node serves honestly, and that an honest one stays."""
    p, slash = at.p, at.slash
    price, gain = terms.price, terms.gain
    q = p * terms.caught
    lost = (1 - terms.bounty) * slash
    kept = f"(1−{shown(terms.bounty)})·{shown(slash)}"
    yield Inequality(
        "deter",
        "p·δ·((1−b)·S + R) > G",
        f"{shown(p)}·{shown(terms.caught)}·({kept} + {shown(price)}) > {shown(gain)}",
        q * (lost + price),
        gain,
        strict=gain > 0,
        remedy="Audit more, stake more, or keep fewer audits in bought hands.",
    )
    yield Inequality(
        "burst",
        "p·δ·((1−b)·S/(1 + N·p·δ) + R) > G",
        f"{shown(q)}·({kept}/(1 + {unsettled}·{shown(q)}) + {shown(price)}) > {shown(gain)}",
        q * (lost / (1 + unsettled * q) + price),
        gain,
        strict=gain > 0,
        remedy="Leave fewer receipts unsettled, or stake more.",
    )
    yield Inequality(
        "exposure",
        "(1−b)·S ≥ N·R",
        f"{kept} ≥ {unsettled}·{shown(price)}",
        lost,
        unsettled * price,
        strict=False,
        remedy="Leave fewer receipts unsettled, or stake more.",
    )
    yield from _stay(terms, at)


def _stay(terms: Terms, at: Stakes) -> Iterator[Inequality]:
    earned = terms.price - terms.honest_cost
    risk = at.slash + terms.price
    for name, symbol, rate in (
        ("stay", "p", at.p),
        ("begin", "p′", min(Fraction(1), at.p * terms.new_times)),
    ):
        most = earned / (rate * risk) if risk else Fraction(1)
        yield Inequality(
            name,
            f"R − C ≥ {symbol}·φ·(S + R)",
            f"{shown(terms.price)} − {shown(terms.honest_cost)} ≥ "
            f"{shown(rate)}·{shown(terms.accused)}·({shown(at.slash)} + {shown(terms.price)})",
            earned,
            rate * terms.accused * risk,
            strict=False,
            remedy=f"φ, false convictions per audit of an honest node, must be at most {shown(max(most, Fraction(0)))}: "
            "fewer false alarms (f), fewer bought auditors (k), or a higher price (R).",
        )


def about_auditors(terms: Terms, planted: Fraction) -> Iterator[Inequality]:
    """Yield what must hold so that an auditor looks at what it passes."""
    assert terms.auditor_fee is not None
    assert terms.auditor_stake is not None
    lost = terms.auditor_fee + terms.auditor_stake / terms.auditor_strikes
    saved = terms.margin * terms.audit_cost
    yield Inequality(
        "diligence",
        "e·(F + A/n) > m·a",
        f"{shown(planted)}·({shown(terms.auditor_fee)} + {shown(terms.auditor_stake)}/{terms.auditor_strikes})"
        f" > {shown(terms.margin)}·{shown(terms.audit_cost)}",
        planted * lost,
        saved,
        strict=saved > 0,
        remedy=f"An auditor must lose more than {shown(saved)} by a planted error that it passes: raise its stake or fee.",
    )


def about_challenges(terms: Terms, at: Stakes, bond: Fraction) -> Iterator[Inequality]:
    """Yield what must hold so that right challenges are made, and false ones are not."""
    assert terms.challenge_cost is not None
    assert terms.defence_cost is not None
    bounty = terms.bounty * at.slash
    yield Inequality(
        "challenge",
        "d·b·S ≥ V + (1−d)·B",
        f"{shown(terms.power)}·{shown(terms.bounty)}·{shown(at.slash)} ≥ "
        f"{shown(terms.challenge_cost)} + (1−{shown(terms.power)})·{shown(bond)}",
        terms.power * bounty,
        terms.challenge_cost + (1 - terms.power) * bond,
        strict=False,
        remedy="Raise the bounty's share, or the stake.",
    )
    yield Inequality(
        "griefing",
        "(1−φ)·B > φ·b·S + h",
        f"(1−{shown(terms.accused)})·{shown(bond)} > "
        f"{shown(terms.accused)}·{shown(bounty)} + {shown(terms.false_gain)}",
        (1 - terms.accused) * bond,
        terms.accused * bounty + terms.false_gain,
        strict=True,
        remedy="Raise the bond.",
    )
    yield Inequality(
        "defence",
        "B ≥ D",
        f"{shown(bond)} ≥ {shown(terms.defence_cost)}",
        bond,
        terms.defence_cost,
        strict=False,
        remedy="Raise the bond.",
    )
