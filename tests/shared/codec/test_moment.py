from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec.ids import check_name, hex32, parse_hex32
from shared.codec.moment import (
    MAX_MS,
    Period,
    day_of,
    day_period,
    days_period,
    month_period,
    now_ms,
    parse_day,
    parse_month,
    parse_rfc3339,
    to_rfc3339,
)
from shared.runtime.errors import CounterfoilError

HOUR = 3_600_000


@given(st.integers(0, MAX_MS))
def test_times_survive_text(ms):
    assert parse_rfc3339(to_rfc3339(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1985-04-12T23:20:50.52Z", 482196050520),
        ("1996-12-19T16:39:57-08:00", 851042397000),
        ("1990-12-31t23:59:59.999000000z", 662687999999),
    ],
)
def test_rfc_3339_examples(text, ms):
    assert parse_rfc3339(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01",
        "2026-03-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "2026-03-01T24:00:01Z",
        "2026-03-01T00:00:60Z",
        "2026-03-01T00:00:00.0001Z",
        "1969-12-31T23:59:59Z",
        "٢٠26-03-01T00:00:00Z",
        "2026-03-01T00:00:00Z\n",
    ],
)
def test_what_is_not_an_exact_time_is_refused(text):
    with pytest.raises(CounterfoilError, match="whole milliseconds"):
        parse_rfc3339(text)


def test_months_follow_the_time_zone_with_its_summer_time():
    march = month_period(2026, 3, "Europe/Berlin")
    assert to_rfc3339(march.start) == "2026-02-28T23:00:00.000Z"
    assert to_rfc3339(march.end) == "2026-03-31T22:00:00.000Z"
    assert march.end - march.start == (31 * 24 - 1) * HOUR
    assert parse_month("2026-03", "Europe/Berlin") == march


@given(st.integers(1970, 2100), st.integers(1, 12))
def test_months_meet_without_gap_or_overlap(year, month):
    this = month_period(year, month, "America/New_York")
    after = month_period(year + month // 12, month % 12 + 1, "America/New_York")
    assert this.end == after.start
    assert this.start in this
    assert this.end not in this


def test_days_know_their_zone():
    assert day_of(0, "Asia/Tokyo") == date(1970, 1, 1)
    assert day_of(23 * HOUR, "Asia/Tokyo") == date(1970, 1, 2)
    day = day_period(date(2026, 3, 29), "Europe/Berlin")
    assert day.end - day.start == 23 * HOUR


@pytest.mark.parametrize("name", ["Mars/Base", "../etc/passwd", "", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(CounterfoilError, match="time zone"):
        month_period(2026, 3, name)


def test_a_period_ends_after_it_begins():
    with pytest.raises(CounterfoilError):
        Period(5, 5)


@pytest.mark.parametrize("text", ["1970-01-01", "2024-02-29", "9999-12-31"])
def test_days_survive_text(text):
    assert str(parse_day(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "20261101", "2026-W44-1", "2026-11-01T00:00:00Z", "1793491200", "2026-1-1", "2026-02-30", "٢٠26-11-01",
        "2026-11-01\n", "0000-01-01", "1969-12-31", "",
    ],
)  # fmt: skip
def test_what_is_not_a_day_is_refused_by_what_it_is_called(text):
    with pytest.raises(CounterfoilError, match=r"first day.*YYYY-MM-DD"):
        parse_day(text, "first day")


def test_days_from_one_to_another_are_half_open():
    two = days_period(date(2026, 3, 28), date(2026, 3, 30), "Europe/Berlin")
    assert two.end - two.start == 47 * HOUR
    for end in (date(2026, 3, 28), date(2026, 3, 27)):
        with pytest.raises(CounterfoilError, match="ends after it begins"):
            days_period(date(2026, 3, 28), end)


def test_the_first_and_the_last_year_are_years_like_others_or_are_refused():
    assert day_period(date(9999, 12, 31)).end == MAX_MS + 1
    assert parse_month("9999-12").end == MAX_MS + 1
    for zone in ("Asia/Tokyo", "Pacific/Honolulu", "UTC"):
        with pytest.raises(CounterfoilError, match="1970 … 9999"):
            day_period(date(1, 1, 1), zone)
    with pytest.raises(CounterfoilError, match="1970 … 9999"):
        day_period(date(9999, 12, 31), "Pacific/Honolulu")
    with pytest.raises(CounterfoilError, match="1970 … 9999"):
        day_of(MAX_MS, "Asia/Tokyo")


def test_the_clock_is_in_milliseconds():
    assert 1_600_000_000_000 < now_ms() < MAX_MS


@pytest.mark.parametrize("name", ["a", "0-node", "acme", "a" * 63])
def test_names_that_are_names(name):
    assert check_name(name, "tenant") == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a" * 64, "a\n", "é", "a/b"])
def test_names_that_are_not_valid(name):
    with pytest.raises(CounterfoilError, match="tenant"):
        check_name(name, "tenant")


def test_hex32_has_one_spelling():
    assert parse_hex32(hex32(b"\xab" * 32), "key") == b"\xab" * 32
    for bad in ("AB" * 32, "ab" * 31, "ab" * 33, "0x" + "ab" * 31):
        with pytest.raises(CounterfoilError, match="key"):
            parse_hex32(bad, "key")
