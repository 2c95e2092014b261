"""The knapsacks bound what they should: no population that a tail does not reject lies outside, and one lies near.

Everything is compared with a second computation: of all populations in which each receipt is overbilled whole or not.
"""

import itertools
import math
import random

import numpy as np
import pytest

from audit_layer.costs.tail_bounds import (
    ADAPTIVE,
    Known,
    _least_at,
    _most_at,
    _most_silent,
    least_missed,
    most_missed,
    sample,
)

NONE = Known(np.zeros(0), np.zeros(0), np.zeros(0))


def known(*rows):
    z, p, count = zip(*rows, strict=True)
    return Known(np.array(z, float), np.array(p, float), np.array(count, float))


def unknown(rows, drawn=NONE, other=NONE):
    a, p, count = zip(*rows, strict=True)
    return sample(np.array(a, float), np.array(p, float), np.array(count, float), drawn, other)


def log_bound(lam, sign, all_z, drawn):
    """Return the logarithm of the Chernoff bound: P(S ≤ s) for sign −1, P(S ≥ s) for +1. Rows are (z, p)."""
    s = sum(z / p for z, p in drawn)
    means = (math.log(1 - p + p * math.exp(sign * lam * z / p)) for z, p in all_z)
    return sum(means) - sign * lam * s


def cases():
    """Few findings with steep λ, which reject from below, and many with flat ones, which reject from above."""
    draw = random.Random(3)
    for k in range(60):
        rows = [
            (draw.choice((0.5, 1, 2, 8)) * draw.uniform(0.9, 1.1), draw.choice((0.2, 0.4, 0.7)))
            for _ in range(draw.randint(5, 9))
        ]
        few = k % 2
        z, rates = (0.1, (0.3, 0.5)) if few else (2, (0.1, 0.2))
        drawn = [(z, draw.choice(rates)) for _ in range(4)]
        other = [(draw.choice((0, 5)), 0.7), (1, 0.5)]
        lam = draw.choice((0.3, 1, 3)) if few else draw.choice((0.05, 0.1, 0.15))
        yield rows, drawn, other, lam, draw.choice((0.3, 0.1, 0.03))


CASES = pytest.mark.parametrize(("rows", "drawn", "other", "lam", "level"), list(cases()))


def accepted(rows, drawn, other, lam, level, sign):
    """Return Σ z of every population of the unknown receipts that the tail does not reject at λ."""
    for taken in itertools.product((False, True), repeat=len(rows)):
        z = [a if one else 0 for one, (a, _) in zip(taken, rows, strict=True)]
        everyone = [*zip(z, (p for _, p in rows), strict=True), *drawn, *other]
        if log_bound(lam, sign, everyone, drawn) >= math.log(level):
            yield sum(z)


def given(rows, drawn, other):
    return unknown(
        [(*row, 1) for row in rows],
        known(*((*row, 1) for row in drawn)),
        known(*((*row, 1) for row in other)),
    )


@CASES
def test_the_upper_knapsack_is_at_most_one_receipt_above_the_extreme_population(
    rows, drawn, other, lam, level
):
    extreme = max(accepted(rows, drawn, other, lam, level, -1), default=0)
    bound = _most_at(given(rows, drawn, other), lam, level)
    assert extreme <= bound + 1e-9
    assert bound <= extreme + max(a for a, _ in rows) + 1e-9


@CASES
def test_the_lower_knapsack_is_at_most_one_receipt_below_the_extreme_population(
    rows, drawn, other, lam, level
):
    everything = sum(a for a, _ in rows)
    extreme = min(accepted(rows, drawn, other, lam, level, 1), default=everything)
    bound = _least_at(given(rows, drawn, other), lam, level)
    assert bound <= extreme + 1e-9
    assert bound >= extreme - max(a for a, _ in rows) - 1e-9


def test_the_cases_reject_and_accept():
    """Otherwise the two tests above would compare trivial bounds."""
    nontrivial = {-1: 0, 1: 0}
    for rows, drawn, other, lam, level in cases():
        for sign in nontrivial:
            found = list(accepted(rows, drawn, other, lam, level, sign))
            nontrivial[sign] += 0 < len(found) < 2 ** len(rows)
    assert min(nontrivial.values()) >= 10


@pytest.mark.parametrize("other", [NONE, known((2, 0.1, 3), (0, 0.5, 100))])
def test_for_an_infinite_lambda_the_set_that_is_missed_is_counted_in_whole_receipts(other):
    budget = math.log(1 / 0.05) + 3 * math.log1p(-0.1) * bool(other.z.size)
    expected = math.floor(budget / -math.log1p(-0.1))
    assert _most_silent(unknown([(1, 0.1, 1000)], other=other), 0.05) == pytest.approx(expected)


def test_with_different_rates_the_receipts_that_hide_most_per_risk_are_taken_first():
    rows = [(1, 0.5, 10), (1, 0.01, 10), (9, 0.5, 1)]
    budget = math.log(1 / 0.05) + 10 * math.log(
        0.99
    )  # the ten that are rarely drawn, then the large one
    assert budget > math.log(2)
    expected = 10 + 9 + (budget - math.log(2)) / math.log(2)
    assert _most_silent(unknown(rows), 0.05) == pytest.approx(expected)


def test_whatever_was_found_an_infinite_lambda_then_says_nothing():
    assert _most_silent(unknown([(1, 0.1, 50)], known((1, 0.1, 1))), 0.05) == 50
    certain = unknown([(1, 0.1, 50)], known((1, 1, 1), (0, 0.1, 1)))
    assert _most_silent(certain, 0.05) == pytest.approx(28)


@pytest.mark.parametrize(("dirty", "clean"), [(0, 40), (1, 100), (30, 70), (100, 0)])
def test_limits_that_hold_against_strategies_share_the_level_among_all_lambda(dirty, clean):
    """For equal receipts the knapsack has a closed form; the shares are half for λ = ∞ and equal ones for the others."""
    n, p, level = 2000, 0.05, 0.025
    drawn = known((1, p, dirty), (0, p, clean))
    left = unknown([(1, p, n)], drawn)
    upper = [
        (math.log(2 * len(ADAPTIVE) / level) + dirty * log_sum(p, lam / p))
        / -math.log1p(p * math.expm1(-lam / p))
        for lam in ADAPTIVE
    ]
    if not dirty:
        upper.append(math.floor(math.log(2 / level) / -math.log1p(-p)))
    lower = [
        (math.log(level / len(ADAPTIVE)) - dirty * math.log(p + (1 - p) * math.exp(-lam / p)))
        / (log_sum(1 - p, lam / p))
        for lam in ADAPTIVE
    ]
    assert most_missed(left, level, adaptive=True) == pytest.approx(min(n, *upper))
    assert least_missed(left, level, adaptive=True) == pytest.approx(max(0, *lower))


def log_sum(p, x):
    """log(p + (1 − p) e^x)."""
    return x + math.log(1 - p + p * math.exp(-x))


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1, 1e6, 1e18])
@pytest.mark.parametrize("p", [1e-6, 0.01, 0.999999])
@pytest.mark.parametrize("adaptive", [False, True])
def test_amounts_of_any_size_give_finite_limits(scale, p, adaptive):
    left = unknown([(scale, p, 1e9), (1e-12, p, 1)], known((scale, p, 3), (1e-12, p, 1)))
    low, high = (limit(left, 0.025, adaptive=adaptive) for limit in (least_missed, most_missed))
    assert 0 <= low <= high <= left.capacity * (1 + 1e-8)


def test_the_units_of_money_do_not_matter_where_lambda_is_searched():
    def limits(scale):
        rows = [(3 * scale, 0.05, 400), (scale, 0.1, 900)]
        left = unknown(rows, known((3 * scale, 0.05, 5), (0, 0.1, 90)))
        return [limit(left, 0.025, adaptive=False) / scale for limit in (least_missed, most_missed)]

    assert limits(1e-9) == pytest.approx(limits(1))
    assert limits(1e9) == pytest.approx(limits(1))
