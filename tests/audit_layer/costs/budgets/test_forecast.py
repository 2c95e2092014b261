"""A forecast is what was spent, by the part of the month that has passed, exactly."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.budgets.forecast import Part, crossed, forecast
from shared.codec.moment import month_period

MONTH = month_period(2026, 11)
LENGTH = MONTH.end - MONTH.start
AMOUNTS = st.decimals(-1000, 1000, places=24)
TIMES = st.integers(MONTH.start - 1000, MONTH.end + 1000)


def test_a_third_of_the_month_is_a_third_of_its_cost():
    at = MONTH.start + LENGTH // 3
    assert forecast([Part(MONTH, Decimal("0.1"))], at) == Fraction("0.3")


def test_each_operator_has_months_of_its_own_zone():
    berlin = month_period(2026, 11, "Europe/Berlin")
    parts = [Part(MONTH, Decimal(1)), Part(berlin, Decimal(1))]
    at = MONTH.start + LENGTH // 2
    own = Fraction(berlin.end - berlin.start, at - berlin.start)
    assert forecast(parts, at) == 2 + own != 4


@given(AMOUNTS, st.integers(MONTH.end, MONTH.end + 10**12) | st.integers(0, MONTH.start))
def test_a_month_that_is_over_or_has_not_begun_comes_to_what_is_spent(spent, at):
    assert forecast([Part(MONTH, spent)], at) == Fraction(spent)


@given(st.lists(AMOUNTS, max_size=4), TIMES)
def test_a_forecast_is_linear_in_what_was_spent(amounts, at):
    parts = [Part(MONTH, amount) for amount in amounts]
    whole = Part(MONTH, Decimal(1))
    assert forecast(parts, at) == sum(map(Fraction, amounts)) * forecast([whole], at)
    assert forecast([whole], at) >= 1


@given(st.fractions(0, 2000), st.decimals("0.01", 1000, places=2))
def test_a_threshold_is_reached_from_its_exact_share_on(spent, amount):
    reached = crossed(spent, amount, (50, 80, 100))
    assert reached == tuple(
        each for each in (50, 80, 100) if spent >= Fraction(amount) * each / 100
    )
    assert crossed(Fraction(amount) * 80 / 100, amount, (80,)) == (80,)
    assert crossed(Fraction(amount) * 80 / 100 - Fraction(1, 10**30), amount, (80,)) == ()
