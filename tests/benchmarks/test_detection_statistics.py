"""Intervals, thresholds and the geometric law are the exact ones."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.detection.statistics import at_least, audits_until, interval, threshold, upper


@pytest.mark.parametrize(
    ("hits", "tries", "low", "high"),
    [  # closed forms: no hit, only hits, and one try
        (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1.0),
        (1, 1, 0.025, 1.0),
        (0, 1, 0.0, 0.975),
        (1, 2, 1 - math.sqrt(0.975), math.sqrt(0.975)),
    ],
)
def test_intervals_are_those_of_clopper_and_pearson(hits, tries, low, high):
    assert interval(hits, tries) == pytest.approx((low, high), abs=1e-9)


def test_without_a_hit_the_upper_limit_is_about_three_over_the_tries():
    assert upper(0, 20_000) == pytest.approx(1 - 0.05 ** (1 / 20_000), rel=1e-6)
    assert upper(5, 5) == 1.0


@given(st.integers(1, 400), st.data())
def test_limits_leave_the_stated_tails(tries, data):
    hits = data.draw(st.integers(0, tries))
    low, high = interval(hits, tries)
    assert low <= hits / tries <= high
    if hits:
        assert at_least(hits, tries, low) == pytest.approx(0.025, rel=1e-4)
    if hits < tries:
        assert 1 - at_least(hits + 1, tries, high) == pytest.approx(0.025, rel=1e-4)
        assert 1 - at_least(hits + 1, tries, upper(hits, tries)) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(("hits", "tries"), [(0, 0), (3, 2), (-1, 5)])
def test_counts_that_make_no_sense_are_refused(hits, tries):
    with pytest.raises(ValueError):
        interval(hits, tries)


def test_one_cheat_in_a_hundred_is_found_in_69_audits_half_the_time_and_in_298_with_95_percent():
    assert audits_until(0.01, 0.5) == 69
    assert audits_until(0.01, 0.95) == 299  # 298 find it with 94.997 %
    assert math.isclose(1 - 0.99**298, 0.95, abs_tol=5e-5)
    assert audits_until(1.0, 0.95) == 1


def test_a_threshold_is_exceeded_as_often_as_it_says_by_scores_that_it_has_not_seen():
    draw = random.Random(1)
    exceeded = sum(
        draw.random() > threshold([draw.random() for _ in range(199)], 0.005) for _ in range(4000)
    )
    assert at_least(exceeded, 4000, 0.005) > 1e-6
    assert at_least(exceeded + 1, 4000, 0.005) < 1 - 1e-6


def test_too_few_honest_scores_set_no_threshold():
    assert threshold(list(range(199)), 0.005) == 198
    assert threshold(list(range(399)), 0.005) == 397
    with pytest.raises(ValueError, match="198"):
        threshold(list(range(198)), 0.005)
