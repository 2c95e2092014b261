"""What a month comes to, from what was spent so far, by the part of it that has passed. Pure and exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from shared.codec.moment import Period

ASSUMPTION: Final = (
    "The rest of the month costs as much an hour as the part that has passed. Spent is what the books hold by now, at the"
    " prices of rate cards and with what verdicts hold up; receipts that have not come, and what the contract charges or"
    " credits for the whole month, are not in it."
)


@dataclass(frozen=True, slots=True)
class Part:
    """What is spent in one billing period of the month: of one operator, at prices of one currency."""

    period: Period
    spent: Decimal


def forecast(parts: Sequence[Part], at: int) -> Fraction:
    """Return what the month will come to, at a time (ms); what is over comes to what is spent."""
    return sum((_whole(part, at) for part in parts), Fraction())


def _whole(part: Part, at: int) -> Fraction:
    length, elapsed = part.period.end - part.period.start, at - part.period.start
    if not 0 < elapsed < length:
        return Fraction(part.spent)
    return Fraction(part.spent) * length / elapsed


def crossed(spent: Fraction, amount: Decimal, thresholds: Sequence[int]) -> tuple[int, ...]:
    """Return the thresholds, in percent of the amount, that are reached."""
    return tuple(percent for percent in thresholds if spent * 100 >= Fraction(amount) * percent)
