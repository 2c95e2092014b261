"""The number of steps under way: the formula where rows cost nothing, and never worse than any other number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_layer.pipeline.depth import NEAR, Cost, best_depth, steps_to_fill


@pytest.mark.parametrize(
    ("stages", "stage_s", "hop_s", "steps"),
    [(1, 0.01, 0.0, 1), (4, 0.01, 0.0, 4), (4, 0.01, 0.1, 44), (2, 0.02, 0.05, 7)],
)
def test_the_formula(stages, stage_s, hop_s, steps):
    assert steps_to_fill(stages, stage_s, hop_s) == steps


def test_a_hundred_milliseconds_are_filled_by_as_many_steps_as_the_formula_says():
    """Where a row costs as much alone as in company, smaller steps lose nothing."""
    cost = Cost(0.0, 0.010)
    depth = best_depth(64, [cost] * 4, 4 * 0.1)
    assert depth.round_s == pytest.approx(64 * 0.010, rel=NEAR)  # the slowest stage hardly waits
    rows = -(-64 // depth.steps)
    assert depth.steps >= steps_to_fill(4, cost.of(rows), 0.1) * (1 - NEAR)


def test_without_a_trip_one_stage_takes_all_rows_at_once():
    assert best_depth(64, [Cost(0.004, 0.001)], 0.0).steps == 1


def test_a_step_that_costs_the_same_whatever_its_rows_is_not_split_for_nothing():
    depth = best_depth(64, [Cost(0.05, 0.0)] * 2, 0.1)
    assert depth.steps == 1
    assert depth.round_s == pytest.approx(0.2)


COSTS = st.builds(Cost, st.floats(0.0001, 0.1), st.floats(0.0, 0.01))


@given(
    sequences=st.integers(1, 64),
    costs=st.lists(COSTS, min_size=1, max_size=5),
    trip_s=st.floats(0, 1),
    other=st.integers(1, 64),
)
def test_no_other_number_is_better(sequences, costs, trip_s, other):
    depth = best_depth(sequences, costs, trip_s)
    rows = -(-sequences // min(other, sequences))
    taken = [cost.of(rows) for cost in costs]
    theirs = max(-(-sequences // rows) * max(taken), sum(taken) + trip_s)
    assert depth.round_s <= theirs * (1 + NEAR) * (1 + 1e-9)
    assert 1 <= depth.steps <= sequences
