"""What the cost routes share: who asks, and for which tenant, days or billing period."""

from typing import Annotated, Protocol

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from shared.codec.ids import NAME
from shared.codec.moment import Period, days_period, parse_day
from shared.runtime.errors import Code, CounterfoilError

Day = Annotated[str, Query(max_length=10, json_schema_extra={"format": "date"})]
"""YYYY-MM-DD. Text, because FastAPI reads a number as a date too."""
NAME_PATTERN = f"^{NAME.pattern}$"
NameQuery = Annotated[str | None, Query(pattern=NAME_PATTERN)]


class Caller(Protocol):
    """Who asks, as far as these routes need it."""

    @property
    def name(self) -> str:
        """The token's label, which the books record."""
        ...

    @property
    def tenant(self) -> str | None:
        """The tenant to which the token is limited."""
        ...


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def own(caller: Caller, asked: str | None) -> str | None:
    """Return the tenant to search for; any tenant other than the caller's own is NOT_FOUND."""
    if caller.tenant is not None and asked not in {None, caller.tenant}:
        raise CounterfoilError(Code.NOT_FOUND, f"this token sees nothing of {(asked or '')[:64]!r}")
    return caller.tenant or asked


def days_or_period(
    start: str | None, end: str | None, time_zone: str, number: int | None
) -> Period | None:
    """Return the days [start, end), or None where a billing period is named instead; exactly one of them is."""
    if (number is None) == (start is None or end is None):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "name either a billing period, or start and end"
        )
    if start is None or end is None:
        return None
    return days_period(parse_day(start, "start"), parse_day(end, "end"), time_zone)
