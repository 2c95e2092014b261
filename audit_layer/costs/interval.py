"""What sampled replays say about a whole invoice: a confidence interval for the total overbilled amount. Pure.

The interval holds for every finite population of receipts and every number of them, not only in the limit
(docs/cost-interval.md: meaning, assumptions, proof). Each limit fails with probability at most (1 − confidence) / 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Final, Self

import numpy as np

from audit_layer.costs.tail_bounds import Floats, Known, least_missed, most_missed, sample
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM

CONFIDENCE: Final = Decimal("0.95")
_GRAIN: Final = Decimal("1e-12")
"""Limits are rounded outward to this; amounts have no more places (`shared.codec.money`)."""
_MOST: Final = Decimal(10) ** 18
"""The largest amount of one receipt (protocol §8.3)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit says of a receipt: overbilled by at least `least` and at most `most`, in the invoice's currency."""

    least: Decimal
    most: Decimal
    by_rate: bool | None = True
    """Whether the epoch's rate drew it. False for what the floor, a canary or a complaint added: that is known, but it
    is no random sample, so nothing about other receipts follows from it. None if nobody can tell, as the epoch was audited
    whole because a reveal is missing: the draw is fixed by the commitments, but not known. Each limit then takes the worst
    case, or else whoever keeps a reveal back could choose by the draw which epochs are sampled."""

    @classmethod
    def exactly(cls, amount: Decimal, *, by_rate: bool | None = True) -> Self:
        """Return what a settled audit says. Evidence that a confirmed verdict calls withheld is not payable (protocol §8.3):
        for this, give the receipt's whole amount.
        """
        return cls(amount, amount, by_rate)

    @classmethod
    def unanswered(cls, amount: Decimal, *, by_rate: bool | None = True) -> Self:
        """Return what an audit without an answer says about a receipt of this amount: nothing, so the upper limit takes
        all of it as overbilled, and the lower limit none.
        """
        return cls(Decimal(0), amount, by_rate)


@dataclass(frozen=True, slots=True)
class Alike:
    """Receipts that are alike. They may be given in any grouping, also one by one."""

    amount: Decimal
    """Of each: what the contract's prices make of its claim, in the invoice's currency."""
    rate_ppm: int
    """With which probability its epoch's rate draws it, in a million (protocol §6.1). A million in an epoch that had to be
    audited whole before anybody could know its draw, because it has no commitments."""
    finding: Finding | None = None
    """None if nobody audited them."""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """Between `low` and `high` was overbilled, at this confidence. All amounts in the invoice's currency."""

    confidence: Decimal
    low: Decimal
    high: Decimal
    found: Decimal
    """What audits proved: a lower limit without any doubt."""
    open: Decimal
    """What audits without an answer may add to it."""
    unaudited: Decimal
    """The amount of the receipts that nobody audited."""
    adaptive: bool = True

    def sentence(self, currency: str, places: int = 2) -> str:
        """Return it as a sentence; the limits are rounded outward to `places` digits after the point."""
        percent = format((self.confidence * 100).normalize(), "f")
        low = _outward(self.low, ROUND_FLOOR, Decimal(1).scaleb(-places))
        high = _outward(self.high, ROUND_CEILING, Decimal(1).scaleb(-places))
        return f"at {percent} %, overbilled by between {low:f} and {high:f} {currency}"


def overbilling(
    receipts: Iterable[Alike], *, confidence: Decimal = CONFIDENCE, adaptive: bool = True
) -> Interval:
    """Return the interval for the sum of overbilling of all receipts.

    With `adaptive`, it holds against nodes that choose what to overbill in later epochs by what was drawn in earlier
    ones. Without, it is narrower, and holds if what is overbilled does not depend on any draw: for one epoch always.
    INVALID_ARGUMENT for amounts, rates or findings that cannot be.
    """
    if not (confidence.is_finite() and 0 < confidence < 1):
        raise _invalid(f"a confidence must lie between 0 and 1, not {confidence}")
    classes = [_checked(each) for each in receipts if each.count]
    unknown = [each for each in classes if each.finding is None]
    found = _sum((each.finding.least, each.count) for each in classes if each.finding is not None)
    most = _sum((each.finding.most, each.count) for each in classes if each.finding is not None)
    unaudited = _sum((each.amount, each.count) for each in unknown)
    never = _sum((each.amount, each.count) for each in unknown if not each.rate_ppm)
    sampled = [each for each in unknown if each.rate_ppm and each.amount]
    level = float(1 - confidence) / 2
    amounts, rates, counts = _columns([(each.amount, each) for each in sampled])
    above = sample(
        amounts,
        rates,
        counts,
        drawn=_known(classes, (True, None), most=True),
        other=_known(classes, (False,), most=False),
    )
    below = sample(
        amounts,
        rates,
        counts,
        drawn=_known(classes, (True,), most=False),
        other=_known(classes, (False, None), most=True),
    )
    low = _outward(Decimal(least_missed(below, level, adaptive=adaptive)), ROUND_FLOOR)
    high = _outward(Decimal(most_missed(above, level, adaptive=adaptive)), ROUND_CEILING)
    ceiling = exact_sum((most, unaudited))
    return Interval(
        confidence=confidence,
        low=exact_sum((found, min(low, unaudited))),
        high=min(ceiling, exact_sum((most, never, high))),
        found=found,
        open=exact_sum((most, -found)),
        unaudited=unaudited,
        adaptive=adaptive,
    )


def _checked(each: Alike) -> Alike:
    if not (each.amount.is_finite() and 0 <= each.amount <= _MOST):
        raise _invalid(f"a receipt's amount must lie between 0 and 10^18, not {each.amount}")
    if not 0 <= each.rate_ppm <= PPM or each.count < 0:
        raise _invalid(f"{each.count} receipts at a rate of {each.rate_ppm} ppm cannot be")
    finding = each.finding
    if finding is None:
        if each.rate_ppm == PPM:
            raise _invalid("a receipt that is certain to be drawn has no finding")
        return each
    if not (finding.least.is_finite() and finding.most.is_finite()):
        raise _invalid("a finding is not a number")
    if not 0 <= finding.least <= finding.most <= each.amount:
        raise _invalid(f"of {each.amount}, {finding.least} to {finding.most} cannot be overbilled")
    if finding.by_rate and not each.rate_ppm:
        raise _invalid("a rate of 0 draws nothing")
    return each


def _known(classes: Sequence[Alike], by_rate: tuple[bool | None, ...], *, most: bool) -> Known:
    """Return the findings of the receipts that were drawn in these ways: their upper or their lower ends."""
    z, p, count = _columns(
        [
            (each.finding.most if most else each.finding.least, each)
            for each in classes
            if each.finding is not None and each.finding.by_rate in by_rate
        ]
    )
    return Known(z, p, count)


def _columns(rows: Sequence[tuple[Decimal, Alike]]) -> tuple[Floats, Floats, Floats]:
    """Return amounts, probabilities and counts."""
    size = len(rows)
    return (
        np.fromiter((float(amount) for amount, _ in rows), np.float64, size),
        np.fromiter((each.rate_ppm / PPM for _, each in rows), np.float64, size),
        np.fromiter((each.count for _, each in rows), np.float64, size),
    )


def _sum(parts: Iterable[tuple[Decimal, int]]) -> Decimal:
    with localcontext(prec=120):
        return exact_sum(amount * count for amount, count in parts)


def _outward(value: Decimal, rounding: str, grain: Decimal = _GRAIN) -> Decimal:
    with localcontext(prec=120):
        return value.quantize(grain, rounding=rounding)


def _invalid(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, problem)
