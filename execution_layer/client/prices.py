"""What one attempt costs at most, in money: by the rate cards whose entries the policy accepts, exactly as the books rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import grpc

from execution_layer.client.policy import ClientPolicy
from shared.codec.money import exact_sum, format_decimal
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.statements.cose import entry_of, read_as
from shared.statements.ratecards import RateCard
from shared.verification.rating import Tokens, price_for, rate_tokens

TIMEOUT_S: Final = 5.0
MOST: Final = 64
"""Rate cards in one call."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that an attempt can cost, or why that is not known."""

    amount: str | None = None
    """A plain decimal, exact."""
    currency: str | None = None
    unknown: str | None = None


async def fetch_cards(policy: ClientPolicy, channel: grpc.aio.Channel) -> dict[str, RateCard]:
    """Return the first accepted rate card of each operator or node, as far as the audit server has it; its entry proves its
    content. The keys are the policy's (`ClientPolicy.card_name`).
    """
    wanted = {name: policy.rate_card(name) for name, cards in policy.rate_cards.items() if cards}
    stub = audit_pb2_grpc.DirectoryStub(channel)
    request = audit_pb2.GetRateCardsRequest(entries=sorted(set(wanted.values()))[:MOST])
    try:
        answer = await stub.GetRateCards(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    shown = {entry_of(raw): raw for raw in answer.statements}
    found = {}
    for name, entry in wanted.items():
        if entry in shown:
            card = read_as(RateCard, shown[entry])
            if card.operator == name.partition("/")[0]:
                found[name] = card
    return found


def most(
    card: RateCard | None,
    model_root: bytes,
    tokens: tuple[int, int],
    now: int,
) -> Bound:
    """Return what (input, output) tokens, none of them cached, cost at most by one node's rate card at `now` (ms)."""
    if card is None:
        return Bound(unknown="the rate card could not be had, so its prices were not read")
    if (problem := unpriced(card, model_root, now)) is not None:
        return Bound(unknown=problem)
    try:
        lines = rate_tokens(Tokens(tokens[0], 0, tokens[1]), price_for(card, model_root))
    except CounterfoilError as error:
        return Bound(unknown=error.detail)
    return Bound(format_decimal(exact_sum(line.amount for line in lines)), card.currency)


def together(bounds: Sequence[Bound]) -> Bound:
    """Return the sum of what several nodes cost at most; not known if one of them is not, or the currencies differ."""
    unknown = next((bound.unknown for bound in bounds if bound.unknown is not None), None)
    currencies = sorted({bound.currency or "" for bound in bounds})
    if unknown is None and len(currencies) > 1:
        unknown = f"the prices are in {' and '.join(currencies)}"
    if unknown is not None:
        return Bound(unknown=unknown)
    total = exact_sum(Decimal(bound.amount or "0") for bound in bounds)
    return Bound(format_decimal(total), currencies[0])


def unpriced(card: RateCard, model_root: bytes, now: int) -> str | None:
    """Return, in words, why a rate card has no price for a model at `now` (ms); None if it has one."""
    if now < card.valid_from or (card.valid_to is not None and now >= card.valid_to):
        return f"rate card {card.name!r} is not valid now"
    try:
        price_for(card, model_root)
    except CounterfoilError as error:
        return error.detail
    return None
