"""Which times a node accepts in an order: each bound from both sides, and what is said about the clocks."""

from dataclasses import replace

import pytest

from execution_layer.node.order_times import (
    MAX_AGE_MS,
    MAX_LIFE_MS,
    SKEW_MS,
    check_expiry,
    check_order,
)
from shared.codec.moment import MAX_MS
from shared.runtime.clocks import CLOCK
from shared.runtime.errors import Code, CounterfoilError
from tests.vectors.samples import NOW, ORDER


def order(created, expiry):
    return replace(ORDER, created=created, expiry=expiry)


def refused(call):
    with pytest.raises(CounterfoilError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("created", "expiry"),
    [
        (NOW, NOW + 1),
        (NOW + SKEW_MS, NOW + SKEW_MS + 1),
        (NOW + SKEW_MS, NOW + SKEW_MS + MAX_LIFE_MS),
        (NOW - MAX_AGE_MS, NOW + 1),
        (NOW - MAX_AGE_MS, NOW - MAX_AGE_MS + MAX_LIFE_MS),
    ],
)
def test_what_was_made_lately_and_ends_within_a_day_passes(created, expiry):
    check_order(order(created, expiry), NOW)


@pytest.mark.parametrize(
    ("created", "expiry", "code"),
    [
        (NOW + SKEW_MS + 1, NOW + SKEW_MS + 2, Code.INVALID_ARGUMENT),
        (NOW + 10**12, NOW + 10**12 + 1, Code.INVALID_ARGUMENT),
        (NOW - MAX_AGE_MS - 1, NOW + 1, Code.EXPIRED),
        (0, NOW + 1, Code.EXPIRED),
        (0, MAX_MS, Code.EXPIRED),
        (NOW - 1, NOW, Code.EXPIRED),
        (NOW, NOW + MAX_LIFE_MS + 1, Code.INVALID_ARGUMENT),
        (NOW, 250_000_000_000_000, Code.INVALID_ARGUMENT),
        (MAX_MS - 1, MAX_MS, Code.INVALID_ARGUMENT),
    ],
)
def test_every_other_time_is_refused(created, expiry, code):
    assert refused(lambda: check_order(order(created, expiry), NOW)).code is code


@pytest.mark.parametrize(
    ("created", "expiry"), [(NOW + 3_600_000, NOW + 3_600_001), (NOW - 10**9, NOW + 1)]
)
def test_a_clock_that_is_wrong_is_shown_next_to_ours(created, expiry):
    error = refused(lambda: check_order(order(created, expiry), NOW))
    assert "created at" in error.detail
    assert "the clock here says 2026-03-01 00:00:00 UTC" in error.detail
    assert error.metadata == {CLOCK: str(NOW)}


def test_an_envelope_is_bound_to_the_same_day():
    check_expiry("envelope", NOW, NOW + MAX_LIFE_MS, NOW)
    late = refused(lambda: check_expiry("envelope", NOW, NOW + MAX_LIFE_MS + 1, NOW))
    assert late.code is Code.INVALID_ARGUMENT
    past = refused(lambda: check_expiry("envelope", NOW - 2, NOW, NOW))
    assert past.code is Code.EXPIRED
    assert "the envelope expired at" in past.detail
