from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec.money import (
    Money,
    amount_of,
    format_decimal,
    parse_decimal,
    round_to_minor_unit,
)
from shared.runtime.errors import Code, CounterfoilError

amounts = st.decimals(
    min_value=Decimal(-(10**20)), max_value=Decimal(10**20), places=12, allow_nan=False
)


@given(amounts)
def test_amounts_survive_text(amount):
    assert parse_decimal(format_decimal(amount)) == amount


@given(st.lists(amounts, max_size=6))
def test_sums_are_exact_beyond_the_default_context(parts):
    total = Money.sum((Money(part, "EUR") for part in parts), "EUR")
    assert Fraction(total.amount) == sum(map(Fraction, parts))


@pytest.mark.parametrize(
    "text", ["", "1e3", "+1", "01", ".5", "1.", "NaN", "Infinity", "1_000", "1,5", " 1", "1\n", "٣"]
)
def test_only_plain_decimal_strings_are_amounts(text):
    with pytest.raises(CounterfoilError):
        Money.parse(text, "EUR")


def test_a_small_amount_has_no_exponent():
    assert Money(Decimal("1E-12"), "EUR").text() == "0.000000000001"
    assert Money(Decimal("1E+3"), "EUR").text() == "1000"
    assert Money(Decimal("-0"), "EUR").text() == "0"


def test_currencies_do_not_mix():
    with pytest.raises(CounterfoilError):
        Money.parse("1", "EUR") + Money.parse("1", "USD")
    with pytest.raises(CounterfoilError):
        Money.parse("1", "euro")


@pytest.mark.parametrize(
    ("text", "currency", "rounded"),
    [
        ("1.005", "EUR", "1.00"),
        ("1.015", "EUR", "1.02"),
        ("-1.005", "EUR", "-1.00"),
        ("2.5", "JPY", "2"),
        ("1.23456", "KWD", "1.235"),
    ],
)
def test_rounding_is_half_even_to_the_minor_unit_and_explicit(text, currency, rounded):
    exact = Money.parse(text, currency)
    result, rounding = round_to_minor_unit(exact)
    assert result.text() == rounded
    assert exact + rounding == result


def test_a_token_needs_its_digits_stated():
    tokens = Money.parse("1.23456789", "CFSTAKE")
    with pytest.raises(CounterfoilError):
        round_to_minor_unit(tokens)
    assert round_to_minor_unit(tokens, digits=6)[0].text() == "1.234568"


@given(st.integers(0, 2**63 - 1), amounts, st.integers(0, 9).map(lambda e: 10**e))
def test_quantities_are_priced_exactly(quantity, unit, per):
    assert Fraction(amount_of(quantity, unit, per)) == quantity * Fraction(unit) / per


@pytest.mark.parametrize("per", [0, 7, -10, 20, 10**10])
def test_a_price_per_anything_but_a_power_of_ten_is_refused(per):
    with pytest.raises(CounterfoilError, match="power of ten") as caught:
        amount_of(1, Decimal(5), per)
    assert caught.value.code is Code.INVALID_ARGUMENT
