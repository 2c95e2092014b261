"""An operator's invoice as a file: parsed strictly, none of it trusted.

```json
{"invoice_id": "…", "operator": "…", "currency": "EUR",
 "period_start": "2026-11-01", "period_end": "2026-12-01", "time_zone": "Europe/Berlin", "issued_at": "2026-12-01T08:00:00Z",
 "lines": [{"line_id": "…", "tenant": "…", "node": "…", "model_root": "<hex>", "day": "2026-11-23", "kind": "output",
            "quantity": 1200, "unit_price": "0.60", "per": 1000000, "amount": "0.00072"}],
 "rounding": "0.00928", "total": "0.01"}
```

The period is half-open and made of whole days, those of `time_zone` (UTC by default). A bound is a day, or an
RFC 3339 time at which a day begins: in `time_zone`, or without one in the offset that the time itself states.
Rounding, of each amount and in total, is by less than the currency's minor unit.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.problems import told
from shared.codec.ids import check_label
from shared.codec.moment import Period, day_of, day_period, parse_day, parse_rfc3339, zone
from shared.codec.money import exact_sum, minor_digits
from shared.runtime.errors import Code, CounterfoilError

MAX_BYTES = 16 * 2**20
PLAIN = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,18})?", re.ASCII)
MAX_SHOWN = 5
"""Problems named in one message."""


def _checked(check: Any, *arguments: object) -> Any:
    """Return a validator from one of the functions that raise a CounterfoilError."""

    def validate(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004  # what pydantic collects
        try:
            return check(value, *arguments)
        except CounterfoilError as error:
            raise ValueError(error.detail) from error

    return BeforeValidator(validate)


def _bound(text: str) -> str:
    """Return a bound of a period if it is a day or a time."""
    parse_day(text) if len(text) == len("2026-11-01") else parse_rfc3339(text)
    return text


def _plain(text: str) -> Decimal:
    if not PLAIN.fullmatch(text):
        raise CounterfoilError(Code.MALFORMED, "is not money in plain decimal notation")
    return Decimal(text)


def _zone_name(text: str) -> str:
    zone(text)
    return text


Money = Annotated[Decimal, _checked(_plain)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Label = Annotated[str, _checked(check_label, "the label")]
Day = Annotated[date, _checked(parse_day)]
Bound = Annotated[str, _checked(_bound)]


def _token_kind(kind: ChargeKind) -> ChargeKind:
    if kind not in TOKENS:
        raise ValueError(f"must be one of {', '.join(TOKENS)}")
    return kind


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InvoiceLine(_Strict):
    """One billed quantity: tokens of one kind, for one tenant, node, model and day."""

    line_id: Label
    tenant: Name
    node: Name
    model_root: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    day: Day
    kind: Annotated[ChargeKind, AfterValidator(_token_kind)]
    quantity: Annotated[int, Field(ge=0, lt=2**63, strict=True)]
    unit_price: Money
    per: Annotated[int, Field(ge=1, le=10**9, strict=True)]
    amount: Money

    @property
    def exact(self) -> Fraction:
        """Quantity × unit price / per."""
        return Fraction(self.unit_price) * self.quantity / self.per


@dataclass(frozen=True, slots=True)
class Days:
    """The days [first, end) of an invoice, and their exact times."""

    first: date
    end: date
    period: Period

    def __contains__(self, day: date) -> bool:
        return self.first <= day < self.end


class Invoice(_Strict):
    """One operator's invoice for the days [start, end)."""

    invoice_id: Label
    operator: Name
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    period_start: Bound
    period_end: Bound
    time_zone: Annotated[str, _checked(_zone_name)] | None = None
    issued_at: Bound
    lines: Annotated[list[InvoiceLine], Field(max_length=1_000_000)]
    rounding: Money
    total: Money

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse an invoice file; MALFORMED names the first few wrong fields."""
        if len(data) > MAX_BYTES:
            raise _malformed(f"is larger than {MAX_BYTES} bytes")
        try:
            return cls.model_validate(_json(data))
        except ValidationError as error:
            known = {(): list(cls.model_fields), ("lines",): list(InvoiceLine.model_fields)}
            raise _malformed(f"is not valid: {told(error, known, MAX_SHOWN)}") from error

    @cached_property
    def days(self) -> Days:
        """The period as days of the invoice's time zone and as times."""
        bounds = (self.period_start, self.period_end)
        if self.time_zone is None and len({"T" in bound.upper() for bound in bounds}) == 2:
            raise ValueError(
                "period_start and period_end are a day and a time; write both the same way, or name the time_zone"
            )
        first, start = _begin("period_start", self.period_start, self.time_zone)
        end, stop = _begin("period_end", self.period_end, self.time_zone)
        if not (first < end and start < stop):
            raise ValueError(
                f"period_end {self.period_end} is not after period_start {self.period_start}"
            )
        return Days(first, end, Period(start, stop))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Check what involves several fields: the period, and that the amounts add up."""
        try:
            _ = self.days
        except CounterfoilError as error:  # a day of the year 9999 that ends in the year after
            raise ValueError(error.detail) from error
        for line_id, count in Counter(line.line_id for line in self.lines).items():
            if count > 1:
                raise ValueError(f"line_id {line_id} is on {count} lines")
        unit = Fraction(1, 10 ** minor_digits(self.currency))
        for line in self.lines:
            if abs(Fraction(line.amount) - line.exact) >= unit:
                raise ValueError(
                    f"line {line.line_id}: amount is {line.amount:f}, but {line.quantity} × "
                    f"{line.unit_price:f} / {line.per} is not"
                )
        if abs(Fraction(self.rounding)) >= unit:
            raise ValueError(f"rounding {self.rounding:f} is more than rounding a total requires")
        lines = exact_sum(line.amount for line in self.lines)
        if (found := exact_sum((lines, self.rounding))) != self.total:
            raise ValueError(
                f"total is {self.total:f}, but the lines add up to {lines:f} and, with the rounding, to {found:f}"
            )
        return self


def _begin(name: str, bound: str, zone_name: str | None) -> tuple[date, int]:
    """Return the day that begins at a bound, and its time."""
    if "T" not in bound.upper():
        day = parse_day(bound)
        return day, day_period(day, zone_name or "UTC").start
    ms = parse_rfc3339(bound)
    if zone_name is not None:
        day = day_of(ms, zone_name)
        begins = day_period(day, zone_name).start == ms
    else:
        local = datetime.fromisoformat(bound.upper())
        day, begins = local.date(), local.time() == time(0)
    if not begins:
        raise ValueError(
            f"{name} {bound} is not when a day begins in {zone_name or 'its own offset'}; name the time zone of the "
            'invoice\'s days, for example "time_zone": "Europe/Berlin"'
        )
    return day, ms


def _json(data: bytes) -> object:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8 text") from error
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _malformed(
            f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, deep nesting
        raise _malformed("is not JSON of a sensible size") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse two values for one key, since either might be meant."""
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise _malformed(f"has the field {ascii(key)[:60]} {count} times in one object")
    return dict(pairs)


def _no_number(text: str) -> None:
    raise _malformed(f"holds {text}, which is not JSON")


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the invoice {problem}",
        remedy="Nothing was stored. Have the operator correct the file; docs/invoices.md lists every field.",
    )
