"""How often to audit, how much a node must stake and how much of its work may be unsettled, so that honesty pays best. Pure.

docs/incentives.md derives every inequality and says where it comes from. All numbers are exact; what is decided is rounded to
the side that deters: rates up to a millionth, stakes and bonds up to the minor unit, receipts down.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM
from shared.verification.audit_rate import rates
from shared.verification.incentive_inequalities import (
    Inequality,
    Stakes,
    about_auditors,
    about_challenges,
    about_nodes,
    shown,
)
from shared.verification.incentive_terms import Terms
from shared.verification.standing import Standing


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows from the terms, and every inequality behind it with its numbers."""

    terms: Terms
    rate_ppm: int
    """p, the audit rate in a million, of a node of good standing: the floor of all others."""
    rates: Mapping[Standing, int]
    """The audit rate in a million for each standing."""
    stake: Fraction
    """What a node has to stake."""
    unsettled: int
    """How many of a node's receipts may be unsettled at once, at most, with this rate and stake."""
    planted_ppm: int | None
    """How many audits in a million must be of planted errors, so that auditors look. None if auditors' terms are absent."""
    bond: Fraction | None
    """What a challenger must deposit. None if challengers' terms are absent."""
    inequalities: tuple[Inequality, ...]

    @property
    def exposure(self) -> Fraction:
        """What the unsettled receipts of a node may be worth."""
        return self.unsettled * self.terms.price

    @property
    def holds(self) -> bool:
        """Whether every inequality holds: no strategy of the model earns more than honesty."""
        return all(each.holds for each in self.inequalities)


def solve(terms: Terms, *, rate_ppm: int | None = None, stake: Fraction | None = None) -> Policy:
    """Return the policy at which every inequality holds: with a given rate or stake, or the cheapest of all.

    The cheapest pays least for audits and for locked stake together. INVALID_ARGUMENT if nothing fulfils the terms: it says
    which inequality cannot hold, and what would make it hold.
    """
    if terms.unsettled is None:
        raise _refused(
            "unsettled is missing",
            "Say how many receipts of a node wait for their settlement at most.",
        )
    _check_solvable(terms)
    if rate_ppm is not None:
        policy = judge(terms, rate_ppm=rate_ppm, stake=_stake_for(terms, rate_ppm))
    elif stake is not None:
        policy = judge(terms, rate_ppm=_rate_for(terms, stake), stake=stake)
    else:
        chosen = _cheapest(terms)
        policy = judge(terms, rate_ppm=chosen, stake=_stake_for(terms, chosen))
    for each in policy.inequalities:
        if not each.holds:
            raise _refused(f"{each.name} cannot hold: {each.formula}; {each.numbers}", each.remedy)
    return policy


def judge(terms: Terms, *, rate_ppm: int, stake: Fraction) -> Policy:
    """Return what holds at a given rate and stake, and what does not."""
    _check(terms, rate_ppm, stake)
    at = Stakes(Fraction(rate_ppm, PPM), terms.slash * stake)
    most = _most_unsettled(terms, at)
    asked = most if terms.unsettled is None else terms.unsettled
    bond = _bond(terms, at)
    planted = _planted_ppm(terms)
    inequalities = [*about_nodes(terms, at, asked)]
    if planted is not None:
        inequalities += about_auditors(terms, Fraction(min(planted, PPM), PPM))
    if bond is not None:
        inequalities += about_challenges(terms, at, bond)
    return Policy(
        terms,
        rate_ppm,
        rates(rate_ppm, new=terms.new_times, watched=terms.watched_times),
        stake,
        most,
        planted,
        bond,
        tuple(inequalities),
    )


def _check(terms: Terms, rate_ppm: int, stake: Fraction) -> None:
    if not terms.floor_ppm <= rate_ppm <= PPM:
        raise _refused(
            f"a rate of {rate_ppm} in a million is not between {terms.floor_ppm} and {PPM}"
        )
    if stake < 0:
        raise _refused(f"a stake cannot be negative, as {shown(stake)} is")


def _check_solvable(terms: Terms) -> None:
    """Refuse terms that no rate and no stake can mend."""
    if terms.price <= terms.honest_cost:
        raise _refused(
            "stay cannot hold at any stake: an honest node earns nothing, R ≤ C",
            f"The price must be above the honest cost, {shown(terms.honest_cost)}.",
        )
    if terms.gain > 0 and terms.caught == 0:
        raise _refused(
            "deter cannot hold at any rate: no audited cheat is ever convicted, d·(1−k)²·(1+k) = 0",
            "The power must be above 0, and the collusion below 1.",
        )


def _stake_for(terms: Terms, rate_ppm: int) -> Fraction:
    """Return the smallest stake, in minor units, at which a node is deterred, tenants are covered and challengers paid."""
    _check(terms, rate_ppm, Fraction(0))
    unit = 10**terms.places
    least = math.ceil(_covering(terms) / terms.slash * unit)
    above = _deterring(terms, Fraction(rate_ppm, PPM))
    if above is not None:
        least = max(least, math.floor(above / terms.slash * unit) + 1)
    return Fraction(least, unit)


def _deterring(terms: Terms, p: Fraction) -> Fraction | None:
    """Return what a slash must exceed so that neither one cheat nor a burst of all unsettled receipts pays; None where the
    pay that is at risk deters alone.
    """
    q = p * terms.caught
    left = terms.gain - q * terms.price
    if terms.gain <= 0 or left < 0:
        return None
    return left * (1 / q + (terms.unsettled or 0)) / (1 - terms.bounty)


def _covering(terms: Terms) -> Fraction:
    """Return the least slash, whatever the rate: it covers what is unsettled, and pays who challenges rightly."""
    cover = (terms.unsettled or 0) * terms.price / (1 - terms.bounty)
    if terms.challenge_cost is None or terms.defence_cost is None:
        return cover
    bounty, wrong, right = terms.bounty, 1 - terms.power, 1 - terms.accused
    # A right challenge must pay with either of the two deposits of which the bond is the larger one.
    by_defence = bounty * terms.power
    by_bounty = bounty * (terms.power - wrong * terms.accused / right) if right else Fraction(0)
    if by_defence <= 0 or by_bounty <= 0:
        raise _refused(
            "challenge cannot hold at any stake: what a right challenge brings, d·b·S, does not outgrow the bond",
            "The bounty and the power must be above 0, and false convictions rarer.",
        )
    spent = terms.challenge_cost + wrong * Fraction(1, 10**terms.places)  # bonds are rounded up
    return max(
        cover,
        (spent + wrong * terms.defence_cost) / by_defence,
        (spent + wrong * terms.false_gain / right) / by_bounty,
    )


def _most_unsettled(terms: Terms, at: Stakes) -> int:
    """Return how many receipts may be unsettled: the slash covers their price, and no burst of so many pays."""
    slashed = (1 - terms.bounty) * at.slash
    most = math.floor(slashed / terms.price)
    q = at.p * terms.caught
    left = terms.gain - q * terms.price
    if left <= 0:
        return most
    burst = slashed / left - 1 / q if q else Fraction(0)
    return max(0, min(most, math.ceil(burst) - 1))


def _rate_for(terms: Terms, stake: Fraction) -> int:
    """Return the smallest rate at which this stake deters."""
    _check(terms, PPM, stake)
    slash, least = terms.slash * stake, _covering(terms)
    if slash < least:
        raise _refused(
            f"exposure cannot hold: a slash of {shown(slash)} is below {shown(least)}",
            f"Stake at least {shown(least / terms.slash)}, or leave fewer receipts unsettled.",
        )

    def deters(rate: int) -> bool:
        above = _deterring(terms, Fraction(rate, PPM))
        return above is None or slash > above

    if not deters(PPM):
        above = _deterring(terms, Fraction(1)) or Fraction(0)
        raise _refused(
            f"deter cannot hold: a slash of {shown(slash)} is too small even if every receipt is audited",
            f"Stake more than {shown(above / terms.slash)}, or leave fewer receipts unsettled.",
        )
    return _boundary(terms.floor_ppm, PPM, deters)


def _cheapest(terms: Terms) -> int:
    """Return the rate at which audits and locked stake cost least together, of those at which honest nodes stay.

    Both costs are convex in the rate, so their sum has one valley. What an honest node loses rises and then falls with the
    rate as far as deterrence asks for stake, and rises as far as cover does: if it is small enough anywhere, then at the
    floor or at the highest rate that cover permits.
    """
    cover = _covering(terms)

    def cost(rate: int) -> Fraction:
        p = Fraction(rate, PPM)
        slash = max(cover, _deterring(terms, p) or Fraction(0))
        return p * terms.audit_cost + slash / terms.slash * terms.stake_cost

    def stays(rate: int) -> bool:
        at = Stakes(Fraction(rate, PPM), terms.slash * _stake_for(terms, rate))
        return all(each.holds for each in about_nodes(terms, at, terms.unsettled or 0))

    lowest = terms.floor_ppm
    best = _boundary(lowest, PPM, lambda rate: rate == PPM or cost(rate + 1) >= cost(rate))
    if stays(best):
        return best
    tolerable = (terms.price - terms.honest_cost) / (terms.accused * terms.new_times)
    highest = math.floor(PPM * tolerable / (cover + terms.price))
    ends = [end for end in (lowest, min(PPM, max(lowest, highest))) if stays(end)]
    if not ends:
        return lowest  # whose inequalities say what is wrong
    return min((_toward(end, best, stays) for end in ends), key=cost)


def _toward(good: int, bad: int, stays: Callable[[int], bool]) -> int:
    """Return a rate that `stays`, beside one that does not, between a good one and a bad one."""
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if stays(middle) else (good, middle)
    return good


def _boundary(low: int, high: int, true: Callable[[int], bool]) -> int:
    """Return the smallest number from `low` on that is `true`, which all above it are, and `high` is."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle + 1, high)
    return low


def _planted_ppm(terms: Terms) -> int | None:
    """Return the rate of planted errors; more than a million if no rate makes auditors look."""
    if terms.auditor_fee is None or terms.auditor_stake is None:
        return None
    lost = terms.auditor_fee + terms.auditor_stake / terms.auditor_strikes
    if lost == 0:
        return PPM + 1 if terms.audit_cost else 0
    return min(PPM + 1, math.floor(PPM * terms.margin * terms.audit_cost / lost) + 1)


def _bond(terms: Terms, at: Stakes) -> Fraction | None:
    """Return the smallest bond, in minor units, at which a false challenge does not pay and costs only its challenger."""
    if terms.defence_cost is None:
        return None
    unit = 10**terms.places
    if terms.accused == 1:
        raise _refused(
            "griefing cannot hold at any bond: every false challenge wins",
            "False alarms must be rarer.",
        )
    hoped = (terms.accused * terms.bounty * at.slash + terms.false_gain) / (1 - terms.accused)
    return Fraction(max(math.floor(hoped * unit) + 1, math.ceil(terms.defence_cost * unit)), unit)


def _refused(detail: str, remedy: str | None = None) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail, remedy=remedy)
