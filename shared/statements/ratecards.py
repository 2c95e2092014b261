"""Rate cards: an operator's prices, signed by the operator."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, ClassVar

from shared.statements.rules import Count, Text, Whole
from shared.statements.schema import Bytes32, Line, Ms, Name, Record, Statement

AMOUNT = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?", re.ASCII)
CURRENCY = re.compile(r"[A-Z][A-Z0-9]{2,11}", re.ASCII)

Amount = Annotated[str, Text(26, 1, pattern=AMOUNT)]
"""A non-negative decimal in plain notation, as text: money is never a binary fraction."""


@dataclass(frozen=True, slots=True)
class Price(Record):
    """The price of `per` tokens of one model: fresh input, cached input, output."""

    model_root: Bytes32
    input: Amount
    cached: Amount
    output: Amount
    per: Annotated[int, Whole(10**9, 1)]

    def amounts(self) -> tuple[Decimal, Decimal, Decimal]:
        """Return the prices of `per` tokens: (input, cached, output)."""
        return Decimal(self.input), Decimal(self.cached), Decimal(self.output)


@dataclass(frozen=True, slots=True)
class RateCard(Statement):
    """Prices from `valid_from` until `valid_to` (or until a later card replaces them)."""

    TYPE: ClassVar[str] = "rate-card"

    name: Line
    operator: Name
    currency: Annotated[str, Text(12, 3, pattern=CURRENCY)]
    valid_from: Ms
    prices: Annotated[tuple[Price, ...], Count(1, 256)]
    valid_to: Ms | None = None

    @property
    def subject(self) -> str:
        """The card's name."""
        return self.name

    def check(self) -> None:
        """Check the period, and that every model has one price."""
        self.require(
            self.valid_to is None or self.valid_from < self.valid_to, "ends before it begins"
        )
        roots = [price.model_root for price in self.prices]
        self.require(len(set(roots)) == len(roots), "has two prices for one model")

    def price_of(self, model_root: bytes) -> Price | None:
        """Return the price for one model."""
        return next((price for price in self.prices if price.model_root == model_root), None)
