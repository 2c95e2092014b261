"""What key bundles offer to a chain, as parts of plans: ranges of layers with their speed and price. Pure.

Speeds are the nodes' own claims (protocol §4.10.5), corrected where their receipts say that they are slower; prices are those of
the rate cards that the policy accepts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import Final

from execution_layer.client.entries import NodeEntry
from execution_layer.client.planning import UNPRICED, Part
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import unpriced
from execution_layer.pipeline.depth import Cost
from shared.statements.keys import Offer
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Usage

MILLION: Final = 1_000_000
FEWEST: Final = 3
"""Receipts under one key bundle by which its offer is corrected."""
SLOWER: Final = 1.25
"""How many times as long as offered counts as slower: speed is measured in a moment at a node's start."""


@dataclass(slots=True)
class Offered:
    """What nodes offer."""

    parts: list[Part] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Why others offer nothing."""
    slower: list[str] = field(default_factory=list)
    """Which are slower than they say."""


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
    used: Mapping[bytes, Sequence[Usage]] | None = None,
) -> Offered:
    """Return the parts that nodes offer of a model with so many layers; `now` in ms, `used` what receipts under their key bundles
    (by entry) count.
    """
    by_name = {node.name: node for node in nodes}
    found = Offered()
    for node in nodes:
        span = _range(node, by_name, layers)
        offer = node.bundle.offer
        if isinstance(span, str):
            found.left_out.append(f"{node.name}: {span}")
        elif offer is None or not offer.decode_rows or not offer.prefill_rows:
            found.left_out.append(f"{node.name} does not say how fast it is")
        else:
            usages = (used or {}).get(node.entry, ())
            cost, times = corrected(cost_of(offer), usages)
            if times > 1:
                found.slower.append(
                    f"{node.name} takes {times:.1f} times as long as it offers, by its last {len(usages)} receipts"
                )
            price, currency = _price(cards.get(policy.card_name(node.name)), model_root, now)
            ends = node.bundle.layers is None
            found.parts.append(
                Part(
                    node=node.name,
                    first=span[0],
                    last=span[1],
                    cost=cost,
                    ends=ends,
                    divisible=ends and node.bundle.stages is None,
                    profile=node.bundle.numeric_profile,
                    price=price,
                    currency=currency,
                )
            )
    return found


def corrected(cost: Cost, usages: Sequence[Usage]) -> tuple[Cost, float]:
    """Return what a step takes by what a node's receipts say that it computed, and how many times as long as offered that is.

    A receipt's `compute_ms` is its share of steps that others may have been in too, so it can only show that a node is slower.
    """
    ratios = []
    for usage in usages:
        expected = cost.of(usage.input - usage.cached) + max(0, usage.output - 1) * cost.of(1)
        if usage.compute_ms is not None and usage.output:
            ratios.append(usage.compute_ms / 1000 / expected)
    times = median(ratios) if len(ratios) >= FEWEST else 1.0
    if times <= SLOWER:
        return cost, 1.0
    return Cost(cost.fixed_s * times, cost.row_s * times), times


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
