"""What was checked before a prompt leaves this machine, what was not, and who will be able to read it. Pure.

Every sentence is derived from the policy and from what the directory's checks verified; nothing is asked anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from execution_layer.client.custodian_choice import CustodianChoice
from execution_layer.client.directory import KEPT
from execution_layer.client.entries import NodeEntry
from execution_layer.client.log_memory import AUDIT_SERVER
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import Bound, most, together
from execution_layer.client.wanted import Wanted
from shared.codec.moment import to_rfc3339
from shared.envelope.hpke import hpke_key_id
from shared.statements.ratecards import RateCard
from shared.translog.tlog_proof import parse_tlog_proof


def explain(
    policy: ClientPolicy,
    custodians: CustodianChoice,
    cards: Mapping[str, RateCard],
    nodes: Sequence[NodeEntry],
    wanted: Wanted,
    revocations: int,
    now: int,
) -> dict[str, Any]:
    """Return the facts about one attempt; `nodes` are its candidates, `cards` the rate cards
    that could be had, by operator, `revocations` how many are known, `now` in ms."""
    return {
        "checked": {
            "nodes": [_node(policy, node, now) for node in nodes],
            "revocations": {
                "known": revocations,
                "unknown_since": to_rfc3339(
                    1000 * min(_seen(place) for node in nodes for place in node.places)
                ),
            },
            "custodians": _custodians(policy, custodians),
            "price": _price(policy, cards, nodes, wanted, now),
            "model_root": wanted.model_root.hex(),
        },
        "readers": _readers(policy, custodians, nodes),
        "trusted": _trusted(policy, cards, nodes, wanted),
    }


def _node(policy: ClientPolicy, node: NodeEntry, now: int) -> dict[str, Any]:
    bundle, checkpoint = node.bundle, node.witnessed.checkpoint
    chain = {"stages": [_node(policy, stage, now) for stage in node.stages]} if node.stages else {}
    return {
        "name": node.name,
        "endpoint": bundle.endpoint,
        **_place(node),
        "key_bundle": node.entry.hex(),
        "valid_until": to_rfc3339(bundle.not_after),
        "operator_key": policy.operators[bundle.operator],
        "listed_by": node.source,
        "log": {
            "origin": checkpoint.origin,
            "index": parse_tlog_proof(node.proof).index,
            "size": checkpoint.size,
            "witnesses": {name: to_rfc3339(1000 * at) for name, at in node.witnessed.times.items()},
            "age_s": max(0, now // 1000 - _seen(node)),
            "accepted_age_s": _accepted_age(policy, node),
        },
        "standing": node.standing.value,
        "demanded_standing": policy.min_standing.value,
        "numeric_profile": bundle.numeric_profile.hex(),
        "profile": dict(bundle.profile),
        "attestation": [
            {"name": claim.name, "value": claim.value.value, "source": claim.source}
            for claim in node.claims
        ],
        **chain,
    }


def _place(node: NodeEntry) -> dict[str, Any]:
    """Return which layers a node of a chain computes, and where it says that it is."""
    layers, offer = node.bundle.layers, node.bundle.offer
    first = node.stages[0].bundle.layers if node.stages else None
    if first is not None:
        own = f"embedding and head{f', layers 0:{first.first}' if first.first else ''}"
    elif layers is not None:
        own = f"layers {layers.first}:{layers.last}"
    else:
        own = None
    region = None if offer is None else offer.region
    return {
        **({} if own is None else {"computes": own}),
        **({} if region is None else {"claimed_region": region}),
    }


def _custodians(policy: ClientPolicy, chosen: CustodianChoice) -> dict[str, Any]:
    return {
        "threshold": policy.threshold,
        "of": len(chosen.kept),
        "pinned_keys": {item.name: hpke_key_id(item.public_key()).hex() for item in chosen.kept},
        "audit": policy.audit,
        "left_out": dict(chosen.left_out),
        "kept_in_spite_of": dict(chosen.spared),
        "record_as_of": None if chosen.as_of is None else to_rfc3339(chosen.as_of),
    }


def _price(
    policy: ClientPolicy,
    cards: Mapping[str, RateCard],
    nodes: Sequence[NodeEntry],
    wanted: Wanted,
    now: int,
) -> dict[str, Any]:
    tokens = wanted.input_bound, wanted.body.settings.max_tokens

    def at_most(node: NodeEntry) -> Bound:
        card = cards.get(policy.card_name(node.name))
        return most(card, wanted.model_root, tokens, now)

    parts: dict[str, list[NodeEntry]] = {}
    for node in nodes:
        for place in node.stages and node.places:  # of a chain, every place is paid
            parts.setdefault(place.bundle.operator, []).append(place)
        if not node.stages:  # one of the candidates is
            parts[policy.card_name(node.name)] = [node]
    places = [place for node in nodes for place in node.places]
    whole = [at_most(place) for place in places]
    return {
        "at_most": {
            name: asdict(together([at_most(place) for place in parts[name]]))
            for name in sorted(parts)
        },
        "together": asdict(together(whole)) if nodes[0].stages else None,
        "rate_cards": {
            policy.card_name(place.name): policy.rate_card(place.name).hex() for place in places
        },
        "max_input_tokens": wanted.input_bound,
        "max_output_tokens": wanted.body.settings.max_tokens,
        "counted_here": wanted.model_text is not None,
    }


_AUDITED: Final = {
    "sampled": "An audit worker, if the draw selects the request: each disclosure is in the log, where you can watch for it.",
    "always": "An audit worker, since you ask for the audit: each disclosure is in the log, where you can watch for it.",
    "never": "No audit worker: custodians release nothing of a request with this policy, so its computation is never checked.",
}
"""Who else reads a request, by its audit policy."""


def _readers(
    policy: ClientPolicy, custodians: CustodianChoice, nodes: Sequence[NodeEntry]
) -> list[str]:
    names = ", ".join(node.name for node in nodes)
    k, n = policy.threshold, len(custodians.kept)
    holders = ", ".join(item.name for item in custodians.kept)
    who = "each of them reads it" if len(nodes) > 1 else "it reads it"
    return [
        f"The node {names}: {who}, and whoever controls its machine.",
        *(_states(node) for node in nodes if node.stages),
        f"Any {k} of the {n} custodians ({holders}) together, without the log knowing; fewer learn nothing.",
        _AUDITED[policy.audit],
        "Nobody else. The network sees sizes and timing.",
    ]


def _states(chain: NodeEntry) -> str:
    """Say who sees the hidden states of a chain."""
    stages = ", ".join(stage.name for stage in chain.stages)
    operators = sorted({stage.bundle.operator for stage in chain.stages})
    whose = "operator" if len(operators) == 1 else "operators"
    return (
        f"Its stages {stages} ({whose} {', '.join(operators)}), and whoever controls their machines: they see the hidden states"
        " of prompt and answer, which can be inverted to text. Count them as readers."
    )


def _trusted(
    policy: ClientPolicy,
    cards: Mapping[str, RateCard],
    nodes: Sequence[NodeEntry],
    wanted: Wanted,
) -> list[str]:
    given, nodes = len(nodes), [place for node in nodes for place in node.places]
    placed = [node.name for node in nodes if node.bundle.offer and node.bundle.offer.region]
    unread = [node.name for node in nodes if policy.card_name(node.name) not in cards]
    without_server = any(node.source != AUDIT_SERVER for node in nodes)
    kept = any(node.source == KEPT for node in nodes)
    unattested = [node.name for node in nodes if not node.claims]
    seen = to_rfc3339(1000 * min(_seen(node) for node in nodes))
    return [
        "That the operators' keys in your policy are the operators', and that the nodes' keys are only on their machines.",
        f"That no key bundle was revoked since {seen}: a listing can omit what is newer."
        + (" The audit server did not answer." if without_server else "")
        + (" The key bundles are those kept from then." if kept else ""),
        f"That no {policy.log.quorum} of {_witnesses(policy)} witnesses conspire with the log to show you a history of your own.",
        "The directory's word for the standing of nodes; anybody with a token can recompute it from the log.",
        *(
            [
                f"The prices of {', '.join(unread)}, behind the rate card's hash: the card itself was not read here."
            ]
            if unread
            else []
        ),
        *(
            []
            if wanted.model_text is not None
            else ["The node's word for the prompt's tokens and the answer's text, until an audit."]
        ),
        *(
            [
                f"That nobody else is on the machine of {', '.join(unattested)}: there is no attestation of it."
            ]
            if unattested
            else ["What the verifiers of attestation claim, within what their sources can know."]
        ),
        *(
            [f"The word of {', '.join(placed)} for where they are: nothing checks it."]
            if placed
            else []
        ),
        "That the node computes what it signs, until an audit: receipts are checked by a sample."
        + (
            " So it is with each stage, which signs for its own layers."
            if len(nodes) > given
            else ""
        ),
    ]


def _witnesses(policy: ClientPolicy) -> int:
    return len({key.partition("+")[0] for key in policy.log.witnesses})


def _seen(node: NodeEntry) -> int:
    return min(node.witnessed.times.values())


def _accepted_age(policy: ClientPolicy, node: NodeEntry) -> int:
    direct = node.source == AUDIT_SERVER
    return policy.max_checkpoint_age_s if direct else policy.max_listing_age_s
