"""Leases follow what this process has seen of its own replays, and nothing that a node says makes one endless."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from audit_layer.replay.lease import ENOUGH, MARGIN, SMALLEST, WINDOW, LeaseTerms, Speeds

KIND = (b"model", b"profile")
TERMS = LeaseTerms(30_000, 7_200_000)
times = st.floats(1e-3, 1e6)


def after(*took_s: float, tokens: int = 1000) -> Speeds:
    """Return what is known after replays of so many tokens that took these times."""
    speeds = Speeds()
    for took in took_s:
        speeds.note(KIND, tokens, took)
    return speeds


def test_nothing_is_predicted_from_a_few_replays():
    few = after(*[1.0] * (ENOUGH - 1))
    assert few.predicted_s(KIND, 1000) is None
    assert few.longest(KIND, 3600) is None
    few.note(KIND, 1000, 1.0)
    assert few.predicted_s(KIND, 500) == 0.5
    assert few.longest(KIND, 60) == 60_000


def test_short_replays_say_nothing_about_long_ones():
    speeds = after(*[9.0] * WINDOW, tokens=SMALLEST - 1)
    assert speeds.predicted_s(KIND, 1000) is None


def test_a_time_that_no_clock_can_tell_is_not_a_speed():
    assert after(*[0.0] * WINDOW).predicted_s(KIND, 1000) is None


def test_models_and_profiles_have_speeds_of_their_own():
    speeds = after(*[1.0] * ENOUGH)
    for other in ((b"another", KIND[1]), (KIND[0], b"another")):
        assert speeds.predicted_s(other, 1000) is None
        for _ in range(ENOUGH):
            speeds.note(other, 1000, 10.0)
        assert speeds.predicted_s(other, 1000) == 10.0
    assert speeds.predicted_s(KIND, 1000) == 1.0


@given(st.lists(times, min_size=ENOUGH, max_size=ENOUGH), st.integers(1, ENOUGH // 2), times)
def test_a_minority_of_strange_times_moves_a_prediction_no_further_than_the_others_reach(
    honest: list[float], strange: int, time: float
):
    """A machine that was busy for a while, or one odd case."""
    usual = [1000 / took for took in honest]
    predicted = after(*honest, *[time] * strange).predicted_s(KIND, 1000)
    assert predicted is not None
    assert min(usual) * (1 - 1e-9) <= 1000 / predicted <= max(usual) * (1 + 1e-9)


def test_old_replays_are_forgotten():
    assert after(*[9.0] * WINDOW, *[1.0] * (WINDOW // 2 + 1)).predicted_s(KIND, 1000) == 1.0


@given(times, st.integers(1, 2**21), times)
def test_what_fits_a_time_is_predicted_within_it_and_one_token_more_is_not(
    took: float, tokens: int, within: float
):
    speeds = after(*[took] * ENOUGH)
    longest, predicted = speeds.longest(KIND, within), speeds.predicted_s(KIND, tokens)
    assert longest is not None
    assert predicted is not None
    if tokens <= longest:
        assert predicted <= within * (1 + 1e-9)
    else:
        assert predicted >= within * (1 - 1e-9)


def test_a_lease_without_a_prediction_is_the_shortest():
    assert TERMS.length_ms(None) == TERMS.floor_ms


def test_a_lease_is_the_predicted_time_and_a_margin():
    assert TERMS.length_ms(100) == int(100_000 * MARGIN)


@given(st.lists(st.floats(0, allow_infinity=True, allow_nan=False), min_size=2))
def test_a_lease_grows_with_the_prediction_between_floor_and_cap(predicted: list[float]):
    lengths = [TERMS.length_ms(each) for each in sorted(predicted)]
    assert all(one <= other for one, other in pairwise(lengths))
    assert TERMS.floor_ms <= lengths[0]
    assert lengths[-1] <= TERMS.cap_ms


def test_a_floor_above_the_cap_is_the_length():
    assert LeaseTerms(500, 100).length_ms(1e9) == 500
