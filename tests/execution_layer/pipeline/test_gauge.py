"""As many steps are under way as a chain is measured to need, whatever its stages say, and never more than the bound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.pipeline.boundary import Spent
from execution_layer.pipeline.depth import Cost, best_depth
from execution_layer.pipeline.gauge import HOLD_S, STALE_S, Fit, Gauge
from tests.execution_layer.pipeline.simulated import Simulated

MOST = 256
ROWS_COST = Cost(0.002, 0.004)
STEPS_COST = Cost(0.020, 0.0002)


def best(chain: Simulated) -> float:
    """Return the tokens per second of the best number, by the formula."""
    trip_s = (len(chain.costs) + 1) * chain.hop_s
    depth = best_depth(chain.sequences, [*chain.costs, chain.ends], trip_s)
    return chain.sequences / depth.round_s


def gauged(chain: Simulated, steps: int = 8, most: int | None = MOST) -> Gauge:
    return Gauge(steps, most=most, clock=chain.clock)


@pytest.mark.parametrize("cost", [ROWS_COST, STEPS_COST], ids=["rows", "steps"])
@pytest.mark.parametrize("hop_s", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("sequences", [1, 8, 64])
def test_a_chain_reaches_nearly_its_full_rate_without_a_setting(cost, hop_s, sequences):
    chain = Simulated([cost] * 4, hop_s, sequences)
    assert chain.run(gauged(chain), 30) >= 0.9 * best(chain)


def test_twice_as_many_as_there_are_stages_are_not_enough_for_a_hundred_milliseconds():
    """What the measurement is good for: with a hop of 100 ms, four fast stages want many more."""
    chain = Simulated([Cost(0.001, 0.0005)] * 4, 0.1, 256)
    fixed = chain.run(gauged(chain, most=None), 30)
    assert fixed <= 0.9 * best(chain)
    assert chain.run(gauged(chain), 30) >= 0.9 * best(chain)


def test_a_slow_stage_among_fast_ones_is_what_is_filled():
    chain = Simulated([Cost(0.001, 0.0005), Cost(0.001, 0.005), Cost(0.001, 0.0005)], 0.05, 64)
    assert chain.run(gauged(chain, steps=6), 30) >= 0.9 * best(chain)


def test_steps_that_queue_do_not_look_like_a_longer_way():
    chain = Simulated([ROWS_COST] * 4, 0.05, 64)
    gauge = gauged(chain, steps=64)
    chain.run(gauge, 30)
    assert gauge.trip_s == pytest.approx(0.25)
    assert chain.depths[-1] < 64


def test_a_fixed_number_stays():
    chain = Simulated([ROWS_COST] * 4, 0.1, 64)
    gauge = gauged(chain, steps=5, most=None)
    chain.run(gauge, 5)
    assert set(chain.depths) == {5}
    assert gauge.most == 5


def test_parts_of_a_long_prompt_follow_each_other():
    """One sequence alone has one token under way at a time, but its prompt's parts need not wait."""
    chain = Simulated([ROWS_COST] * 4, 0.1, 1)
    gauge = gauged(chain)
    chain.run(gauge, 10)
    assert chain.depths[-1] == 1
    chain.now += 1
    assert gauge.depth(1, 9) >= 4


def test_what_is_wanted_less_is_kept_for_a_while():
    now = [0.0]
    gauge = Gauge(8, most=MOST, clock=lambda: now[0])
    spent = [Spent(0.0, 0.01)] * 4
    gauge.came(8, 0.3, spent, 0.001)
    many = gauge.depth(64, 0)
    now[0] += HOLD_S / 2
    assert gauge.depth(1, 0) == many
    now[0] += HOLD_S
    assert gauge.depth(1, 0) == 1


def test_until_something_has_come_back_there_are_as_many_as_at_first():
    gauge = Gauge(8, most=MOST, clock=lambda: 0.0)
    assert (gauge.depth(64, 0), gauge.trip_s) == (8, None)


def test_what_cannot_be_true_is_not_measured():
    gauge = Gauge(8, most=MOST, clock=lambda: 0.0)
    assert not gauge.came(8, 0.3, [Spent(0.0, 0.2), Spent(0.0, 0.2)], 0.001)
    assert not gauge.came(8, 0.3, [], 0.001)
    assert (gauge.depth(64, 0), gauge.trip_s) == (8, None)


CLAIMS = st.builds(Spent, st.floats(0, 4300), st.floats(0, 4300))


@settings(deadline=None)
@given(
    steps=st.integers(1, MOST),
    came=st.lists(
        st.tuples(
            st.integers(1, 2**16),
            st.floats(0, 1e5),
            st.lists(CLAIMS, max_size=6),
            st.floats(0, 10),
            st.floats(0, 100),
            st.integers(0, 300),
            st.integers(0, 10**6),
        ),
        max_size=30,
    ),
)
def test_whatever_is_said_the_number_is_between_one_and_the_bound(steps, came):
    now = 0.0
    gauge = Gauge(steps, most=MOST, clock=lambda: now)
    for rows, elapsed_s, spent, ends_s, passed_s, running, chunks in came:
        gauge.came(rows, elapsed_s, spent, ends_s)
        now += passed_s
        assert 1 <= gauge.depth(running, chunks) <= MOST


@pytest.mark.parametrize("said", [0.0, 0.1])
def test_a_stage_that_says_it_is_faster_costs_speed_and_nothing_else(said):
    chain = Simulated(
        [ROWS_COST] * 4, 0.05, 64, said=lambda _place, its: Spent(its.waited_s, its.took_s * said)
    )
    chain.run(gauged(chain), 10)
    assert 1 <= min(chain.depths) <= max(chain.depths) <= MOST


@given(
    cost=st.builds(Cost, st.floats(0.0001, 0.1), st.floats(0.00001, 0.01)),
    rows=st.lists(st.integers(1, 512), min_size=2, unique_by=int.bit_length),
)
def test_the_cost_of_steps_and_rows_is_found(cost, rows):
    fit = Fit()
    for count in rows:
        fit.note(count, cost.of(count), 0.0)
    found = fit.cost()
    assert found is not None
    assert all(found.of(count) == pytest.approx(cost.of(count), rel=0.01) for count in rows)


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0, 10)), min_size=1))
def test_no_cost_is_negative(came):
    fit = Fit()
    for rows, seconds in came:
        fit.note(rows, seconds, 0.0)
    found = fit.cost()
    assert found is not None
    assert found.fixed_s >= 0
    assert found.row_s >= 0
    assert found.of(1) > 0


def test_single_late_steps_and_old_ones_do_not_count():
    fit = Fit()
    for number in range(9):
        fit.note(8, 5.0 if number % 4 == 0 else 0.01, 0.0)
    found = fit.cost()
    assert found is not None
    assert found.of(8) == pytest.approx(0.01)
    fit.note(64, 0.02, STALE_S + 1)
    found = fit.cost()
    assert found is not None
    assert found.of(64) == pytest.approx(0.02)
    assert found.of(8) == pytest.approx(0.01 + 0.01 / 8)
