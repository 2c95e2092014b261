"""What may become of a variance: tolerance, salami slicing, every move, and who may make it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.contracts.terms import Tolerance
from audit_layer.costs.reconciling.cases import MOVES, Event, State, check_move, first_state
from shared.runtime.errors import Code, CounterfoilError

AGREED = Tolerance.model_validate({"absolute": "1", "percent": "0.5", "cumulative": "10"})
NOTHING = Tolerance()


@pytest.mark.parametrize(
    ("gap", "proven", "state"),
    [
        ("0", "100", State.MATCHED),
        ("0", "0", State.MATCHED),
        ("1", "100", State.WITHIN_TOLERANCE),
        ("-1", "100", State.WITHIN_TOLERANCE),
        ("1.000001", "100", State.OPEN),
        ("-1.000001", "100", State.OPEN),
        ("1", "0", State.WITHIN_TOLERANCE),
        ("5", "1000", State.WITHIN_TOLERANCE),  # half a percent of 1000
        ("5.000001", "1000", State.OPEN),
        ("5", "-1000", State.WITHIN_TOLERANCE),
        ("10", "2000", State.WITHIN_TOLERANCE),
        ("10.000001", "1000000", State.OPEN),  # alone more than may add up
    ],
)
def test_a_variance_is_tolerated_up_to_an_amount_or_a_share_and_never_beyond_the_sum(
    gap: str, proven: str, state: State
):
    assert first_state(Fraction(gap), Fraction(proven), AGREED, []) is state


def test_without_an_agreement_nothing_is_tolerated():
    assert first_state(Fraction(1, 10**12), Fraction(10**6), NOTHING, []) is State.OPEN


def test_many_small_variances_in_one_direction_are_one_large_one():
    found: list[State] = []
    tolerated: list[Fraction] = []
    for _ in range(12):
        state = first_state(Fraction(1), Fraction(100), AGREED, tolerated)
        found.append(state)
        if state is State.WITHIN_TOLERANCE:
            tolerated.append(Fraction(1))
    assert found == [State.WITHIN_TOLERANCE] * 10 + [State.OPEN] * 2
    less = first_state(Fraction(-1), Fraction(100), AGREED, tolerated)
    assert less is State.WITHIN_TOLERANCE, "those of the other direction do not count"


@given(st.lists(st.fractions(-2, 2, max_denominator=1000), max_size=60))
def test_what_is_tolerated_in_one_direction_never_exceeds_the_sum(gaps: list[Fraction]):
    tolerated: list[Fraction] = []
    for gap in gaps:
        if first_state(gap, Fraction(100), AGREED, tolerated) is State.WITHIN_TOLERANCE:
            tolerated.append(gap)
    assert sum(gap for gap in tolerated if gap > 0) <= 10
    assert sum(gap for gap in tolerated if gap < 0) >= -10


STEPS = {
    "matched": set(),
    "within-tolerance": {"disputed"},
    "open": {"disputed", "credited", "write-off-asked"},
    "disputed": {"open", "credited", "write-off-asked"},
    "credited": {"disputed"},
    "write-off-asked": {"disputed", "written-off"},
    "written-off": set(),
}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("to", State)
def test_every_move_is_made_or_refused(before: State, to: State):
    history = [Event(before, "ann", 1, "note", Fraction(1))]
    if to.value in STEPS[before.value]:
        check_move(history, to, "bob")
        return
    with pytest.raises(CounterfoilError, match=f"is {before} and cannot become {to}") as caught:
        check_move(history, to, "bob")
    assert caught.value.code is Code.CONFLICT
    for able in STEPS[before.value]:
        assert able in (caught.value.remedy or "")


def test_the_steps_are_those_of_the_code():
    assert {state.value: {to.value for to in able} for state, able in MOVES.items()} == STEPS


def test_whoever_asks_for_a_write_off_does_not_approve_it():
    asked = [
        Event(State.OPEN, "counterfoil", 1, "compared", Fraction(1)),
        Event(State.WRITE_OFF_ASKED, "ann", 2, "small", Fraction(1)),
    ]
    with pytest.raises(CounterfoilError, match="ann asked") as caught:
        check_move(asked, State.WRITTEN_OFF, "ann")
    assert caught.value.code is Code.FORBIDDEN
    check_move(asked, State.WRITTEN_OFF, "bob")
    check_move(asked, State.DISPUTED, "ann")
