"""Signed statements of a chain: one request, answered by a head and stages of other operators."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from audit_layer.trail.service import Submission
from shared.statements.cose import entry_of, open_as, read_as, sign
from shared.statements.keys import KeyBundle, Layers
from shared.statements.orders import Order, Part
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage
from tests.audit_layer.api import statements as made

UNKNOWN: Mapping[str, None] = dict.fromkeys(
    ("settings", "activation_root", "input", "output", "evidence")
)
"""What a stage's receipt lacks."""


def stage_bundle(operator: str, first: int, last: int) -> bytes:
    """A key bundle of `<operator>/one` as a stage."""
    value, _ = open_as(KeyBundle, made.bundle(operator), None)
    return sign(replace(value, layers=Layers(first, last)), key=made.key(operator), issuer=operator)


@dataclass
class Parties:
    """A head's node, and the stages' in order; their bundles and rate cards are in the log."""

    head: made.Node
    stages: list[made.Node]

    def answer(
        self,
        number: int = 0,
        *,
        changes: Mapping[int, Mapping[str, Any]] | None = None,
        parts: Mapping[int, Mapping[str, Any]] | None = None,
        attempt: int = 0,
    ) -> list[Submission]:
        """The receipts of one request, the head's first: by place, what a receipt or a part's order says otherwise."""
        changes, parts = changes or {}, parts or {}
        template = made.Node(self.head.operator, self.head.bundle, self.head.card).receipt("acme")
        value = read_as(Receipt, template.statement)
        order = replace(
            read_as(Order, template.order or b""), number=number, attempt=attempt,
            envelope=made.some("e", number, attempt),
        )  # fmt: skip
        head_order = sign(order, key=made.key("acme"), issuer="acme")
        roots = [made.some("boundary", number, place) for place in range(len(self.stages) + 1)]
        submissions = []
        for place, node in enumerate(self.stages, start=1):
            own = replace(
                order, bundle=node.bundle, rate_card=node.card, part=Part(entry_of(head_order), place)
            )  # fmt: skip
            own = replace(own, **parts.get(place, {}))
            signed = sign(own, key=made.key("acme"), issuer="acme")
            chain = Chain(place, sent=roots[place], received=roots[place - 1])
            answer = _answer(value, own, signed, node, chain, {**UNKNOWN, **changes.get(place, {})})
            submissions.append(Submission(answer, signed))
        listed = tuple(entry_of(item.statement) for item in submissions)
        chain = Chain(0, sent=roots[0], received=roots[-1], stages=listed)
        answer = _answer(value, order, head_order, self.head, chain, changes.get(0, {}))
        return [Submission(answer, head_order), *submissions]


def _answer(
    template: Receipt, order: Order, signed: bytes, node: made.Node, chain: Chain, changes: Mapping[str, Any]
) -> bytes:  # fmt: skip
    shared = {
        name: getattr(order, name)
        for name in ("number", "attempt", "ctx", "kc", "envelope", "bundle", "rate_card")
    }
    links = {"node_sequence": node.number, "previous": node.previous, "chain": chain}
    value = replace(template, **{**shared, "order": entry_of(signed), **links, **changes})
    issuer = f"{node.operator}/one"
    raw = sign(value, key=made.key(issuer), issuer=issuer)
    node.number, node.previous = node.number + 1, entry_of(raw)
    return raw


def failed() -> Mapping[str, Any]:
    """What a node says that has failed."""
    usage = Usage(input=5, cached=0, output=0, energy_quality=EnergyQuality.UNMEASURED)
    return {"chain": None, "finish": Finish.FAILED, "usage": usage}


def is_ring(receipts: list[Receipt]) -> bool:
    """Whether every root that was sent is the one that the next place received."""
    chains = [receipt.chain for receipt in (*receipts, receipts[0])]
    return all(one and other and one.sent == other.received for one, other in pairwise(chains))
