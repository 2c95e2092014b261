"""Exact amounts of money.

Nothing here rounds except `round_to_minor_unit`, and nothing is ever a float.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from typing import Final, Self

from shared.runtime.errors import Code, CounterfoilError

MAX_DIGITS: Final = 38
MAX_SCALE: Final = 12
"""Digits after the point; together with `MAX_DIGITS`, what the database's NUMERIC(38, 12) can hold."""

_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow, DivisionByZero])
_POWERS_OF_TEN: Final = frozenset(10**exponent for exponent in range(10))
_DECIMAL: Final = re.compile(r"-?(0|[1-9]\d{0,25})(\.\d{1,12})?", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z][A-Z0-9]{2,11}", re.ASCII)
_ISO: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_OTHER_MINOR_DIGITS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}  # ISO 4217; every other three-letter code has 2


def check_currency(code: str) -> str:
    """Return an ISO 4217 code (three letters) or a token's code (4 to 12 capitals and digits)."""
    if not _CURRENCY.fullmatch(code):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{code[:40]!r} is not a currency",
            remedy="Use an ISO 4217 code like EUR, or a token code of 4 to 12 capitals and digits.",
        )
    return code


def parse_decimal(text: str, what: str = "amount") -> Decimal:
    """Parse a plain decimal string: no exponent, at most 12 places."""
    if not _DECIMAL.fullmatch(text):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{what} {text[:60]!r} is not a plain decimal number",
            remedy="Write it like 1234.50, with at most 26 digits before and 12 after the point.",
        )
    return Decimal(text)


def format_decimal(number: Decimal) -> str:
    """Return a plain decimal string: no exponent, never `-0`."""
    if not number.is_finite():
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{number} is not an amount")
    return format(number or abs(number), "f")


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount in one currency. Adding different currencies is an error."""

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        check_currency(self.currency)
        if not self.amount.is_finite():
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "an amount of money must be a finite Decimal"
            )

    @classmethod
    def parse(cls, text: str, currency: str) -> Self:
        """Read an amount from a plain decimal string."""
        return cls(parse_decimal(text), currency)

    @classmethod
    def zero(cls, currency: str) -> Self:
        """Return zero in a currency."""
        return cls(Decimal(0), currency)

    @classmethod
    def sum(cls, amounts: Iterable["Money"], currency: str) -> "Money":
        """Return the exact sum; zero if there are no amounts."""
        total: Money = cls.zero(currency)
        for amount in amounts:
            total = total + amount
        return total

    def __add__(self, other: "Money") -> "Money":
        return Money(_EXACT.add(self.amount, self._same(other)), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(_EXACT.subtract(self.amount, self._same(other)), self.currency)

    def __neg__(self) -> "Money":
        return Money(_EXACT.minus(self.amount), self.currency)

    def __mul__(self, factor: int | Decimal) -> "Money":
        return Money(_EXACT.multiply(self.amount, Decimal(factor)), self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount < self._same(other)

    def __le__(self, other: "Money") -> bool:
        return self.amount <= self._same(other)

    def __bool__(self) -> bool:
        return bool(self.amount)

    def __str__(self) -> str:
        return f"{format_decimal(self.amount)} {self.currency}"

    def text(self) -> str:
        """Return the amount alone as a plain decimal string."""
        return format_decimal(self.amount)

    def _same(self, other: "Money") -> Decimal:
        if other.currency != self.currency:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"{other.currency} cannot be added to {self.currency}"
            )
        return other.amount


def amount_of(quantity: int, unit: Decimal, per: int) -> Decimal:
    """Return quantity × unit / per, exactly: `per` must be a power of ten up to 10⁹, otherwise INVALID_ARGUMENT."""
    if per not in _POWERS_OF_TEN:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"a price must be per a power of ten tokens, not per {per}",
            remedy="Use 1, 1000 or 1000000, for instance.",
        )
    return _EXACT.scaleb(_EXACT.multiply(Decimal(quantity), unit), 1 - len(str(per)))


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum: Python's own context would round it to 28 digits."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def minor_digits(currency: str) -> int:
    """Return the number of digits in a currency's minor unit (ISO 4217); for a token it is not known here."""
    if not _ISO.fullmatch(check_currency(currency)):
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"the number of digits must be given for the token {currency}"
        )
    found = (digits for digits, codes in _OTHER_MINOR_DIGITS.items() if currency in codes.split())
    return next(found, 2)


def round_to_minor_unit(money: Money, *, digits: int | None = None) -> tuple[Money, Money]:
    """Round half to even, once per invoice.

    Returns (rounded, rounding) with rounded = money + rounding exactly: the rounding line.
    """
    places = minor_digits(money.currency) if digits is None else digits
    if not 0 <= places <= MAX_SCALE:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"cannot round to {places} digits")
    context = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, Overflow])
    rounded = Money(context.quantize(money.amount, Decimal(1).scaleb(-places)), money.currency)
    return rounded, rounded - money
