"""UTC times as integer milliseconds since 1970, and half-open periods of them."""

import re
import time
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
    """Return the present time."""
    return time.time_ns() // 1_000_000


def to_rfc3339(ms: int) -> str:
    """Return e.g. `2026-03-01T00:00:00.000Z`; raise INVALID_ARGUMENT outside 1970 … 9999."""
    if not 0 <= ms <= MAX_MS:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{ms} ms is not a time in 1970 … 9999")
    return (_EPOCH + ms * _MS).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def parse_rfc3339(text: str, what: str = "time") -> int:
    """Return the milliseconds of an RFC 3339 time; nothing below a millisecond may be lost."""
    ms = _milliseconds(text)
    if ms is None or not 0 <= ms <= MAX_MS:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} {text[:60]!r} is not a time in whole milliseconds",
            remedy="Write it as RFC 3339 does, for example 2026-03-01T00:00:00Z.",
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
    """Return a time zone of the IANA database by its name, for example `Europe/Berlin`."""
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
    if not (1970 <= year <= 9998 and 1 <= month <= 12):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{year}-{month:02d} is not a month")
    first = date(year, month, 1)
    return _between(first, (first + timedelta(days=31)).replace(day=1), zone_name)


def day_period(day: date, zone_name: str = "UTC") -> Period:
    """Return the calendar day from midnight to midnight in that zone (23 to 25 hours)."""
    return _between(day, day + timedelta(days=1), zone_name)


def parse_month(text: str, zone_name: str = "UTC") -> Period:
    """Return the period of a month written as `2026-03`."""
    match = _MONTH.fullmatch(text)
    if match is None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{text[:60]!r} is not a month", remedy="Write it as 2026-03."
        )
    return month_period(int(match[1]), int(match[2]), zone_name)


def day_of(ms: int, zone_name: str = "UTC") -> date:
    """Return the calendar day in which a time falls in that zone."""
    if not 0 <= ms <= MAX_MS:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{ms} ms is not a time in 1970 … 9999")
    return (_EPOCH + ms * _MS).astimezone(zone(zone_name)).date()


def _between(first: date, last: date, zone_name: str) -> Period:
    where = zone(zone_name)

    def midnight(day: date) -> int:
        local = datetime(day.year, day.month, day.day, tzinfo=where)
        return (local.astimezone(UTC) - _EPOCH) // _MS

    return Period(max(0, midnight(first)), midnight(last))
