"""What key bundles offer to a chain, as parts of plans: ranges of layers with their speed and price. Pure.

Speeds are the nodes' own claims (protocol §4.10.5); prices are those of the rate cards that the policy accepts.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from execution_layer.client.entries import NodeEntry
from execution_layer.client.planning import UNPRICED, Part
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import unpriced
from execution_layer.pipeline.depth import Cost
from shared.statements.keys import Offer
from shared.statements.ratecards import RateCard

MILLION = 1_000_000


def layers_offered(nodes: Sequence[NodeEntry]) -> int | None:
    """Return the layer before which the last of the offered ranges ends; None if no stage is listed."""
    return max((node.bundle.layers.last for node in nodes if node.bundle.layers), default=None)


def parts_of(
    nodes: Sequence[NodeEntry],
    policy: ClientPolicy,
    cards: Mapping[str, RateCard],
    model_root: bytes,
    layers: int,
    now: int,
) -> tuple[list[Part], list[str]]:
    """Return the parts that nodes offer of a model with so many layers, and why others offer none; `now` in ms."""
    by_name = {node.name: node for node in nodes}
    found, left_out = [], []
    for node in nodes:
        span = _range(node, by_name, layers)
        offer = node.bundle.offer
        if isinstance(span, str):
            left_out.append(f"{node.name}: {span}")
        elif offer is None or not offer.decode_rows or not offer.prefill_rows:
            left_out.append(f"{node.name} does not say how fast it is")
        else:
            first, last = span
            price, currency = _price(cards.get(policy.card_name(node.name)), model_root, now)
            ends = node.bundle.layers is None
            found.append(
                Part(
                    node=node.name,
                    first=first,
                    last=last,
                    cost=cost_of(offer),
                    ends=ends,
                    divisible=ends and node.bundle.stages is None,
                    profile=node.bundle.numeric_profile,
                    price=price,
                    currency=currency,
                )
            )
    return found, left_out


def cost_of(offer: Offer) -> Cost:
    """Return what a step takes by an offer: of one row, and of as many as come in chunks."""
    alone, row = 1 / offer.decode_rows, 1 / offer.prefill_rows
    return Cost(max(0.0, alone - row), min(alone, row))


def _range(node: NodeEntry, by_name: Mapping[str, NodeEntry], layers: int) -> tuple[int, int] | str:
    """Return the layers of a node; in words, why they are not of this model or not known."""
    own, stages = node.bundle.layers, node.bundle.stages
    if own is not None:
        if own.last > layers:
            return f"its layers {own.first}:{own.last} are not the model's, which has {layers}"
        return own.first, own.last
    if stages is None:
        return 0, layers
    after = by_name.get(stages[0])
    begins = None if after is None or after.bundle.layers is None else after.bundle.layers.first
    if begins is None:
        return f"its own layers are not known, since its stage {stages[0][:127]} is not listed"
    return 0, begins


def _price(card: RateCard | None, model_root: bytes, now: int) -> tuple[Decimal, str | None]:
    """Return what a million tokens of input, and as many of output, cost."""
    if card is None or unpriced(card, model_root, now) is not None:
        return UNPRICED, None
    price = card.price_of(model_root)
    assert price is not None
    fresh, _, output = price.amounts()
    return (fresh + output) * MILLION / price.per, card.currency
