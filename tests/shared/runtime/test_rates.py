"""Token buckets and places: what they let pass, under a clock of the test's own, and how much they remember."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.rates import Places, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_gives_its_burst_then_as_much_as_flows_in(clock):
    limit = RateLimit(2, 3, clock=clock)
    assert [limit.take("a") for _ in range(3)] == [0.0] * 3
    assert limit.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    clock.now += 3600
    assert [limit.take("a") > 0 for _ in range(4)] == [False] * 3 + [True]


def test_one_key_does_not_use_up_another_s(clock):
    limit = RateLimit(1, 1, clock=clock)
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    assert limit.take("b") == 0.0


def test_a_refusal_costs_nothing(clock):
    limit = RateLimit(1, 1, clock=clock)
    limit.take("a")
    assert [limit.take("a") for _ in range(9)] == [pytest.approx(1.0)] * 9
    clock.now += 1.0
    assert limit.take("a") == 0.0


def test_very_many_keys_are_not_remembered_and_those_in_use_are(clock):
    limit = RateLimit(0.001, 1, clock=clock, max_keys=10)
    limit.take("busy")
    for i in range(1000):
        limit.take(i)
        assert limit.take("busy") > 0
    assert len(limit) <= 10


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None)
def test_no_time_lets_more_pass_than_burst_and_flow(waits, per_s, burst):
    clock = Clock()
    limit = RateLimit(per_s, burst, clock=clock)
    passed = []
    for wait in waits:
        clock.now += wait
        if limit.take("a") == 0.0:
            passed.append(clock.now)
    for i, first in enumerate(passed):
        for j, last in enumerate(passed[i:], start=1):
            assert j <= burst + per_s * (last - first) + 1e-3


def test_places_are_bounded_for_one_and_for_all_and_come_back():
    places = Places(5, 3)
    assert places.take("a", 3)
    assert not places.take("a")
    assert places.take("b", 2)
    assert not places.take("c")
    places.give("a", 3)
    assert not places.take("b", 2)
    assert places.take("b")


def test_places_that_nobody_has_are_not_remembered():
    places = Places(1, 1)
    assert places.take("a")
    for key in range(1000):
        assert not places.take(key)
    places.give("a")
    assert len(places) == 0
