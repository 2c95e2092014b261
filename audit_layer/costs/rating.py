"""Rating thousands of receipts at once: the sums of `shared.verification.rating`, computed with integers. Pure and exact."""

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final, NamedTuple

from shared.runtime.errors import CounterfoilError
from shared.statements.ratecards import Price, RateCard
from shared.verification.rating import (
    MAX_AMOUNT,
    TOO_MUCH,
    Facts,
    Tokens,
    price_for,
    rate_tokens,
    unbillable,
)

_PLACES: Final = 12  # of a price, at most
_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])


class Scaled(NamedTuple):
    """One model's prices as integers: an amount is Σ tokens × price × 10^`exponent`."""

    prices: tuple[int, int, int]
    exponent: int

    @classmethod
    def of(cls, price: Price) -> "Scaled":
        """Return a price's integers; errors as `rate_tokens`."""
        rate_tokens((1, 1, 1), price)
        prices = tuple(int(amount.scaleb(_PLACES)) for amount in price.amounts())
        return cls((prices[0], prices[1], prices[2]), 1 - len(str(price.per)) - _PLACES)

    def amount(self, tokens: Tokens) -> Decimal:
        """Return what tokens come to, exactly."""
        fresh, cached, output = self.prices
        total = tokens.input * fresh + tokens.cached * cached + tokens.output * output
        return _EXACT.scaleb(Decimal(total), self.exponent)


def rate_amount(
    facts: Facts, card: RateCard | None, known: dict[tuple[int, bytes], Scaled | str]
) -> tuple[Decimal | None, str | None]:
    """Return the sum of `rate_facts`, or why there is none: the way for thousands at once.

    `known` remembers the prices of cards (by `id`, while the caller keeps them) and models, or why one has none.
    """
    reason = unbillable(facts, card)
    if reason is not None or card is None:
        return None, reason
    key = (id(card), facts.model_root)
    scaled = known.get(key)
    if scaled is None:
        try:
            scaled = Scaled.of(price_for(card, facts.model_root))
        except CounterfoilError as error:
            scaled = error.detail
        known[key] = scaled
    if isinstance(scaled, str):
        return None, scaled
    amount = scaled.amount(facts.tokens)
    return (None, TOO_MUCH) if amount > MAX_AMOUNT else (amount, None)
