"""Which numbers are missing does not depend on the order in which the others were seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.statements.numbers import Numbers, count

SOME = st.lists(st.integers(0, 40), max_size=30)


@given(SOME, SOME)
def test_missing_are_exactly_the_numbers_below_the_highest_that_were_not_seen(first, second):
    known = Numbers().with_seen(first).with_seen(second)
    seen = {*first, *second}
    assert known.next == max(seen, default=-1) + 1
    assert {n for a, b in known.missing for n in range(a, b + 1)} == set(range(known.next)) - seen
    assert count(known.missing) == known.next - len(seen)
    assert known == Numbers().with_seen([*second, *first])


def test_one_number_far_away_costs_no_more_than_one_that_is_near():
    far = Numbers().with_seen([2**62])
    assert far.missing == ((0, 2**62 - 1),)
    assert far.with_seen([5]).missing == ((0, 4), (6, 2**62 - 1))


@given(SOME, st.integers(1, 4))
def test_too_many_runs_are_merged_from_below_and_hide_nothing_that_is_missing(seen, most):
    exact = Numbers().with_seen(seen)
    merged = exact.condensed(most)
    assert merged.next == exact.next
    assert len(merged.missing) <= most
    for first, last in exact.missing:
        assert merged.missing_between(first, last)
        assert merged.missing_between(first, first) == merged.missing_between(last, last)
    assert merged.missing[1:] == exact.missing[len(exact.missing) - len(merged.missing) + 1 :]


@pytest.mark.parametrize(
    ("following", "missing"),
    [(5, ((3, 4),)), (9, ((1, 2), (3, 4))), (9, ((4, 5), (1, 2))), (9, ((3, 2),)), (3, ((-1, 0),))],
)
def test_impossible_numbers_are_refused(following, missing):
    with pytest.raises(ValueError, match="missing numbers"):
        Numbers(following, missing)
