"""Rating: what one receipt comes to under one rate card. Pure and exact.

A price is per `per` tokens, a power of ten, so that every amount is a finite decimal and nothing is rounded here. The
prompt is billed as `input − cached` at the input price and `cached` at the cached price.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from shared.codec.money import amount_of, exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import Order, beyond_bounds
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Finish, Receipt
from shared.verification.receipt_claims import unfounded

MAX_AMOUNT = Decimal(10) ** 18
"""The most for one receipt: what the books' columns hold with room for sums."""
NOTHING: Final = "nothing was delivered"
TOO_MUCH: Final = "amount out of range"


class TokenKind(StrEnum):
    """The kinds of tokens that have a price."""

    INPUT = "input"
    """Prompt tokens that no cache held."""
    CACHED = "cached"
    OUTPUT = "output"


class Tokens(NamedTuple):
    """Billed quantities of one receipt, in the order of `TokenKind`: prompt tokens without the cached ones first."""

    input: int
    cached: int
    output: int


@dataclass(frozen=True, slots=True)
class RatedLine:
    """One kind of token of one receipt: quantity in tokens, unit price per `per` tokens, exact amount."""

    kind: TokenKind
    quantity: int
    unit_price: Decimal
    per: int
    amount: Decimal


class Facts(NamedTuple):
    """What of a receipt and its order decides what it comes to. Times in ms."""

    tokens: Tokens
    finish: Finish
    cancelled: bool
    """Whether its tenant signed that it should end."""
    started: int
    ended: int
    model_root: bytes
    operator: str
    max_input: int | None
    max_output: int | None
    max_ms: int | None

    @classmethod
    def of(cls, receipt: Receipt, operator: str, order: Order) -> "Facts":
        """Return the facts that a receipt and its order state."""
        usage = receipt.usage
        return cls(
            tokens=Tokens(usage.input - usage.cached, usage.cached, usage.output),
            finish=receipt.finish,
            cancelled=receipt.cancel is not None,
            started=receipt.started,
            ended=receipt.ended,
            model_root=receipt.model_root,
            operator=operator,
            max_input=order.max_input_tokens,
            max_output=order.max_output_tokens,
            max_ms=order.max_ms,
        )


def price_for(card: RateCard, model_root: bytes) -> Price:
    """Return the card's price of one model."""
    price = card.price_of(model_root)
    if price is None:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"rate card {card.name!r} has no price for model {model_root.hex()[:16]}…",
        )
    return price


def rate_tokens(tokens: Sequence[int], price: Price) -> tuple[RatedLine, ...]:
    """Return the lines of quantities (as `Tokens`) at one price; a kind without tokens yields no line.

    INVALID_ARGUMENT for a price that pays for what nobody can check: a claim of `cached` must only ever lower the bill.
    """
    fresh, cached, _ = price.amounts()
    if cached > fresh:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"its rate card's price for cached input ({price.cached}) is above that for input ({price.input})",
        )
    return tuple(
        RatedLine(kind, quantity, unit, price.per, amount_of(quantity, unit, price.per))
        for kind, quantity, unit in zip(TokenKind, tokens, price.amounts(), strict=True)
        if quantity
    )


def rated(
    receipt: Receipt, card: RateCard | None, operator: str, order: Order
) -> tuple[tuple[RatedLine, ...], str | None]:
    """Return a receipt's lines, or why it is not billable in itself. One bad card or receipt stops no other."""
    return rate_facts(Facts.of(receipt, operator, order), card)


def rate_facts(facts: Facts, card: RateCard | None) -> tuple[tuple[RatedLine, ...], str | None]:
    """Do the same, given the facts."""
    reason = unbillable(facts, card)
    if reason is not None or card is None:
        return (), reason
    try:
        lines = rate_tokens(facts.tokens, price_for(card, facts.model_root))
    except CounterfoilError as error:
        return (), error.detail
    if exact_sum(line.amount for line in lines) > MAX_AMOUNT:
        return (), TOO_MUCH
    return lines, None


def unbillable(facts: Facts, card: RateCard | None) -> str | None:
    """Return why a receipt is not payable in itself, apart from its price (protocol §8.3, step 2); None if it is.

    An answer that its tenant's signature or deadline cut off is paid for what was delivered; a failed one never is.
    """
    if facts.finish is Finish.FAILED:
        return "failed"
    ending = unfounded(facts.finish, facts.cancelled, facts.ended - facts.started, facts.max_ms)
    if ending is not None:
        return ending
    fresh, cached, output = facts.tokens
    if not output:
        return NOTHING
    excess = beyond_bounds((fresh + cached, output), (facts.max_input, facts.max_output))
    if excess is not None:
        return excess
    if card is None:
        return "rate card not in the log before it"
    if card.operator != facts.operator:
        return "rate card of another operator"
    if not card.valid_from <= facts.started < (card.valid_to or 2**63):
        return "rate card not valid at the time"
    return None
