"""Rate, stake and exposure are those at which honesty pays best: by hand, by brute force, and whatever the terms."""

import itertools
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.verdicts import Outcome, Reason
from shared.verification.audit_rate import rates
from shared.verification.incentive_inequalities import exact, shown
from shared.verification.incentive_terms import NAMES, Terms
from shared.verification.incentives import judge, solve
from shared.verification.opinions import Opinion, confirmation
from shared.verification.standing import Standing

PLAIN = {
    "price": "2",
    "honest_cost": "1.5",
    "cheat_cost": "0.5",
    "power": "0.5",
    "alarms": "0",
    "collusion": "0",
    "bounty": "0.5",
    "margin": "1",
    "unsettled": "100",
    "audit_cost": "1",
    "receipts_per_year": "10000",
    "new_times": "1",
}
"""G = 1 and, with p = 1 %, p·δ = 0.005."""
PARTIES = {
    "auditor_fee": "2",
    "auditor_stake": "100",
    "challenge_cost": "3",
    "defence_cost": "4",
}
ONE_PERCENT = 10_000


def terms(**changes: str) -> Terms:
    return Terms.read(PLAIN | changes)


def inequality(policy, name):
    return next(each for each in policy.inequalities if each.name == name)


# By hand


def test_one_percent_audited_and_a_fifth_slashed_asks_for_500_times_the_gain():
    easy = terms(power="1", bounty="0", slash="0.2", unsettled="0")
    gain_beyond_pay = 1 - Fraction(2, 100)
    above = 500 * gain_beyond_pay
    assert solve(easy, rate_ppm=ONE_PERCENT).stake == above + Fraction(1, 100)
    assert not judge(easy, rate_ppm=ONE_PERCENT, stake=above).holds


def test_a_burst_of_all_that_is_unsettled_sets_the_stake():
    # (1 − 0.005·2)·(1/0.005 + 100)/(1 − 0.5) = 0.99·300·2
    policy = solve(terms(), rate_ppm=ONE_PERCENT)
    assert policy.stake == Fraction("594.01")
    burst = inequality(policy, "burst")
    assert burst.left == Fraction("0.005") * (Fraction("297.005") / Fraction("1.5") + 2)
    assert burst.right == 1
    assert inequality(policy, "deter").left == Fraction("0.005") * (Fraction("297.005") + 2)


def test_what_is_unsettled_is_covered_by_what_the_finder_leaves_of_the_slash():
    policy = solve(terms(), rate_ppm=1_000_000)  # every receipt: (1 − 0.5·2) is no gain at all
    assert policy.stake == 400  # 100·2/(1 − 0.5)
    assert (policy.unsettled, policy.exposure) == (100, 200)
    assert not judge(terms(), rate_ppm=1_000_000, stake=Fraction("399.99")).holds


def test_the_smallest_rate_for_a_stake():
    # 0.5·p·(400/(1 + 50·p) + 2) > 1 from 50·p² + 151·p = 1 on, p = (√23001 − 151)/100 = 0.00660808…
    assert solve(terms(), stake=Fraction(800)).rate_ppm == 6609


def test_honest_nodes_stay_while_false_convictions_cost_less_than_they_earn():
    # 2 − 1.5 ≥ 0.01·φ·(594.01 + 2) up to φ = 0.0838912…
    assert solve(terms(alarms="0.0838"), rate_ppm=ONE_PERCENT).holds
    with pytest.raises(CounterfoilError, match=r"stay cannot hold.*at most 0\.0838912") as refused:
        solve(terms(alarms="0.0839"), rate_ppm=ONE_PERCENT)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_new_node_that_is_honest_stays_too():
    with pytest.raises(CounterfoilError, match="begin cannot hold"):
        solve(terms(alarms="0.0838", new_times="1.1"), rate_ppm=ONE_PERCENT)


def test_planted_errors_cost_an_idle_auditor_more_than_it_saves():
    # 1/(2 + 100/2) of audits
    policy = solve(terms(**PARTIES), rate_ppm=ONE_PERCENT)
    assert policy.planted_ppm == 19_231
    assert solve(terms(**PARTIES, margin="2"), rate_ppm=ONE_PERCENT).planted_ppm == 38_462
    with pytest.raises(CounterfoilError, match=r"diligence cannot hold.*more than 1 by"):
        solve(terms(**PARTIES | {"auditor_fee": "0.5", "auditor_stake": "1"}), rate_ppm=ONE_PERCENT)


def test_a_bond_covers_what_a_false_challenge_costs_and_could_win():
    # φ = 0.1: (0.1·0.5·S + 1)/0.9 against 4, with S = 594.01
    risky = terms(**PARTIES, alarms="0.01", false_gain="1")
    policy = solve(risky, rate_ppm=ONE_PERCENT)
    assert policy.bond == Fraction("4.02")  # 0.01·0.5·594.01 + 1 = 3.97005, divided by 0.99
    assert solve(terms(**PARTIES), rate_ppm=ONE_PERCENT).bond == 4


def test_who_challenges_rightly_is_paid_for_it():
    policy = solve(terms(**PARTIES, unsettled="0"), rate_ppm=1_000_000)
    # 0.5·0.5·S ≥ 3 + 0.5·4, and half a cent for the rounding of a bond
    assert policy.stake == Fraction("20.02")
    assert inequality(policy, "challenge").holds
    with pytest.raises(CounterfoilError, match="challenge cannot hold at any stake"):
        solve(terms(**PARTIES, bounty="0"), rate_ppm=ONE_PERCENT)


# By brute force


@pytest.mark.parametrize("collusion", ["0", "0.1", "0.5", "1"])
def test_bought_workers_count_as_confirmation_counts_them(collusion):
    """Three workers in turn, each bought or not: for a cheat that passes it, against an honest node that accuses it."""
    share = Fraction(Decimal(collusion))
    caught = accused = Fraction(0)
    for bought in itertools.product((False, True), repeat=3):
        weight = Fraction(1)
        for each in bought:
            weight *= share if each else 1 - share
        caught += weight * convicted([not each for each in bought])
        accused += weight * convicted(list(bought))
    read = terms(collusion=collusion, power="1")
    assert (read.caught, read.accused) == (caught, accused)


def convicted(fails: list[bool]) -> bool:
    """Whether a FAIL is confirmed, when a second worker is asked after a FAIL and a third where they differ."""
    opinions: list[Opinion] = []
    for place, fail in enumerate(fails):
        if place == 1 and not fails[0]:
            break
        if place == 2 and fails[0] == fails[1]:
            break
        reason = Reason.TOKENS if fail else Reason.EXACT
        outcome = Outcome.FAIL if fail else Outcome.PASS
        first = opinions[0].entry if opinions and fail else None
        entry = bytes([place]) * 32
        opinions.append(Opinion(entry, place, b"", str(place), outcome, reason, first, False))
    return confirmation(opinions) is not None


@settings(deadline=None)
@given(
    st.integers(1, 1_000_000),
    st.integers(0, 60),
    st.integers(1, 100).map(lambda n: str(Decimal(n) / 100)),
    st.integers(0, 99).map(lambda n: str(Decimal(n) / 100)),
)
def test_no_burst_of_at_most_the_unsettled_pays_by_the_exact_probability(ppm, n, power, bounty):
    """The inequality has 1/(1 + n·q) where the truth is (1 − q)^n."""
    read = terms(power=power, bounty=bounty, unsettled=str(n))
    policy = solve(read, rate_ppm=ppm)
    q = Fraction(ppm, 10**6) * read.caught
    for many in range(1, n + 1):
        found = 1 - (1 - q) ** many
        gained = many * read.gain
        lost = found * (1 - read.bounty) * policy.stake + many * q * read.price
        assert gained < lost


# Whatever the terms

CENTS = st.integers(1, 10_000)


@st.composite
def any_terms(draw) -> Terms:
    honest = draw(CENTS)
    cents = {
        "price": honest + draw(CENTS),
        "honest_cost": honest,
        "cheat_cost": draw(st.integers(0, honest)),
        "audit_cost": draw(CENTS),
    }
    shares = {
        "power": draw(st.integers(1, 100)),
        "bounty": draw(st.integers(1, 99)),
        "slash": draw(st.integers(1, 100)),
        "collusion": draw(st.integers(0, 10)),
    }
    read = {name: str(Decimal(value) / 100) for name, value in (cents | shares).items()}
    read["unsettled"] = str(draw(st.integers(0, 10_000)))
    parties = PARTIES if draw(st.booleans()) else {}
    return Terms.read(PLAIN | {"alarms": "0.0001"} | parties | read)


def solved(read, **given):
    """Return the policy, if there is one; what has none is refused with a remedy."""
    try:
        return solve(read, **given)
    except CounterfoilError as error:
        refused = error
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.remedy
    return assume(False)


@settings(deadline=None)
@given(any_terms(), st.integers(1, 1_000_000))
def test_the_stake_for_a_rate_is_the_smallest(read, ppm):
    policy = solved(read, rate_ppm=ppm)
    assert policy.holds
    if policy.stake and read.challenge_cost is None:
        assert not judge(read, rate_ppm=ppm, stake=policy.stake - Fraction(1, 100)).holds


@settings(deadline=None)
@given(any_terms(), st.integers(1, 1_000_000), st.integers(0, 1000))
def test_the_rate_for_a_stake_is_the_smallest(read, ppm, more):
    policy = solved(read, stake=solved(read, rate_ppm=ppm).stake + more)
    assert policy.holds
    assert policy.rate_ppm <= ppm
    if policy.rate_ppm > 1:
        less = judge(read, rate_ppm=policy.rate_ppm - 1, stake=policy.stake)
        assert not inequality(less, "burst").holds


@settings(deadline=None)
@given(any_terms(), st.integers(1, 1_000_000))
def test_no_other_rate_is_cheaper(read, other):
    def cost(policy):
        return Fraction(policy.rate_ppm, 10**6) * read.audit_cost + policy.stake * read.stake_cost

    policy = solved(read)
    assert policy.holds
    try:
        compared = solve(read, rate_ppm=other)
    except CounterfoilError:
        return
    cent = read.stake_cost / 100  # the stake's rounding is not part of the choice
    assert cost(policy) <= cost(compared) + cent + Fraction(1, 10**6) * read.audit_cost


@settings(deadline=None)
@given(any_terms(), st.integers(1, 999_999), st.integers(0, 10**6), st.integers(1, 10**6))
def test_more_stake_and_more_audits_deter_more(read, ppm, stake, more):
    before = judge(read, rate_ppm=ppm, stake=Fraction(stake))
    richer = judge(read, rate_ppm=ppm, stake=Fraction(stake + more))
    stricter = judge(read, rate_ppm=min(10**6, ppm + more), stake=Fraction(stake))
    for name in ("deter", "burst"):
        assert inequality(richer, name).left > inequality(before, name).left
        assert inequality(stricter, name).left > inequality(before, name).left
    assert richer.unsettled >= before.unsettled
    assert stricter.unsettled >= before.unsettled


@settings(deadline=None)
@given(any_terms(), st.integers(1, 1_000_000), st.integers(0, 10**6))
def test_the_largest_exposure_is_the_largest(read, ppm, stake):
    asked = {name: getattr(read, name) for name in NAMES} | {"unsettled": None}
    policy = judge(Terms(**asked), rate_ppm=ppm, stake=Fraction(stake))
    names = ("burst", "exposure")
    at = {"rate_ppm": ppm, "stake": Fraction(stake)}
    beyond = judge(Terms(**asked | {"unsettled": policy.unsettled + 1}), **at)
    assert not all(inequality(beyond, name).holds for name in names)
    if policy.unsettled:
        assert all(inequality(policy, name).holds for name in names)


# Hostile and impossible terms


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("price", "audit_cost") for text in ("-1", "NaN", "inf", "", " ")),
        *((name, text) for name in ("price", "power") for text in ("1e3", "0x10", "１", "1.2.3", "1" * 99)),
        ("price", "0"),
        ("price", "1" + "0" * 16),
        ("power", "1.01"),
        ("power", "-0.1"),
        ("bounty", "1"),
        ("slash", "0"),
        ("margin", "0.9"),
        ("new_times", "0"),
        ("unsettled", "1.5"),
        ("unsettled", "-1"),
        ("unsettled", "1" + "0" * 13),
        ("receipts_per_year", "0"),
        ("floor_ppm", "0"),
        ("floor_ppm", "1000001"),
        ("currency", "euro"),
        ("currency", "GPUCOIN"),
        ("digits", "13"),
        ("auditor_fee", "1"),
        ("challenge_cost", "1"),
        ("nothing", "1"),
    ],
)  # fmt: skip
def test_terms_that_make_no_sense_are_refused_by_name(name, text):
    with pytest.raises(CounterfoilError) as refused:
        terms(**{name: text})
    assert refused.value.code is Code.INVALID_ARGUMENT
    known = name if name != "currency" else ("currency" if text == "euro" else "digits")
    assert known in str(refused.value)


@pytest.mark.parametrize("name", ["price", "honest_cost", "cheat_cost", "audit_cost"])
def test_a_missing_term_is_named(name):
    with pytest.raises(CounterfoilError, match=f"{name} is missing"):
        Terms.read({key: value for key, value in PLAIN.items() if key != name})


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"honest_cost": "2"}, {}, "stay cannot hold at any stake"),
        ({"power": "0"}, {}, "deter cannot hold at any rate"),
        ({"collusion": "1"}, {}, "deter cannot hold at any rate"),
        ({"alarms": "1", "power": "0.000001"}, {}, "(stay|begin) cannot hold"),
        ({}, {"stake": Fraction(399)}, "exposure cannot hold.*Stake at least 400"),
        ({"power": "0.005"}, {"stake": Fraction(594)}, "deter cannot hold.*Stake more than 594"),
        ({"floor_ppm": "500"}, {"rate_ppm": 499}, "is not between 500"),
        ({}, {"stake": Fraction(-1)}, "cannot be negative"),
        (PARTIES | {"alarms": "1"}, {}, "challenge cannot hold"),
    ],
)
def test_terms_without_a_solution_say_which_inequality_cannot_hold(changes, given, said):
    with pytest.raises(CounterfoilError, match=said) as refused:
        solve(terms(**changes), **given)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_how_much_is_unsettled_must_be_said():
    with pytest.raises(CounterfoilError, match="unsettled is missing"):
        solve(Terms.read({key: value for key, value in PLAIN.items() if key != "unsettled"}))


def test_a_cheat_that_saves_nothing_needs_no_audit_and_no_stake():
    policy = solve(terms(cheat_cost="1.5", unsettled="0"))
    assert (policy.rate_ppm, policy.stake) == (1, 0)


def test_where_lost_pay_deters_alone_only_what_is_unsettled_is_staked():
    policy = solve(
        terms(power="1", honest_cost="1.2", cheat_cost="1.1", unsettled="10"), rate_ppm=60_000
    )
    assert policy.stake == 40  # 10·2/(1 − 0.5); 0.06·2 > 0.1


def test_the_largest_numbers_are_computed_exactly():
    huge = terms(
        price="1" + "0" * 15, honest_cost="9" * 15, cheat_cost="0", unsettled="1" + "0" * 12
    )
    policy = solve(huge)
    assert policy.holds
    assert policy.exposure >= 10**27


# By record


def test_a_node_is_audited_by_its_record_and_never_less_than_the_rate():
    by = rates(729, new=Fraction(4), watched=Fraction(10))
    assert by == {
        Standing.GOOD: 729,
        Standing.NEW: 2916,
        Standing.WATCHED: 7290,
        Standing.SUSPENDED: 1_000_000,
    }


@settings(deadline=None)
@given(st.integers(1, 10**6), st.fractions(1, 1000), st.fractions(1, 1000))
def test_the_worse_a_node_stands_the_more_it_is_audited(ppm, new, watched):
    by = rates(ppm, new=new, watched=watched)
    inorder = [by[standing] for standing in sorted(Standing, key=lambda one: one.rank)]
    assert inorder == sorted(inorder, reverse=True)
    assert inorder[0] == 10**6
    assert inorder[-1] == ppm


# As text


def test_numbers_are_shown_to_nine_digits_and_told_exactly():
    assert shown(Fraction(1, 3)) == "0.333333333"
    assert shown(Fraction(1200)) == "1200"
    assert shown(10**12) == "1" + "0" * 12
    assert exact(Fraction(1, 3)) == "1/3"
    assert exact(Fraction("1234567890123.25")) == "1234567890123.25"
    assert exact(Fraction(0)) == "0"
    assert exact(Fraction(100)) == "100"
