from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.costs.exports.table import FORMULAS, decimal_text, neutral, time_text


@pytest.mark.parametrize("first", list("=+-@\t\r\n＝＋－＠"))
def test_a_cell_that_begins_like_a_formula_is_text(first):
    assert neutral(f"{first}HYPERLINK(1)") == f"'{first}HYPERLINK(1)"
    assert neutral(f"a{first}") == f"a{first}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2500000, "2500000.0"), (Decimal("1E+3"), "1000.0"), (Decimal("0.10"), "0.1"), (Decimal("-0.00"), "0.0"),
        (Decimal("1E-24"), "0.000000000000000000000001"), (Decimal("-12345678901234567890.5"), "-12345678901234567890.5"),
    ],
)  # fmt: skip
def test_decimals_are_written_without_exponent(value, text):
    assert decimal_text(value) == text


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=24) | st.integers())
def test_the_text_of_a_decimal_is_its_exact_value(value):
    text = decimal_text(value)
    assert Decimal(text) == Decimal(value)
    assert "." in text
    assert not {"e", "E", "+"} & set(text)


def test_a_time_is_told_in_whole_seconds_where_it_is_whole():
    assert time_text(1_000) == "1970-01-01T00:00:01Z"
    assert time_text(1_001) == "1970-01-01T00:00:01.001Z"


@settings(deadline=None)
@given(st.text())
def test_no_text_is_a_formula(text):
    assert not neutral(text).startswith(FORMULAS)
