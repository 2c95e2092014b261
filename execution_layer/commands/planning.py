"""What `counterfoil pool plan` does: reads offers, measures round trips, plans, and shows the plans."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.entries import NodeEntry
from execution_layer.client.offered import layers_offered, parts_of
from execution_layer.client.planning import (
    Part,
    Plan,
    RoundTrips,
    Wish,
    best_plans,
    why_none,
)
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.reading import layers_of
from execution_layer.client.round_trips import given, measured
from shared.codec.ids import parse_hex32
from shared.codec.moment import now_ms
from shared.codec.money import format_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.keys import KeyBundle
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt, Usage

RECEIPTS: Final = 1024
"""How many of the newest receipts in the archive are looked at."""
COLUMNS: Final = ("plan", "chain", "ms/token", "tokens/s", "slowest", "price", "readers", "set up")
INVERTED: Final = "Every operator of a chain sees hidden states, which can be inverted to text: count all of them as readers."


@dataclass(frozen=True, slots=True)
class _Offers:
    """What was read and measured."""

    root: bytes
    nodes: list[NodeEntry]
    cards: dict[str, RateCard]
    trips: RoundTrips
    refused: list[str]
    silent: list[str]
    """Nodes that do not answer."""
    used: dict[bytes, list[Usage]]
    """What receipts in the archive count, by the entries of the key bundles."""


def narrowed(
    policy: ClientPolicy,
    *,
    operators: Sequence[str],
    forbidden_operators: Sequence[str],
    most_operators: int | None,
    regions: Sequence[str],
    forbidden_regions: Sequence[str],
    arithmetics: Sequence[str],
) -> ClientPolicy:
    """Return a policy whose table [nodes] has what the options say; NOT_FOUND for an operator that it does not pin."""
    unknown = sorted({*operators, *forbidden_operators} - set(policy.operators))
    if unknown:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the policy does not pin operator {unknown[0][:64]}",
            remedy=f"It pins {', '.join(sorted(policy.operators))}.",
        )
    nodes = policy.nodes.model_dump()
    only = set(policy.operators) - set(operators) if operators else set[str]()
    if operators or forbidden_operators:
        nodes["forbidden_operators"] = tuple(sorted(only | set(forbidden_operators)))
    told = {
        "most_operators": most_operators,
        "regions": tuple(regions) or None,
        "forbidden_regions": tuple(forbidden_regions) or None,
        "arithmetics": tuple(arithmetics) or None,
    }
    nodes |= {name: value for name, value in told.items() if value is not None}
    return policy.model_copy(update={"nodes": type(policy.nodes)(**nodes)})


def planned(
    policy: ClientPolicy,
    model: str | None,
    layers: int | None,
    round_trips: Sequence[str],
    wish: Wish,
) -> dict[str, Any]:
    """Return the best plans as facts for people and programs.

    STALE_KEY if nobody offers the model, NOT_FOUND with the reason if the offers make no chain.
    """
    offers = asyncio.run(_read(policy, model, given(round_trips)))
    count = layers or layers_of(policy, offers.root) or _only_whole(offers.nodes)
    reachable = [node for node in offers.nodes if node.name in offers.trips.here]
    offered = parts_of(reachable, policy, offers.cards, offers.root, count, now_ms(), offers.used)
    left_out = [
        *(f"{name} does not answer" for name in offers.silent),
        *offered.left_out,
        *offers.refused,
    ]
    plans = best_plans(offered.parts, count, offers.trips, wish)
    if not plans:
        raise _none(offered.parts, count, offers.trips, wish, left_out)
    by_name = {node.name: node for node in offers.nodes}
    return {
        "model_root": offers.root.hex(),
        "layers": count,
        "prefer": wish.prefer,
        "sequences": wish.sequences,
        "plans": [_facts(plan, by_name, offers.trips, wish) for plan in plans],
        "chain": chain_table(plans[0], by_name),
        "left_out": left_out,
        "slower": offered.slower,
    }


def _only_whole(nodes: Sequence[NodeEntry]) -> int:
    """Return a number of layers for where it makes no difference; otherwise nobody's offer says where the model ends."""
    offered = layers_offered(nodes)
    if offered is not None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"it is not known here how many layers the model has (the last one offered is layer {offered - 1})",
            remedy="Fetch its configuration with `counterfoil client tokenizer fetch`, or give --layers.",
        )
    return 1


async def _read(policy: ClientPolicy, model: str | None, told: RoundTrips) -> _Offers:
    async with AsyncCounterfoilClient(policy) as client:
        nodes, refused = await client.offers(model)
        cards = await client.rate_cards()
        used: dict[bytes, list[Usage]] = {}
        for raw in client.archive.checked_receipts(RECEIPTS):
            receipt = read_as(Receipt, raw)
            used.setdefault(receipt.bundle, []).append(receipt.usage)
    asked = {node.name: node.bundle.endpoint for node in nodes if node.name not in told.here}
    here = {**await measured(asked), **told.here}
    silent = [name for name in asked if name not in here]
    root = parse_hex32(model or policy.model_root or "", "the model root")
    return _Offers(root, nodes, cards, replace(told, here=here), list(refused), silent, used)


def _none(
    parts: Sequence[Part], layers: int, trips: RoundTrips, wish: Wish, left_out: Sequence[str]
) -> CounterfoilError:
    free = replace(wish, prefer="speed", at_most_s=None, most_operators=None, plans=1)
    fastest = best_plans(parts, layers, trips, free)
    if not fastest:
        problem = why_none(parts, layers)
    elif wish.at_most_s is not None and fastest[0].token_s > wish.at_most_s:
        problem = (
            f"no chain gives a token every {1000 * wish.at_most_s:g} ms; the fastest needs"
            f" {1000 * fastest[0].token_s:.1f} ms: {' → '.join(fastest[0].names)}"
        )
    elif wish.prefer == "cost":
        problem = "of no chain that is permitted all prices are known"
    else:
        problem = (
            f"every chain has more than {wish.most_operators} operators, or is too slow with fewer"
        )
    told = "".join(f"; {reason}" for reason in left_out[:5])
    return CounterfoilError(
        Code.NOT_FOUND,
        f"there is no plan: {problem}{told}",
        remedy="Read the offers with fewer restrictions, or ask operators for the missing layers.",
    )


def _facts(
    plan: Plan, nodes: dict[str, NodeEntry], trips: RoundTrips, wish: Wish
) -> dict[str, Any]:
    head = nodes[plan.names[0]].bundle
    slowest = plan.slowest(wish.sequences)
    following = [*plan.names[1:], plan.names[0]]
    priced = plan.price.is_finite()
    return {
        "places": [
            {
                "node": part.node,
                "layers": f"{part.first}:{part.last}",
                "ends": part.ends,
                "step_ms": round(1000 * part.cost.of(1), 3),
                "hop_ms": round(1000 * trips.hop_s(part.node, after), 3) if plan.trip_s else 0,
                "claimed_region": _region(nodes[part.node]),
                "endpoint": nodes[part.node].bundle.endpoint,
            }
            for part, after in zip(plan.parts, following, strict=True)
        ],
        "token_ms": round(1000 * plan.token_s, 3),
        "trip_ms": round(1000 * plan.trip_s, 3),
        "tokens_per_s": round(wish.sequences / plan.token_s, 3),
        "steps": plan.depth.steps,
        "slowest": slowest.node,
        "price": format_decimal(plan.price) if priced else None,
        "currency": plan.currency if priced else None,
        "readers": list(plan.operators),
        "set_up": (head.stages or ()) == plan.names[1:],
    }


def _region(node: NodeEntry) -> str | None:
    return None if node.bundle.offer is None else node.bundle.offer.region


def chain_table(plan: Plan, nodes: dict[str, NodeEntry]) -> str | None:
    """Return the table [chain] for the node.toml of a plan's head; None if it has the whole model.

    All in it is checked text: names, and addresses as their key bundles have them.
    """
    if len(plan.parts) == 1:
        return None
    lines = [
        "[chain]",
        'ca = "stages-ca.pem"  # the authority of the stages\' certificates',
    ]
    for part in plan.parts[1:]:
        lines += [
            "",
            "[[chain.stages]]",
            f"address = {_quoted(_called_at(nodes[part.node].bundle))}",
            f'layers = "{part.first}:{part.last}"',
            f"name = {_quoted(part.node)}",
        ]
    return "\n".join(lines)


def _called_at(bundle: KeyBundle) -> str:
    """Return where a stage serves other parties, as far as its key bundle says: there it has evidence, too."""
    return bundle.evidence or bundle.endpoint


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def shown(facts: dict[str, Any]) -> Any:
    """Return plans for people: a table, who reads, and what the head's operator writes."""
    from rich.console import Group  # noqa: PLC0415  # --json does without
    from rich.text import Text  # noqa: PLC0415

    from shared.runtime.output import table  # noqa: PLC0415
    from shared.runtime.printable import for_terminal  # noqa: PLC0415

    rows = [(place, *_row(plan)) for place, plan in enumerate(facts["plans"], start=1)]
    title = (
        f"Chains for {facts['layers']} layers, {facts['sequences']} at once, by {facts['prefer']}"
    )
    notes = [_why(facts["plans"][0]), INVERTED]
    notes += [f"Corrected: {finding}." for finding in facts["slower"]]
    notes += [f"Left out: {reason}" for reason in facts["left_out"]]
    if facts["chain"] is not None:
        head = facts["plans"][0]["places"][0]["node"]
        notes.append(f"For the node.toml of {head}:\n\n{facts['chain']}")
    return Group(table(title, COLUMNS, rows), *(Text(for_terminal(note)) for note in notes))


def _row(plan: dict[str, Any]) -> tuple[object, ...]:
    chain = "\n".join(f"{place['node']} {place['layers']}" for place in plan["places"])
    price = None if plan["price"] is None else f"{plan['price']} {plan['currency']}"
    return (
        chain,
        round(plan["token_ms"], 1),
        round(plan["tokens_per_s"], 1),
        plan["slowest"],
        price,
        ", ".join(plan["readers"]),
        "yes" if plan["set_up"] else "no",
    )


def _why(plan: dict[str, Any]) -> str:
    """Say what the best plan's time is made of."""
    slowest = next(place for place in plan["places"] if place["node"] == plan["slowest"])
    region = slowest["claimed_region"]
    hops = sum(1 for place in plan["places"] if place["hop_ms"])
    price = "not known" if plan["price"] is None else f"{plan['price']} {plan['currency']}"
    return (
        f"The first: {plan['token_ms']:.1f} ms from a token to its next, {plan['trip_ms']:.1f} ms of them on {hops} hops. The"
        f" slowest place is {plan['slowest']} (layers {slowest['layers']}{'' if region is None else f', says {region}'}) with"
        f" {slowest['step_ms']:.1f} ms for a row alone. A million tokens in and a million out cost {price}."
    )
