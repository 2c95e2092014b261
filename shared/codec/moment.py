"""UTC times as integer milliseconds since 1970, and half-open periods of them."""

import re
import time
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from shared.runtime.errors import Code, CounterfoilError

MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MONTH: Final = re.compile(r"(\d{4})-(\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """All t with start <= t < end, in milliseconds."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= MAX_MS + 1:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "a period ends after it begins, in 1970 … 9999"
            )

    def __contains__(self, ms: int) -> bool:
        return self.start <= ms < self.end

    def __str__(self) -> str:
        return f"{to_rfc3339(self.start)}/{to_rfc3339(min(self.end, MAX_MS))}"


def now_ms() -> int:
    """Return the current time."""
    return time.time_ns() // 1_000_000


def to_rfc3339(ms: int) -> str:
    """Return e.g. `2026-03-01T00:00:00.000Z`; raise INVALID_ARGUMENT outside 1970 … 9999."""
    _check(ms)
    return (_EPOCH + ms * _MS).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def parse_rfc3339(text: str, what: str = "time") -> int:
    """Return the milliseconds of an RFC 3339 time; fractions of a millisecond are refused."""
    ms = _milliseconds(text)
    if ms is None or not 0 <= ms <= MAX_MS:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} {text[:60]!r} is not a time in whole milliseconds",
            remedy="Write it as in RFC 3339, for example 2026-03-01T00:00:00Z.",
        )
    return ms


def _milliseconds(text: str) -> int | None:
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, offset = match.groups()
    digits = (fraction or "").ljust(9, "0")
    if int(digits[3:]):
        return None
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{offset.upper()}")
    except ValueError:  # no such day, hour or offset
        return None
    return (moment - _EPOCH) // _MS + int(digits[:3])


def zone(name: str) -> ZoneInfo:
    """Return a time zone in the IANA database by name, for example `Europe/Berlin`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the time zone {name[:60]!r} is unknown",
            remedy="Name one of the IANA time zones, for example UTC or Europe/Berlin.",
        ) from error


def month_period(year: int, month: int, zone_name: str = "UTC") -> Period:
    """Return the calendar month from midnight to midnight in that zone."""
    if not (1970 <= year <= 9999 and 1 <= month <= 12):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{year}-{month:02d} is not a month")
    first = date(year, month, 1)
    last = first.replace(day=monthrange(year, month)[1])
    return Period(_begin(first, zone_name), _midnight(last, zone_name, after=True))


def day_period(day: date, zone_name: str = "UTC") -> Period:
    """Return the calendar day from midnight to midnight in that zone (23 to 25 hours)."""
    return Period(_begin(day, zone_name), _midnight(day, zone_name, after=True))


def days_period(first: date, end: date, zone_name: str = "UTC") -> Period:
    """Return the calendar days [first, end) of that zone."""
    return Period(_begin(first, zone_name), _midnight(end, zone_name))


def parse_month(text: str, zone_name: str = "UTC") -> Period:
    """Return the period of a month written as `2026-03`."""
    match = _MONTH.fullmatch(text)
    if match is None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{text[:60]!r} is not a month", remedy="Write it as 2026-03."
        )
    return month_period(int(match[1]), int(match[2]), zone_name)


def parse_day(text: str, what: str = "day") -> date:
    """Parse a day in the form `2026-03-01`, in 1970 … 9999; no other form, no number."""
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:  # no such day
        day = None
    if day is None or day.year < _EPOCH.year:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} {text[:60]!r} is not a day in 1970 … 9999, written YYYY-MM-DD",
        )
    return day


def day_of(ms: int, zone_name: str = "UTC") -> date:
    """Return the calendar day on which a time falls in that zone."""
    _check(ms)
    try:
        return (_EPOCH + ms * _MS).astimezone(zone(zone_name)).date()
    except OverflowError as error:  # the last hours of 9999, east of Greenwich
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{to_rfc3339(ms)} in {zone_name} is not in 1970 … 9999"
        ) from error


def _check(ms: int) -> None:
    if not 0 <= ms <= MAX_MS:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{ms} ms is not a time in 1970 … 9999")


def _begin(first: date, zone_name: str) -> int:
    """Return when a period's first day begins; in the east, 1970 began before the first representable time."""
    return max(0, _midnight(first, zone_name))


def _midnight(day: date, zone_name: str, *, after: bool = False) -> int:
    """Return when a day, or the day after it, begins in a zone, including the day after the year 9999."""
    where = zone(zone_name)
    rest = timedelta(0)
    if after and day == date.max:
        rest = timedelta(days=1)
    elif after:
        day += timedelta(days=1)
    try:
        local = datetime(day.year, day.month, day.day, tzinfo=where)
        return (local.astimezone(UTC) - _EPOCH + rest) // _MS
    except OverflowError as error:  # years 1 and 9999, east and west of Greenwich
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{day} in {zone_name} is not in 1970 … 9999"
        ) from error
