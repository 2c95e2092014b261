"""Rating: what one receipt costs under one rate card. Pure and exact.

A price is per `per` tokens, a power of ten, so that every amount is a finite decimal and nothing is rounded here. The
prompt is billed as `input − cached` at the input price and `cached` at the cached price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from shared.codec.money import amount_of, exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import Order, within_order
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Finish, Receipt, Usage
from shared.verification.receipt_claims import unfounded_end

MAX_AMOUNT = Decimal(10) ** 18
"""The most for one receipt: what the books' columns hold with room for sums."""
NOTHING = "nothing was delivered"


class TokenKind(StrEnum):
    """What is counted."""

    INPUT = "input"
    CACHED = "cached"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class RatedLine:
    """One kind of token of one receipt: quantity in tokens, unit price per `per` tokens, exact amount."""

    kind: TokenKind
    quantity: int
    unit_price: Decimal
    per: int
    amount: Decimal


def quantities(usage: Usage) -> Mapping[TokenKind, int]:
    """Return the billed quantities of a usage record, in tokens."""
    return {
        TokenKind.INPUT: usage.input - usage.cached,
        TokenKind.CACHED: usage.cached,
        TokenKind.OUTPUT: usage.output,
    }


def unit_price(price: Price, kind: TokenKind) -> Decimal:
    """Return the price per `price.per` tokens of one kind."""
    return Decimal({"input": price.input, "cached": price.cached, "output": price.output}[kind])


def price_for(card: RateCard, model_root: bytes) -> Price:
    """Return the card's price of one model."""
    for price in card.prices:
        if price.model_root == model_root:
            return price
    raise CounterfoilError(
        Code.NOT_FOUND, f"rate card {card.name!r} has no price for model {model_root.hex()[:16]}…"
    )


def rate(receipt: Receipt, card: RateCard) -> tuple[RatedLine, ...]:
    """Rate one billable receipt; kinds without tokens yield no line."""
    return rate_usage(receipt.usage, price_for(card, receipt.model_root))


def rate_usage(usage: Usage, price: Price) -> tuple[RatedLine, ...]:
    """Return the lines of a usage record at one price; compute time and energy, which are claims, yield none.

    INVALID_ARGUMENT for a price that pays for what nobody can check: a claim of `cached` must only ever lower the bill.
    """
    fresh, cached, _ = price.amounts()
    if cached > fresh:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"its rate card's price for cached input ({price.cached}) is above that for input ({price.input})",
        )
    lines = []
    for kind, quantity in quantities(usage).items():
        if quantity:
            unit = unit_price(price, kind)
            amount = amount_of(quantity, unit, price.per)
            lines.append(RatedLine(kind, quantity, unit, price.per, amount))
    return tuple(lines)


def rated(
    receipt: Receipt, card: RateCard | None, operator: str, order: Order
) -> tuple[tuple[RatedLine, ...], str | None]:
    """Return a receipt's lines, or why it is not billable in itself. One bad card or receipt stops no other."""
    reason = _unbillable(receipt, card, operator, order)
    if reason is not None or card is None:
        return (), reason
    try:
        lines = rate(receipt, card)
    except CounterfoilError as error:
        return (), error.detail
    if exact_sum(line.amount for line in lines) > MAX_AMOUNT:
        return (), "amount out of range"
    return lines, None


def _unbillable(receipt: Receipt, card: RateCard | None, operator: str, order: Order) -> str | None:
    """An answer that its tenant's signature or deadline cut off is paid for what was delivered; a failed one never is."""
    if receipt.finish is Finish.FAILED:
        return "failed"
    if (unfounded := unfounded_end(order, receipt)) is not None:
        return unfounded
    if not receipt.usage.output:
        return NOTHING
    if (excess := within_order(order, receipt.usage)) is not None:
        return excess
    if card is None:
        return "rate card not in the log before it"
    if card.operator != operator:
        return "rate card of another operator"
    if not card.valid_from <= receipt.started < (card.valid_to or 2**63):
        return "rate card not valid at the time"
    return None
