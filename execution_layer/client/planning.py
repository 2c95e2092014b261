"""Chains computed from offers: ranges of layers that follow one another from a head around to it again. Pure.

Every node says which layers it computes, how fast and at which price; the caller knows how far they are from each other. A plan
begins with a node that has the model's ends, and goes on with stages each of which begins where the one before ended. As the
ranges rise, no node is in a plan twice.

What is told is exact for these numbers, as long as no more than `MOST` partial chains are worth keeping behind one stage: a
partial chain is dropped where as many others as plans are wanted are at least as good in every respect.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from typing import Final, Literal

from execution_layer.pipeline.depth import Cost, Depth, best_depth, depths

Prefer = Literal["speed", "cost", "operators"]
MOST: Final = 256
UNPRICED: Final = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Part:
    """The layers [first, last) at one node. `cost` is in seconds, for all of them."""

    node: str
    """operator/node"""
    first: int
    last: int
    cost: Cost
    ends: bool = False
    """Whether it has the embedding and the head too, so that a chain can begin with it."""
    divisible: bool = False
    """Whether it could leave its last layers to others: it has the whole model."""
    profile: bytes = b""
    """Numeric profile; a chain has one."""
    price: Decimal = UNPRICED
    """For a million tokens of input and a million of output."""
    currency: str | None = None
    """None if the price is not known."""

    @property
    def operator(self) -> str:
        """Who runs it."""
        return self.node.partition("/")[0]

    def up_to(self, layer: int) -> "Part":
        """Return its layers before one, with that share of the cost, at least one layer's: the ends cost something."""
        share = max(1, layer - self.first) / (self.last - self.first)
        cost = Cost(self.cost.fixed_s * share, self.cost.row_s * share)
        return replace(self, last=layer, cost=cost, divisible=False)


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Seconds to every node and back from here, and between two nodes where that is known."""

    here: Mapping[str, float]
    between: Mapping[frozenset[str], float] = field(default_factory=dict)

    def hop_s(self, one: str, other: str) -> float:
        """Return the time one way. Where it is not known, it is that of the way over here, which the direct one hardly exceeds."""
        known = self.between.get(frozenset({one, other}))
        return (self.here[one] + self.here[other] if known is None else known) / 2


@dataclass(frozen=True, slots=True)
class Wish:
    """What the best chain is."""

    prefer: Prefer = "speed"
    sequences: int = 1
    """How many are answered at once."""
    at_most_s: float | None = None
    """From one token of a sequence to its next."""
    most_operators: int | None = None
    plans: int = 5
    """How many are wanted, the best first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A chain: the head, then its stages in order."""

    parts: tuple[Part, ...]
    trip_s: float
    """All hops of one way around."""
    token_s: float
    """From one token of a sequence to its next, with the best number of steps under way."""
    depth: Depth
    """The fewest steps under way that come near that."""

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes in order."""
        return tuple(part.node for part in self.parts)

    @property
    def operators(self) -> tuple[str, ...]:
        """Who sees states of a request: each once, the head's first."""
        return tuple(dict.fromkeys(part.operator for part in self.parts))

    @property
    def price(self) -> Decimal:
        """All parts' together; infinite if one is not known."""
        return sum((part.price for part in self.parts), Decimal(0))

    @property
    def currency(self) -> str | None:
        """In which the price is."""
        return next((part.currency for part in self.parts if part.currency is not None), None)

    def slowest(self, sequences: int) -> Part:
        """Return the part that takes longest for a step."""
        rows = -(-sequences // self.depth.steps)
        return max(self.parts, key=lambda part: part.cost.of(rows))

    def rank(self, prefer: Prefer) -> tuple[object, ...]:
        """Return what sorts plans, the best first."""
        count = len(self.operators)
        if prefer == "cost":
            return self.price, self.token_s, count, self.names
        if prefer == "operators":
            return count, self.token_s, self.price, self.names
        return self.token_s, self.price, count, self.names


def best_plans(parts: Sequence[Part], layers: int, trips: RoundTrips, wish: Wish) -> list[Plan]:
    """Return the best chains over all of a model's layers, the best first; none if there is none that the wish permits."""
    found: dict[tuple[str, ...], Plan] = {}
    for group in _compatible(parts):
        stages = sorted(
            (part for part in group if not part.ends), key=lambda p: (p.first, p.last, p.node)
        )
        for head in _heads(group, stages, layers):
            for rows in {-(-wish.sequences // steps) for steps in range(1, wish.sequences + 1)}:
                for chain in _chains(head, stages, layers, rows, trips, wish):
                    found.setdefault(
                        tuple(part.node for part in chain), plan_of(chain, trips, wish)
                    )
    permitted = [
        plan
        for plan in found.values()
        if wish.at_most_s is None or plan.token_s <= wish.at_most_s
        if wish.prefer != "cost" or plan.price.is_finite()
    ]
    return sorted(permitted, key=lambda plan: plan.rank(wish.prefer))[: wish.plans]


def plan_of(chain: tuple[Part, ...], trips: RoundTrips, wish: Wish) -> Plan:
    """Return a chain with its times. A node that has the whole model waits for nobody."""
    ring = [*chain, chain[0]] if len(chain) > 1 else []
    trip_s = sum(trips.hop_s(one.node, other.node) for one, other in pairwise(ring))
    costs = [part.cost for part in chain]
    token_s = min(depth.round_s for depth in depths(wish.sequences, costs, trip_s))
    return Plan(chain, trip_s, token_s, best_depth(wish.sequences, costs, trip_s))


def why_none(parts: Sequence[Part], layers: int) -> str:
    """Return, in words, where the ranges do not make a chain over all layers."""
    heads = [part for part in parts if part.ends]
    if not heads:
        return "nobody offers the embedding and the head, with which a chain begins"
    groups = _compatible(parts)
    if layers in _reached(parts, layers) and not any(layers in _reached(g, layers) for g in groups):
        return (
            "the parts that would make a chain have different numeric profiles, or prices in different"
            " currencies"
        )
    furthest = max(max(_reached(group, layers), default=0) for group in groups)
    begins = sorted({part.first for part in parts if not part.ends})
    told = ", ".join(map(str, begins)) or "nowhere"
    return (
        f"no stage goes on from layer {furthest} of {layers}: stages begin at {told}, and a range is taken whole, so those that"
        " overlap do not fit together"
    )


def _compatible(parts: Iterable[Part]) -> list[list[Part]]:
    """Return the parts that may be in one chain: of one numeric profile, their prices in one currency as far as they are known."""
    listed = list(parts)
    groups = []
    for profile in sorted({part.profile for part in listed}):
        same = [part for part in listed if part.profile == profile]
        unpriced = [part for part in same if part.currency is None]
        currencies = sorted({part.currency for part in same if part.currency is not None})
        priced = [[p for p in same if p.currency in {None, currency}] for currency in currencies]
        groups += priced or [unpriced]
    return groups


def _heads(group: Sequence[Part], stages: Sequence[Part], layers: int) -> list[Part]:
    """Return the parts with which a chain may begin; one with the whole model may keep only the first layers."""
    found = []
    for part in group:
        if part.ends:
            found.append(part)
        if part.ends and part.divisible:
            found += [
                part.up_to(at) for at in sorted({s.first for s in stages if s.first < layers})
            ]
    return found


def _reached(parts: Sequence[Part], layers: int) -> set[int]:
    stages = sorted((part for part in parts if not part.ends), key=lambda p: p.first)
    reached = {head.last for head in _heads(parts, stages, layers)}
    for stage in stages:
        if stage.first in reached:
            reached.add(stage.last)
    return reached


@dataclass(frozen=True, slots=True)
class _Partial:
    """A chain up to a stage: each number is better the smaller it is."""

    chain: tuple[Part, ...]
    time_s: float
    slowest_s: float
    price: Decimal
    operators: frozenset[str]

    def on(self, part: Part, rows: int, hop_s: float) -> "_Partial":
        taken = part.cost.of(rows)
        return _Partial(
            (*self.chain, part),
            self.time_s + hop_s + taken,
            max(self.slowest_s, taken),
            self.price + part.price,
            self.operators | {part.operator},
        )

    def no_worse_than(self, other: "_Partial") -> bool:
        return (
            self.time_s <= other.time_s
            and self.slowest_s <= other.slowest_s
            and self.price <= other.price
            and self.operators <= other.operators
        )


def _chains(
    head: Part, stages: Sequence[Part], layers: int, rows: int, trips: RoundTrips, wish: Wish
) -> list[tuple[Part, ...]]:
    """Return the chains from a head that can be among the best for steps of so many rows."""
    start = _Partial((), 0.0, 0.0, Decimal(0), frozenset()).on(head, rows, 0.0)
    ended = [start] if head.last == layers else []
    behind: dict[int, list[_Partial]] = {head.last: [start]}  # by the layer at which they end
    for stage in stages:  # rising, so that all before it are known
        longer = [
            partial.on(stage, rows, trips.hop_s(partial.chain[-1].node, stage.node))
            for partial in behind.get(stage.first, ())
        ]
        if wish.most_operators is not None:
            longer = [one for one in longer if len(one.operators) <= wish.most_operators]
        kept = _worth_keeping(longer, wish.plans)
        (ended if stage.last == layers else behind.setdefault(stage.last, [])).extend(kept)
    return [partial.chain for partial in ended]


def _worth_keeping(partials: Sequence[_Partial], plans: int) -> list[_Partial]:
    """Return those that end with the same stage and to which fewer than `plans` others are no worse."""
    kept: list[_Partial] = []
    for one in sorted(partials, key=lambda p: (p.time_s, p.slowest_s, p.price, len(p.operators))):
        if sum(other.no_worse_than(one) for other in kept) < plans:
            kept.append(one)
    return kept[:MOST]
