"""Which nodes can be ordered from: those that have the whole model, and heads whose stages the policy accepts (protocol §4.10).
Pure.

A stage is never ordered from. A head is one by its key bundle, which names its stages; each stage's own key bundle is taken from
the same listing, after the same checks. Where a chain does not hold, its head is not used, and the reason is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from execution_layer.client.entries import NodeEntry
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import unpriced
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import Layers
from shared.statements.ratecards import RateCard

MAX_NAME = 127


@dataclass(frozen=True, slots=True)
class Terms:
    """By what chains are judged."""

    policy: ClientPolicy
    model_root: bytes
    layers: int | None
    """How many the model has; None if the client does not have its configuration."""
    cards: Mapping[str, RateCard]
    """The rate cards that could be had, by the policy's names. Of another one, only the entry is known."""
    now: int
    """ms"""


def orderable(
    listed: Sequence[NodeEntry], terms: Terms, refused: Sequence[str] = ()
) -> tuple[list[NodeEntry], list[CounterfoilError]]:
    """Return the nodes that can be ordered from, heads with their stages, and why others cannot.

    `listed` are accepted key bundles, one for each node; `refused` says why others were not accepted.
    """
    stages = {node.name: node for node in listed if node.bundle.layers is not None}
    found, problems = [], []
    for node in listed:
        if node.bundle.layers is not None:
            continue
        try:
            found.append(
                node if node.bundle.stages is None else _chain(node, stages, terms, refused)
            )
        except CounterfoilError as error:
            problems.append(error)
    return found, problems


def as_stage(stage: NodeEntry) -> str:
    """Say why nobody orders from a stage by itself."""
    layers = stage.bundle.layers
    assert layers is not None
    return f"{stage.name} is a stage: it computes layers {layers.first}:{layers.last} for heads, and answers no request itself"


def _chain(
    head: NodeEntry, stages: Mapping[str, NodeEntry], terms: Terms, refused: Sequence[str]
) -> NodeEntry:
    """Return a head with its stages; UNTRUSTED_KEY with the reason if the chain does not hold."""
    names = head.bundle.stages or ()
    if len(set(names)) < len(names):
        raise _unused(head, "it names a stage twice")
    found: list[tuple[NodeEntry, Layers]] = []
    for name in names:
        stage = stages.get(name)
        layers = None if stage is None else stage.bundle.layers
        if stage is None or layers is None:
            why = [reason for reason in refused if name in reason.split()]
            said = f": {why[-1]}" if why else ", or not as a stage of this model"
            raise _unused(head, f"no key bundle of {name[:MAX_NAME]} is accepted{said}")
        if stage.bundle.numeric_profile != head.bundle.numeric_profile:
            raise _unused(head, f"{name} has another numeric profile")
        found.append((stage, layers))
    _check_layers(head, found, terms.layers)
    whole = replace(head, stages=tuple(stage for stage, _ in found))
    _check_operators(whole, terms.policy)
    _check_prices(whole, terms)
    return whole


def _check_layers(
    head: NodeEntry, found: Sequence[tuple[NodeEntry, Layers]], layers: int | None
) -> None:
    for (_, before), (stage, own) in pairwise(found):
        if own.first != before.last:
            kind = "leave a gap after" if own.first > before.last else "overlap"
            raise _unused(
                head,
                f"the layers {own.first}:{own.last} of {stage.name} {kind} those before, {before.first}:{before.last}",
            )
    stage, own = found[-1]
    if layers is not None and own.last != layers:
        raise _unused(
            head,
            f"its last stage {stage.name} ends at layer {own.last}, and the model has {layers}",
        )


def _check_operators(chain: NodeEntry, policy: ClientPolicy) -> None:
    most, operators = policy.nodes.most_operators, chain.operators
    if most is not None and len(operators) > most:
        raise _unused(
            chain,
            f"{len(operators)} operators would see the request's states ({', '.join(operators)}), and the policy permits"
            f" {most}",
        )


def _check_prices(chain: NodeEntry, terms: Terms) -> None:
    """Check that what is known of the prices is for this model, and in one currency."""
    currencies: dict[str, str] = {}
    for node in chain.places:
        card = terms.cards.get(terms.policy.card_name(node.name))
        if card is None:
            continue
        if (problem := unpriced(card, terms.model_root, terms.now)) is not None:
            raise _unused(chain, f"{node.name} has no price: {problem}")
        currencies.setdefault(card.currency, node.name)
    if len(currencies) > 1:
        told = " and ".join(f"{name} in {currency}" for currency, name in currencies.items())
        raise _unused(chain, f"its prices cannot be added up: {told}")


def _unused(head: NodeEntry, problem: str) -> CounterfoilError:
    return CounterfoilError(Code.UNTRUSTED_KEY, f"the chain of {head.name} is not used: {problem}")
