"""Single cells: what the formats of FOCUS allow, and what they do not."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.focus_check.cells import (
    moment,
    moment_fault,
    number,
    number_fault,
    unit_fault,
)

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=9)


@pytest.mark.parametrize(
    "text", ["0", "-100.2", "-3", "4", "1.234", "35.2E-7", "1.5E4", "2500000.0", ".5", "007"]
)
def test_numbers_of_focus_are_read_exactly(text):
    assert number_fault(text) is None
    assert number(text) == Decimal(text)


@pytest.mark.parametrize(
    "text",
    [
        "1 1/2",
        "[3,5]",
        "5i",
        "sqrt(2)",
        "2.3^3",
        "32 GiB",
        "$32",
        "3,432",
        "+333",
        "1e5",
        "1E+5",
        "",
        " 1",
        "1.",
        "--1",
        "1.2.3",
        "١",
        "Infinity",
        "0x10",
        "1_000",
        "1E",
        "E5",
        "-",
    ],
)
def test_other_numbers_are_not(text):
    assert number_fault(text) is not None
    assert number(text) is None


@given(NUMBERS)
def test_every_plain_decimal_is_a_number(value):
    text = format(value, "f")
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-01T24:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-01T00:00:60Z",
        "2026-11-01T00:00:00",
        "2026-11-01T00:00:00z",
        "2026-11-01",
        "20261101T000000Z",
        "0000-01-01T00:00:00Z",
        "2026-11-01T00:00:00+00:00",
        "２026-11-01T00:00:00Z",
    ],
)
def test_other_times_are_not(text):
    assert moment(text) is None
    assert moment_fault(text) is not None


@given(st.datetimes().map(lambda value: value.replace(microsecond=0)))
def test_every_second_is_a_time(value):
    text = f"{value.isoformat()}Z"
    assert moment_fault(text) is None
    assert moment(text).replace(tzinfo=None) == value


@pytest.mark.parametrize(
    "unit",
    [
        "GB",
        "KiB",
        "b",
        "Tokens",
        "1000 Tokens",
        "GB-Hours",
        "GB/Hour",
        "Units/3 Months",
        "Virtual Machines",
        "10 GB/Hour",
        "Core-Hours/Day",
        "Requests",
    ],
)
def test_units_of_focus(unit):
    assert unit_fault(unit) is None


@pytest.mark.parametrize(
    "unit", ["tokens", "gb", "GB / Hour", "0 Tokens", "1,000 Tokens", "Gb-hours", "%", "1000"]
)
def test_units_that_are_written_otherwise(unit):
    assert unit_fault(unit) is not None
