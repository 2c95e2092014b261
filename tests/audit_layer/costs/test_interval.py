"""The interval covers the true overbilling as often as it says, for every population that was tried, and is a point
where everything is known.
"""

import itertools
import math
import random
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.interval import Alike, Finding, Interval, overbilling
from shared.runtime.errors import Code, CounterfoilError
from shared.selection.draw import Logged, sample
from shared.statements.disclosures import DisclosureReason
from shared.statements.request import PPM

ONE = Decimal(1)
ZERO = Decimal(0)
MODES = pytest.mark.parametrize("adaptive", [False, True])


def equal(n, drawn, dirty, *, rate=200_000, **options):
    """`n` receipts of amount 1; the draw took so many, and found so many of them overbilled whole."""
    return overbilling(
        [
            Alike(ONE, rate, None, n - drawn),
            Alike(ONE, rate, Finding.exactly(ZERO), drawn - dirty),
            Alike(ONE, rate, Finding.exactly(ONE), dirty),
        ],
        **options,
    )


def missed(receipts, confidence, adaptive, watched=0):
    """For (amount, ppm, z): the exact probabilities that the low limit is above Σ z, and the high limit below it.

    The first `watched` receipts are audited in any case.
    """
    total = sum(z for _, _, z in receipts)
    above = below = 0.0
    for drawn in itertools.product((False, True), repeat=len(receipts)):
        chance = math.prod(
            rate / PPM if one else 1 - rate / PPM
            for one, (_, rate, _) in zip(drawn, receipts, strict=True)
        )
        if chance == 0:
            continue
        interval = overbilling(
            [
                Alike(amount, rate, Finding.exactly(z, by_rate=one) if one or i < watched else None)
                for i, (one, (amount, rate, z)) in enumerate(zip(drawn, receipts, strict=True))
            ],
            confidence=confidence,
            adaptive=adaptive,
        )
        above += chance * (interval.low > total)
        below += chance * (interval.high < total)
    return above, below


def populations():
    """Populations of at most seven receipts: random ones, and those in which overbilling is concentrated or spread."""
    draw = random.Random(7)
    rates = (50_000, 200_000, 500_000, 800_000, PPM)
    for _ in range(10):
        rows = []
        for _ in range(draw.randint(4, 7)):
            amount = Decimal(draw.choice((1, 1, 1, 3, 10))) / draw.choice((1, 4))
            part = draw.choice((Decimal(0), Decimal("0.3"), ONE, ONE))
            rows.append((amount, draw.choice(rates), amount * part))
        yield rows
    yield [(ONE, 300_000, ONE)] * 7
    yield [(ONE, 300_000, Decimal("0.5"))] * 7
    yield [(Decimal(100), 300_000, Decimal(100)), *[(ONE, 300_000, ZERO)] * 6]
    yield [(Decimal(100), 10_000, Decimal(100)), *[(ONE, 900_000, ONE)] * 6]


@pytest.mark.parametrize("rows", list(populations()))
@pytest.mark.parametrize("confidence", [Decimal("0.5"), Decimal("0.9")])
@MODES
def test_each_limit_fails_at_most_as_often_as_it_says_over_all_draws(rows, confidence, adaptive):
    above, below = missed(rows, confidence, adaptive)
    tail = float(1 - confidence) / 2
    assert above <= tail + 1e-12
    assert below <= tail + 1e-12


@pytest.mark.parametrize("rows", list(populations()))
@MODES
def test_audits_that_no_rate_drew_do_not_make_limits_fail_more_often(rows, adaptive):
    above, below = missed(rows, Decimal("0.6"), adaptive, watched=3)
    assert max(above, below) <= 0.2 + 1e-12


def test_limits_do_fail_sometimes():
    """Otherwise the test above could not tell a valid interval from one that is always as wide as possible."""
    _, below = missed([(ONE, 500_000, ONE)] * 3, Decimal("0.7"), False)
    assert below == pytest.approx(1 / 8)


def rejected_below(z, p, s, tail):
    """Whether P(S ≤ s) is below the tail for the population z, by enumeration with exact rationals."""
    return law(z, p, lambda value: value <= s) < tail


def rejected_above(z, p, s, tail):
    return law(z, p, lambda value: value >= s) < tail


def law(z, p, event):
    """Return the probability that Σ I z / p has a property."""
    total = Fraction(0)
    for drawn in itertools.product((0, 1), repeat=len(z)):
        value = sum((Fraction(i) * a / q for i, a, q in zip(drawn, z, p, strict=True)), Fraction(0))
        if event(value):
            total += math.prod(q if i else 1 - q for i, q in zip(drawn, p, strict=True))
    return total


@pytest.mark.parametrize("seed", range(6))
@MODES
def test_tiny_populations_the_exact_inversion_lies_within_the_interval(seed, adaptive):
    """The exact limits are the extreme sums among all populations, on a lattice, that no exact test rejects."""
    draw = random.Random(seed)
    n, tail = 5, Fraction(1, 10)
    amounts = [draw.choice((1, 2, 4)) for _ in range(n)]
    p = [Fraction(draw.choice((2, 4, 6)), 10) for _ in range(n)]
    truth = [Fraction(draw.choice((0, 2)), 2) * a for a in amounts]
    drawn = [draw.random() < q for q in p]
    s = sum((z / q for z, q, one in zip(truth, p, drawn, strict=True) if one), Fraction(0))
    lattice = [
        [z] if one else [Fraction(k, 2) * a for k in range(3)]
        for z, a, one in zip(truth, amounts, drawn, strict=True)
    ]
    high = max(sum(z) for z in itertools.product(*lattice) if not rejected_below(z, p, s, tail))
    low = min(sum(z) for z in itertools.product(*lattice) if not rejected_above(z, p, s, tail))
    found = overbilling(
        [
            Alike(
                Decimal(a),
                int(q * PPM),
                Finding.exactly(Decimal(float(z))) if one else None,
            )
            for a, q, z, one in zip(amounts, p, truth, drawn, strict=True)
        ],
        confidence=Decimal("0.8"),
        adaptive=adaptive,
    )
    assert found.low <= low
    assert found.high >= high


@pytest.mark.parametrize(("rate", "confidence"), [(10_000, "0.95"), (200_000, "0.9"), (1, "0.99")])
def test_where_nothing_is_found_the_limit_is_the_largest_set_that_a_draw_misses_often_enough(
    rate, confidence
):
    tail = (1 - Fraction(confidence)) / 2
    largest = math.floor(math.log(tail) / math.log1p(-rate / PPM))
    found = equal(10**9, 0, 0, rate=rate, confidence=Decimal(confidence), adaptive=False)
    assert float(found.high) == pytest.approx(largest, rel=1e-8)
    assert (1 - rate / PPM) ** largest >= tail > (1 - rate / PPM) ** (largest + 1)
    assert found.low == 0


def test_the_documented_numbers_are_what_comes_out():
    document = (Path(__file__).parents[3] / "docs" / "cost-interval.md").read_text("utf-8")
    text = " ".join(document.split())
    clean = [
        [int(equal(10**6, 0, 0, rate=rate, adaptive=adaptive).high) for adaptive in (False, True)]
        for rate in (10_000, 50_000, 200_000)
    ]
    (a, b), (c, d), (e, f) = clean
    assert f"the {a} largest unaudited receipts at 1 %, of {c} at 5 %, of {e} at 20 %" in text
    assert f"({b}, {d} and {f} with `adaptive`)" in text
    plain, adaptive = (equal(10_000, 500, 50, rate=50_000, adaptive=one) for one in (False, True))
    assert f"{plain.low:,.0f} to {plain.high:,.0f} receipts" in text
    assert f"{adaptive.low:,.0f} to {adaptive.high:,.0f} with `adaptive`" in text


def test_where_nothing_is_found_the_largest_receipts_are_assumed_to_be_missed():
    rows = [
        Alike(Decimal(k), 500_000) for k in range(1, 101)
    ]  # of 5 receipts, 1/32 of draws miss all
    assert float(overbilling(rows, adaptive=False).high) == pytest.approx(100 + 99 + 98 + 97 + 96)


@cache
def cached(n, drawn, dirty, rate, confidence, adaptive):
    return equal(n, drawn, dirty, rate=rate, confidence=Decimal(confidence), adaptive=adaptive)


def binomial(n, p):
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def worst(n, p, fails):
    """Return with which probability the best strategy over two epochs of n receipts each makes a limit fail.

    It chooses how many to overbill in the second epoch when it knows what was drawn in the first. Found by dynamic
    programming, so it is exact. `fails` takes the overbilled receipts, and how many of them and of the others were drawn.
    """

    def expected(dirty, then):
        caught, clean = binomial(dirty, p), binomial(n - dirty, p)
        return sum(a * b * then(k, d) for k, a in enumerate(caught) for d, b in enumerate(clean))

    def second(first, k, d):
        return max(
            expected(c, lambda kk, dd, c=c: fails(first + c, k + kk, d + dd)) for c in range(n + 1)
        )

    return max(
        expected(first, lambda k, d, first=first: second(first, k, d)) for first in range(n + 1)
    )


@pytest.mark.parametrize(("n", "rate", "confidence"), [(8, 300_000, "0.6"), (12, 200_000, "0.4")])
@pytest.mark.parametrize("side", ["low", "high"])
def test_no_strategy_that_adapts_to_the_draws_makes_a_limit_fail_more_often(
    n, rate, confidence, side
):
    def fails(total, dirty, clean):
        interval = cached(2 * n, dirty + clean, dirty, rate, confidence, True)
        return interval.low > total if side == "low" else interval.high < total

    assert worst(n, rate / PPM, fails) <= (1 - float(confidence)) / 2


def test_the_narrower_interval_does_not_hold_against_a_strategy():
    """Which is why there are two, and why the other one is the default."""

    def fails(total, dirty, clean):
        return cached(28, dirty + clean, dirty, 200_000, "0.4", False).high < total

    assert worst(14, 0.2, fails) == pytest.approx(0.3044, abs=1e-4)  # instead of at most 0.3


def worst_with_missing_reveals(n, rate, confidence, side, *, adaptive, certain):
    """The same where a party of the beacon may keep its reveal back after it has seen the draw, and help the strategy.

    All receipts of such an epoch are audited. `certain` counts them as if that had been certain beforehand.
    """
    whole = (PPM, True) if certain else (rate, None)

    @cache
    def fails(total, kept, dirty, clean, whole_dirty, whole_clean):
        rows = [
            Alike(ONE, rate, None, kept - dirty - clean),
            Alike(ONE, rate, Finding.exactly(ONE), dirty),
            Alike(ONE, rate, Finding.exactly(ZERO), clean),
            Alike(ONE, whole[0], Finding.exactly(ONE, by_rate=whole[1]), whole_dirty),
            Alike(ONE, whole[0], Finding.exactly(ZERO, by_rate=whole[1]), whole_clean),
        ]
        interval = overbilling(rows, confidence=Decimal(confidence), adaptive=adaptive)
        return interval.low > total if side == "low" else interval.high < total

    @cache
    def best(epochs, total, kept, dirty, clean, whole_dirty, whole_clean):
        if not epochs:
            return fails(total, kept, dirty, clean, whole_dirty, whole_clean)
        values = []
        for c in range(n + 1):
            held_back = best(
                epochs - 1, total + c, kept, dirty, clean, whole_dirty + c, whole_clean + n - c
            )
            values.append(
                sum(
                    a
                    * b
                    * max(
                        held_back,
                        best(
                            epochs - 1,
                            total + c,
                            kept + n,
                            dirty + k,
                            clean + d,
                            whole_dirty,
                            whole_clean,
                        ),
                    )
                    for k, a in enumerate(binomial(c, rate / PPM))
                    for d, b in enumerate(binomial(n - c, rate / PPM))
                )
            )
        return max(values)

    return best(2, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("side", ["low", "high"])
@MODES
def test_keeping_a_reveal_back_makes_no_limit_fail_more_often(side, adaptive):
    chance = worst_with_missing_reveals(4, 400_000, "0.6", side, adaptive=adaptive, certain=False)
    assert chance <= 0.2


@pytest.mark.parametrize(("side", "chance"), [("low", 0.2722), ("high", 0.2424)])
def test_epochs_whole_for_want_of_a_reveal_must_not_count_as_certain(side, chance):
    found = worst_with_missing_reveals(4, 400_000, "0.6", side, adaptive=False, certain=True)
    assert found == pytest.approx(chance, abs=1e-4)  # instead of at most 0.2


def test_a_whole_epoch_without_overbilling_does_not_widen_the_interval():
    others = [Alike(ONE, 50_000, None, 950), Alike(ONE, 50_000, Finding.exactly(ONE), 5)]
    clean = Alike(ONE, 50_000, Finding.exactly(ZERO, by_rate=None), 1000)
    dirty = Alike(ONE, 50_000, Finding.exactly(ONE, by_rate=None), 5)
    alone, with_clean, with_dirty = (
        overbilling([*others, *more]) for more in ([], [clean], [dirty])
    )
    assert (with_clean.low, with_clean.high) == (alone.low, alone.high)
    assert with_dirty.low < alone.low + 5
    assert with_dirty.high > alone.high + 5


def drawn_epoch(draw, receipts, rate, floor):
    """Draw an epoch by the protocol's own rule; `receipts` are (amount, z)."""
    logged = [Logged(draw.randbytes(32), i, b"node") for i in range(len(receipts))]
    chosen = {
        one.index: one.reason
        for one in sample(draw.randbytes(32), logged, rate_ppm=rate, floor=floor, whole=False)
    }
    return [
        Alike(
            amount,
            rate,
            Finding.exactly(z, by_rate=chosen[i] is DisclosureReason.DRAW) if i in chosen else None,
        )
        for i, (amount, z) in enumerate(receipts)
    ]


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("concentrated", [False, True])
@MODES
def test_the_protocols_own_draw_with_a_floor_is_covered(share, concentrated, adaptive):
    """Two epochs of different rates, with floors. 120 draws at 80 %: fewer than 79 hits are a chance of one in 10⁴."""
    draw = random.Random(11)
    amounts = [Decimal(math.ceil(draw.lognormvariate(5, 1.5))) for _ in range(120)]
    if concentrated:
        amounts.sort(reverse=True)
    dirty = (
        set(range(int(120 * share)))
        if concentrated
        else {i for i in range(120) if draw.random() < share}
    )
    receipts = [(a, a if i in dirty else ZERO) for i, a in enumerate(amounts)]
    total = sum(z for _, z in receipts)
    hits = 0
    for _ in range(120):
        rows = drawn_epoch(draw, receipts[::2], 100_000, 4) + drawn_epoch(
            draw, receipts[1::2], 250_000, 4
        )
        interval = overbilling(rows, confidence=Decimal("0.8"), adaptive=adaptive)
        hits += interval.low <= total <= interval.high
    assert hits >= 79


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([10_000, 200_000, 900_000]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_more_clean_audits_never_widen_the_interval(drawn, more, rate, adaptive):
    few = equal(100, drawn, 0, rate=rate, adaptive=adaptive)
    many = equal(100, drawn + more, 0, rate=rate, adaptive=adaptive)
    assert many.high <= few.high
    assert many.low == few.low == 0


@MODES
def test_a_higher_rate_or_a_lower_confidence_narrows_it(adaptive):
    wide = equal(1000, 200, 20, rate=200_000, adaptive=adaptive)
    unsure = equal(1000, 200, 20, rate=200_000, confidence=Decimal("0.5"), adaptive=adaptive)
    assert wide.low < unsure.low < Decimal(100) < unsure.high < wide.high
    clean = [
        equal(1000, 0, 0, rate=rate, adaptive=adaptive).high for rate in (10_000, 50_000, 200_000)
    ]
    assert clean == sorted(clean, reverse=True)
    assert len(set(clean)) == 3


def test_holding_against_strategies_costs_width():
    plain = equal(10_000, 500, 50, rate=50_000, adaptive=False)
    adaptive = equal(10_000, 500, 50, rate=50_000, adaptive=True)
    assert adaptive.low < plain.low < Decimal(1000) < plain.high < adaptive.high


MONEY = st.decimals(0, 10**6, places=6)


@st.composite
def alike(draw):
    amount = draw(MONEY)
    rate = draw(st.sampled_from([0, 1, 10_000, 500_000, 999_999, PPM]))
    finding = None
    if rate == PPM or draw(st.booleans()):
        ends = sorted((draw(st.decimals(0, 1, places=3)), draw(st.decimals(0, 1, places=3))))
        finding = Finding(
            amount * ends[0],
            amount * ends[1],
            draw(st.sampled_from([False, None, *[True] * (rate > 0)])),
        )
    return Alike(amount, rate, finding, draw(st.integers(0, 1000)))


@given(st.lists(alike(), max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_limits_lie_between_what_was_found_and_all_that_may_be(rows, adaptive):
    interval = overbilling(rows, adaptive=adaptive)
    assert interval.found <= interval.low <= interval.high
    assert interval.high <= interval.found + interval.open + interval.unaudited
    assert interval.found + interval.unaudited <= sum(each.amount * each.count for each in rows)


@given(st.lists(alike(), max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_grouping_makes_no_difference(rows, adaptive):
    rows = [Alike(each.amount, each.rate_ppm, each.finding, each.count % 5) for each in rows]
    single = [
        Alike(each.amount, each.rate_ppm, each.finding) for each in rows for _ in range(each.count)
    ]
    a, b = overbilling(rows, adaptive=adaptive), overbilling(single[::-1], adaptive=adaptive)
    assert float(a.low) == pytest.approx(float(b.low), rel=1e-6, abs=1e-9)
    assert float(a.high) == pytest.approx(float(b.high), rel=1e-6, abs=1e-9)


@MODES
def test_without_an_audit_everything_is_possible(adaptive):
    interval = overbilling([Alike(Decimal("0.10"), 0, None, 30)], adaptive=adaptive)
    assert (interval.low, interval.high) == (ZERO, Decimal("3.00"))


@MODES
def test_where_everything_is_audited_the_interval_is_a_point_to_the_last_digit(adaptive):
    rows = [
        Alike(Decimal("0.000000000001"), 10_000, Finding.exactly(Decimal("0.000000000001"))),
        Alike(Decimal(10) ** 18, PPM, Finding.exactly(Decimal(10) ** 18), 1000),
        Alike(Decimal(3), 0, Finding.exactly(Decimal(1), by_rate=False)),
    ]
    interval = overbilling(rows, adaptive=adaptive)
    expected = Decimal("1000000000000000000001.000000000001")
    assert interval.low == interval.high == interval.found == expected


@MODES
def test_amounts_of_zero_and_no_receipts_at_all_are_zero(adaptive):
    for rows in ([], [Alike(ZERO, 10_000, None, 10**6)], [Alike(ONE, PPM, None, 0)]):
        interval = overbilling(rows, adaptive=adaptive)
        assert (interval.low, interval.high, interval.unaudited) == (0, 0, 0)


@MODES
def test_certain_audits_say_nothing_about_other_receipts(adaptive):
    others = [Alike(ONE, 50_000, None, 950), Alike(ONE, 50_000, Finding.exactly(ZERO), 50)]
    certain = Alike(Decimal(7), PPM, Finding.exactly(Decimal(7)), 3)
    alone, both = (overbilling(rows, adaptive=adaptive) for rows in (others, [*others, certain]))
    assert (both.low, both.high) == (alone.low + 21, alone.high + 21)


@MODES
def test_a_draw_that_nobody_knows_is_the_worst_case_for_each_limit(adaptive):
    others = [Alike(ONE, 200_000, None, 2000), Alike(ONE, 200_000, Finding.exactly(ONE), 50)]
    found = [
        overbilling(
            [*others, Alike(ONE, 200_000, Finding.exactly(ONE, by_rate=by_rate), 50)],
            adaptive=adaptive,
        )
        for by_rate in (None, True, False)
    ]
    unknown, by_rate, otherwise = found
    assert (unknown.low, unknown.high) == (otherwise.low, by_rate.high)
    assert unknown.high < 2100  # not all that may be
    assert otherwise.low < by_rate.low
    assert otherwise.high < by_rate.high


@MODES
def test_what_the_floor_finds_counts_itself_and_is_not_extrapolated(adaptive):
    others = [Alike(ONE, 50_000, None, 950), Alike(ONE, 50_000, Finding.exactly(ZERO), 50)]
    by_floor = Alike(ONE, 50_000, Finding.exactly(ONE, by_rate=False), 5)
    by_rate = Alike(ONE, 50_000, Finding.exactly(ONE), 5)
    floor, rate = (overbilling([*others, one], adaptive=adaptive) for one in (by_floor, by_rate))
    assert floor.low == 5
    assert floor.high < rate.high
    assert rate.low > 5


@MODES
def test_an_audit_without_an_answer_is_the_worst_case_for_each_limit(adaptive):
    def with_finding(finding):
        return overbilling(
            [
                Alike(ONE, 50_000, None, 950),
                Alike(ONE, 50_000, Finding.exactly(ONE), 20),
                Alike(ONE, 50_000, finding, 30),
            ],
            adaptive=adaptive,
        )

    unanswered = with_finding(Finding.unanswered(ONE))
    assert unanswered.high == with_finding(Finding.exactly(ONE)).high
    assert unanswered.low == with_finding(Finding.exactly(ZERO)).low
    assert (unanswered.found, unanswered.open) == (20, 30)


def test_many_different_receipts_are_bounded():
    draw = random.Random(5)
    rows = [
        Alike(Decimal(draw.randrange(1, 10**9)).scaleb(-9), 10_000 + 10_000 * (i % 3))
        for i in range(50_000)
    ]
    interval = overbilling(rows * 4, adaptive=False)
    assert 0 < interval.high < interval.unaudited / 50


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (Alike(Decimal(-1), 1), "amount"),
        (Alike(Decimal("NaN"), 1), "amount"),
        (Alike(Decimal("Infinity"), 1), "amount"),
        (Alike(Decimal(10) ** 18 + 1, 1), "amount"),
        (Alike(ONE, -1), "ppm"),
        (Alike(ONE, PPM + 1), "ppm"),
        (Alike(ONE, 1, None, -1), "receipts"),
        (Alike(ONE, PPM), "certain"),
        (Alike(ONE, 1, Finding(ZERO, Decimal("1.01"))), "overbilled"),
        (Alike(ONE, 1, Finding(ONE, ZERO)), "overbilled"),
        (Alike(ONE, 1, Finding(Decimal(-1), ZERO)), "overbilled"),
        (Alike(ONE, 1, Finding(Decimal("NaN"), ONE)), "not a number"),
        (Alike(ONE, 1, Finding(ZERO, Decimal("NaN"))), "not a number"),
        (Alike(ONE, 0, Finding.exactly(ONE)), "draws nothing"),
    ],
)
def test_what_cannot_be_is_refused(row, word):
    with pytest.raises(CounterfoilError, match=word) as caught:
        overbilling([row])
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("confidence", ["0", "1", "-1", "95", "NaN"])
def test_a_confidence_lies_between_none_and_certainty(confidence):
    with pytest.raises(CounterfoilError, match="confidence"):
        overbilling([], confidence=Decimal(confidence))


def test_the_sentence_rounds_outward():
    interval = Interval(
        confidence=Decimal("0.950"),
        low=Decimal("12.349"),
        high=Decimal("1000000.001"),
        found=Decimal(1),
        open=ZERO,
        unaudited=Decimal(9),
    )
    said = "at 95 %, overbilled by between 12.34 and 1000000.01 EUR"
    assert interval.sentence("EUR") == said
    assert interval.sentence("JPY", 0) == "at 95 %, overbilled by between 12 and 1000001 JPY"
