"""The terms of a contract between a tenant and an operator, as a file. Pure.

```json
{"tenant": "acme", "operator": "operator-a", "valid_from": "2026-11-01", "valid_to": "2027-11-01",
 "time_zone": "Europe/Berlin", "currency": "EUR", "rounding": {"mode": "half-even", "digits": 2},
 "cached": "as-metered", "per_request": "0.0001", "per_gpu_second": "0",
 "discounts": [{"tiers": [{"above": "1000", "percent": "5"}, {"above": "10000", "percent": "12.5"}]}],
 "minimum": "500", "credits": [{"id": "launch", "amount": "100", "valid_to": "2027-01-01"}],
 "credit_for_failed": "100", "fx": [{"currency": "USD", "valid_from": "2026-11-01", "rate": "0.92"}],
 "tolerance": {"absolute": "1", "percent": "0.5", "cumulative": "10"}}
```

Only the parties and `valid_from` are needed. Terms are the two parties' own and not in the log; the digest of those under
which a period was billed is in its seal.
"""

import json
from collections.abc import Sequence
from datetime import date
from decimal import (
    ROUND_DOWN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    Inexact,
    InvalidOperation,
    Overflow,
)
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.problems import told
from shared.codec.moment import Period, day_of, day_period, parse_day, zone
from shared.codec.money import check_currency, format_decimal, minor_digits, parse_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.trust import AUTHORITY

MAX_BYTES: Final = 256 * 1024
MAX_SHOWN: Final = 5
_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])


class Rounding(StrEnum):
    """How a total is rounded to the billing currency."""

    HALF_EVEN = "half-even"
    HALF_UP = "half-up"
    DOWN = "down"

    @property
    def decimal(self) -> str:
        """The mode's name in `decimal`."""
        return {"half-even": ROUND_HALF_EVEN, "half-up": ROUND_HALF_UP, "down": ROUND_DOWN}[self]


class Cached(StrEnum):
    """What of a prompt is billed at the price for cached input."""

    AS_METERED = "as-metered"
    """What the receipt says."""
    AS_INPUT = "as-input"
    """Nothing: every prompt token costs what a fresh one does."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004  # what pydantic collects
    return value


def _amount(value: object) -> Decimal:
    try:
        amount = parse_decimal(_text(value))
    except CounterfoilError as error:
        raise ValueError(error.detail) from error
    if amount < 0:
        raise ValueError("must not be negative")
    return amount


def _day(value: object) -> date:
    try:
        return parse_day(_text(value))
    except CounterfoilError as error:
        raise ValueError(error.detail) from error


def _currency(value: object) -> str:
    try:
        return check_currency(_text(value))
    except CounterfoilError as error:
        raise ValueError(error.detail) from error


def _zone(value: object) -> str:
    try:
        zone(_text(value))
    except CounterfoilError as error:
        raise ValueError(error.detail) from error
    return _text(value)


Amount = Annotated[Decimal, BeforeValidator(_amount), PlainSerializer(format_decimal)]
Day = Annotated[date, BeforeValidator(_day)]
Percent = Annotated[Amount, Field(le=100)]
Currency = Annotated[str, BeforeValidator(_currency)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Root = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoundingTerm(_Strict):
    """Once per bill. `digits` defaults to the currency's minor unit."""

    mode: Rounding = Rounding.HALF_EVEN
    digits: Annotated[int, Field(ge=0, le=12, strict=True)] | None = None


class Tier(_Strict):
    """What of an amount lies above `above` is cheaper by `percent`, up to the next tier."""

    above: Amount
    percent: Percent


class Discount(_Strict):
    """Graduated by what the period's usage of a model and kind (or of all) comes to in the billing currency."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1, max_length=32)]
    model: Root | None = None
    kind: ChargeKind | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        bounds = [tier.above for tier in self.tiers]
        if bounds != sorted(set(bounds)):
            raise ValueError("tiers must rise, each above the one before")
        if self.kind is not None and self.kind not in TOKENS:
            raise ValueError(f"kind must be one of {', '.join(TOKENS)}")
        return self


class Credit(_Strict):
    """An amount that the operator owes the tenant, used up from the first bill on until `valid_to`."""

    id: Name
    amount: Amount
    valid_to: Day | None = None


class Rate(_Strict):
    """From a day on: units of the billing currency for one of `currency`."""

    currency: Currency
    valid_from: Day
    rate: Annotated[Amount, Field(gt=0)]


class Tolerance(_Strict):
    """How much an invoice may differ from what is proven before somebody must look at it.

    An invoice is within tolerance when its difference is at most `absolute` or at most `percent` of what is proven, and the
    differences of one sign since the last one that was settled stay at most `cumulative`: many small ones add up.
    """

    absolute: Amount = Decimal(0)
    percent: Percent = Decimal(0)
    cumulative: Amount = Decimal(0)


class Terms(_Strict):
    """The terms of one contract."""

    tenant: Name
    operator: Name
    valid_from: Day
    valid_to: Day | None = None
    time_zone: Annotated[str, BeforeValidator(_zone)] = "UTC"
    currency: Currency | None = None
    """Of the bill; the rate cards' own when it is not said."""
    rounding: RoundingTerm = RoundingTerm()
    cached: Cached = Cached.AS_METERED
    per_request: Amount = Decimal(0)
    per_gpu_second: Amount = Decimal(0)
    per_audit: Amount = Decimal(0)
    """For each audit that the tenant asked for and got (`costs.audit_fees`). In a contract with the auditor only."""
    discounts: Annotated[tuple[Discount, ...], Field(max_length=256)] = ()
    minimum: Amount = Decimal(0)
    credits: Annotated[tuple[Credit, ...], Field(max_length=256)] = ()
    credit_for_failed: Percent = Decimal(0)
    """Beyond not paying for it: percent of an answer's amount that is credited when its FAIL was confirmed."""
    fx: Annotated[tuple[Rate, ...], Field(max_length=4096)] = ()
    tolerance: Tolerance = Tolerance()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("valid_to is not after valid_from")
        for name, found in (
            ("credits", [credit.id for credit in self.credits]),
            ("fx", [(rate.currency, rate.valid_from) for rate in self.fx]),
        ):
            if len(set(found)) != len(found):
                raise ValueError(f"{name} has an entry twice")
        if self.per_audit and (self.operator != AUTHORITY or self.currency is None):
            raise ValueError(
                f"per_audit needs a currency, and the auditor as the other party: operator {AUTHORITY!r}"
            )
        if self._deepest() > 100:
            raise ValueError("discounts on the same usage come to more than 100 percent")
        return self

    def _deepest(self) -> Decimal:
        """Return the most percent that discounts together can take off one kind of usage of one model."""
        models = {discount.model for discount in self.discounts}
        kinds = {discount.kind for discount in self.discounts}
        sums = (
            sum(
                (
                    max(tier.percent for tier in discount.tiers)
                    for discount in self.discounts
                    if discount.model in {None, model} and discount.kind in {None, kind}
                ),
                Decimal(0),
            )
            for model in models
            for kind in kinds
        )
        return max(sums, default=Decimal(0))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a file; MALFORMED names the first few wrong fields."""
        try:
            if len(data) > MAX_BYTES:
                raise _malformed(f"is larger than {MAX_BYTES} bytes")
            return cls.model_validate(json.loads(data.decode("utf-8-sig")))
        except ValidationError as error:
            known: dict[tuple[str, ...], list[str]] = {(): list(cls.model_fields)}
            raise _malformed(f"is not valid: {told(error, known, MAX_SHOWN)}") from error
        except (ValueError, RecursionError) as error:
            raise _malformed(f"is not JSON: {error}"[:200]) from error

    @property
    def valid(self) -> tuple[int, int | None]:
        """When they hold (ms): [from, to), at midnight of their own time zone."""
        end = None if self.valid_to is None else day_period(self.valid_to, self.time_zone).start
        return day_period(self.valid_from, self.time_zone).start, end

    def digits(self, currency: str) -> int:
        """Return how many digits a total in `currency` is rounded to; a token needs `rounding.digits`."""
        return minor_digits(currency) if self.rounding.digits is None else self.rounding.digits

    def fx_rate(self, currency: str, last_day: date) -> Decimal:
        """Return units of the billing currency for one of `currency` on a period's last day.

        Errors: CONFLICT when the contract has no rate for that day.
        """
        rates = [r for r in self.fx if r.currency == currency and r.valid_from <= last_day]
        if not rates:
            raise CounterfoilError(
                Code.CONFLICT,
                f"the contract of {self.tenant} with {self.operator} has no exchange rate from {currency} to "
                f"{self.currency} for {last_day}",
                remedy="Record a contract that has it under `fx`.",
            )
        return max(rates, key=lambda rate: rate.valid_from).rate

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the terms in one canonical form."""
        return sha256(self.canonical).digest()

    @cached_property
    def canonical(self) -> bytes:
        """The terms as JSON with sorted keys. Without a price of audits it has no field for it, as before there was one."""
        said = self.model_dump(mode="json", exclude=None if self.per_audit else {"per_audit"})
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def default_terms(tenant: str, operator: str) -> Terms:
    """Return what holds where nothing was agreed on: the rate card alone, months in UTC, totals rounded half to even."""
    return Terms.model_validate(
        {"tenant": tenant, "operator": operator, "valid_from": "1970-01-01"}
    )


def graduated(amount: Decimal, tiers: Sequence[Tier]) -> Decimal:
    """Return the discount on an amount: each tier's percentage of what lies within it. Exact; zero for a negative amount."""
    total = Decimal(0)
    ends = [*(tier.above for tier in tiers[1:]), None]
    for tier, end in zip(tiers, ends, strict=True):
        upper = amount if end is None else min(amount, end)
        if upper > tier.above:
            share = _EXACT.multiply(_EXACT.subtract(upper, tier.above), tier.percent)
            total = _EXACT.add(total, _EXACT.scaleb(share, -2))
    return total


def last_day(period: Period, zone_name: str) -> date:
    """Return a period's last day in a time zone."""
    return day_of(period.end - 1, zone_name)


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the contract {problem}",
        remedy="Nothing was stored. docs/cost.md lists every field.",
    )
