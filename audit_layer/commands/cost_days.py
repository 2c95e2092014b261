"""The options that say which charges: tenant, operator, and days or a billing period."""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, TypeVar

import click

from shared.codec.ids import check_name
from shared.codec.moment import day_of, now_ms, parse_day
from shared.runtime.errors import Code, CounterfoilError

F = TypeVar("F", bound=Callable[..., Any])


def _day(_context: click.Context, parameter: click.Parameter, value: str | None) -> date | None:
    return None if value is None else parse_day(value, parameter.opts[0])


def name_of(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check a party's name."""
    return None if value is None else check_name(value, parameter.opts[0])


tenant_option: Final = click.option("--tenant", callback=name_of, help="Only this tenant.")
_operator: Final = click.option("--operator", callback=name_of, help="Only this operator.")
_period: Final = click.option(
    "--period", type=click.IntRange(1), help="A billing period, instead of days."
)
_DAYS: Final = (
    click.option(
        "--from",
        "start",
        callback=_day,
        help="First day, YYYY-MM-DD [default: the first of this month].",
    ),
    click.option(
        "--to",
        "end",
        callback=_day,
        help="Day after the last, YYYY-MM-DD [default: the end of that month].",
    ),
    click.option(
        "--time-zone",
        "zone_name",
        default="UTC",
        show_default=True,
        help="Time zone of the days, such as Europe/Berlin.",
    ),
)


@dataclass(frozen=True, slots=True)
class Which:
    """Which charges, as the cost routes take it."""

    parameters: dict[str, Any]
    words: str
    """The time, for people."""


def which_charges(command: F) -> F:
    """Give a command `which`, from --period or days, --tenant and --operator."""
    import functools  # noqa: PLC0415  # next to its only use

    @functools.wraps(command)
    def wrapped(
        *,
        period: int | None,
        tenant: str | None,
        operator: str | None,
        start: date | None,
        end: date | None,
        zone_name: str,
        **others: Any,
    ) -> Any:
        parties = {"tenant": tenant, "operator": operator}
        if period is not None:
            which = Which({"period": period, **parties}, f"billing period {period}")
        else:
            which = days_chosen(start, end, zone_name, parties)
        return command(which=which, **others)

    for option in reversed((_period, tenant_option, _operator, *_DAYS)):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click's decorators keep it a function


def day_options(command: F) -> F:
    """Give a command `start`, `end` and `zone_name`."""
    for option in reversed(_DAYS):
        command = option(command)
    return command


def days_chosen(
    start: date | None, end: date | None, zone_name: str, others: dict[str, Any]
) -> Which:
    """Return the days [start, end): this month by default; a start without an end runs to the end of its month."""
    first, after = _days(start, end, zone_name)
    days = {"start": str(first), "end": str(after), "time_zone": zone_name}
    return Which({**others, **days}, f"{first} to {after}")


def _days(start: date | None, end: date | None, zone_name: str) -> tuple[date, date]:
    first = start or day_of(now_ms(), zone_name).replace(day=1)
    last = first.replace(day=monthrange(first.year, first.month)[1])
    if end is None and last < date.max:
        return first, last + timedelta(days=1)
    if end is None or end <= first:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the period begins on {first} and ends before {end or 'the year 10000'}",
            remedy="--to is the day after the last, and --from lies before it.",
        )
    return first, end
