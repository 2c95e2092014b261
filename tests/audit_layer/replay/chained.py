"""A chain of nodes over a tiny model, each of which may lie, and the case that an auditor then holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

from torch import Tensor

from audit_layer.replay.case import Case, ChainCase, Member
from audit_layer.replay.hearing import Replayed
from shared.commitments.exact import ActivationHasher
from shared.envelope.blinded import blinded_fields
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.boundary import boundary_root, row_hashes
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import Candidate, SealedRequest, open_with_secret, seal_request
from shared.envelope.stages import BoundarySecret, ChainStage
from shared.envelope.stream import FinalRecord, FrameSealer, StreamContext, stream_hash
from shared.model.backend import Rows
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, Embedding, Head, Stage
from shared.model.replay import check_sequence, replay
from shared.model.sampler import Sampler
from shared.model.weights import Weights
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.keys import KeyBundle, Layers
from shared.statements.orders import Order, Part
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage
from shared.statements.request import RequestBody, SamplingSettings
from tests.audit_layer.api import statements as made
from tests.audit_layer.replay.inference import FakeArithmetic, H
from tests.shared.model import tiny

LAYERS = 5
PROMPT = b"a prompt that is longer than one block of commitments"
OPERATORS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
"""Whose nodes are at the places of a chain."""


@cache
def model() -> tuple[ModelConfig, Weights]:
    config = tiny.config(
        hidden_size=48, head_dim=16, intermediate_size=80, num_hidden_layers=LAYERS, dtype="bfloat16"
    )  # fmt: skip
    return config, tiny.weights(config)


@cache
def decoder() -> Decoder:
    return Decoder(*model(), tiny.BACKEND)


class TinyArithmetic(FakeArithmetic):
    """The auditor's copy of the model, with a text of its own making."""

    profile, layers = made.PROFILE, LAYERS

    def check(self, prompt, output):
        check_sequence(decoder(), prompt, output)

    def replay(self, prompt, output, settings, seed, choice, delivered=0, cuts=()):
        self.passes += 1
        found = replay(decoder(), prompt, output, settings, seed, choice=choice, delivered=delivered, cuts=cuts)  # fmt: skip
        return Replayed(found.activations, found.chosen, found.logprobs, found.boundaries)


Spoil = Callable[[Tensor, int], Tensor]
"""What a node makes of states from a position on."""


@dataclass
class Place:
    """One node of a chain: its layers, and what it does with them."""

    first: int
    last: int
    weights: Weights | None = None
    """Those that it computes with, if others than the model's."""
    spoil: Spoil = lambda states, _position: states
    """What it does to the states that it passes on."""
    skips: int | None = None
    """The layer that it leaves out."""
    receipt: dict[str, Any] = field(default_factory=dict)
    """What its receipt says otherwise."""
    chain: dict[str, Any] = field(default_factory=dict)
    bundle: dict[str, Any] = field(default_factory=dict)
    order: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Callable[[Tensor, Rows], Tensor]:
        """Return what computes its layers, with a cache of its own."""
        config, weights = model()[0], self.weights or model()[1]
        ranges = [(self.first, self.last)]
        if self.skips is not None:
            ranges = [(self.first, self.skips), (self.skips + 1, self.last)]
        stages = [Stage(config, weights, tiny.BACKEND, *ends) for ends in ranges]
        caches = [stage.cache(4) for stage in stages]

        def compute(states: Tensor, rows: Rows) -> Tensor:
            for stage, own in zip(stages, caches, strict=True):
                states = stage(states, [rows], own)
            return self.spoil(states, rows.position)

        return compute


def cut(*cuts: int) -> list[Place]:
    """Return honest places: the head's layers, then each stage's."""
    return [Place(first, last) for first, last in pairwise((0, *cuts, LAYERS))]


@dataclass
class Run:
    """What passed through a chain while it answered."""

    tokens: tuple[int, ...]
    rows: list[list[bytes]]
    """Row hashes at each boundary."""
    activations: ActivationHasher


def run(places: Sequence[Place], prompt: Sequence[int], settings: SamplingSettings, seed: bytes) -> Run:  # fmt: skip
    """Answer: the prompt in two chunks, then a token at a time."""
    config, weights = model()
    head = Head(config, weights, tiny.BACKEND)
    embedding = Embedding(config, weights, tiny.BACKEND, head=head)
    parts = [place.run() for place in places]
    hashed: list[list[bytes]] = [[] for _ in places]
    hasher = ActivationHasher(len(prompt), 2 * config.hidden_size)
    tokens, sampler = list[int](), Sampler(settings, seed, 0, prompt, ())

    def step(given: Sequence[int], position: int) -> Tensor:
        states = embedding(given)
        for at, part in enumerate(parts):
            states = part(states, Rows(len(given), position, (3, 1, 2)))
            hashed[at] += row_hashes(tiny.BACKEND.to_host(states), len(given))
        hidden = head.hidden(states)
        hasher.append(tiny.BACKEND.to_host(hidden))
        return hidden

    step(prompt[:20], 0)
    hidden = step(prompt[20:], 20)
    while True:
        row = head.logits(hidden[-1:]).numpy()[0]
        tokens.append(sampler.sample(row, tokens).token)
        if len(tokens) == settings.max_tokens:
            return Run(tuple(tokens), hashed, hasher)
        hidden = step(tokens[-1:], len(prompt) + len(tokens) - 1)


@dataclass
class Told:
    """A chain's case, whose receipts are the head's and then the stages'."""

    case: Case
    members: tuple[Member, ...]
    bundles: tuple[bytes, ...]
    """The key bundles, the head's first."""

    def of(self, place: int) -> Case:
        """Return the case of one place's receipt."""
        member = self.members[place]
        return replace(self.case, receipt=member.receipt, order=member.order)


def bundle(place: Place, at: int) -> bytes:
    """Return the key bundle of the node at a place."""
    value, _ = open_as(KeyBundle, made.bundle(OPERATORS[at], model=H), None)
    layers = Layers(place.first, place.last) if at else None
    changed = replace(value, **{"layers": layers, **place.bundle})
    return sign(changed, key=made.key(OPERATORS[at]), issuer=OPERATORS[at])


def tell(places: Sequence[Place], *, count: int = 4, **final: Any) -> Told:
    """Have a chain answer, and return what the log and an auditor then have."""
    first, *bundles = [bundle(place, at) for at, place in enumerate(places)]
    key = generate_hpke_key().public_bytes
    stages = [ChainStage(entry_of(raw), key) for raw in bundles]
    settings = SamplingSettings(max_tokens=count)
    sealed = seal_request(
        RequestBody(settings, prompt=PROMPT.decode(), seed=H), tenant="acme", candidates=[Candidate(entry_of(first), key)],
        custodians=[key], threshold=1, model_root=H, max_output_tokens=64, policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=made.NOW + made.HOUR, stages=stages,
    )  # fmt: skip
    answered = run(places, tuple(PROMPT), settings, H)
    roots = [
        boundary_root(BoundarySecret.derive(sealed.ts, index), rows)
        for index, rows in enumerate(answered.rows)
    ]
    order = Order(
        tenant="acme", number=0, attempt=0, ctx=sealed.ctx, kc=sealed.kc, envelope=sealed.envelope_hash,
        bundle=entry_of(first), created=made.NOW - 5000, expiry=made.NOW + made.HOUR, max_output_tokens=64,
        max_input_tokens=2**20, rate_card=H,
    )  # fmt: skip
    signed = sign(order, key=made.key("acme"), issuer="acme")
    usage = Usage(len(PROMPT), 0, count, EnergyQuality.UNMEASURED)
    members = []
    for at, (place, raw) in enumerate(zip(places[1:], bundles, strict=True), start=1):
        part = replace(order, bundle=entry_of(raw), part=Part(entry_of(signed), at))
        part = replace(part, **place.order)
        own = sign(part, key=made.key("acme"), issuer="acme")
        chain = replace(Chain(at, sent=roots[at], received=roots[at - 1]), **place.chain)
        receipt = _receipt(part, entry_of(own), usage, chain)
        receipt = replace(receipt, h_final=stream_hash(_context(part), ()), **place.receipt)
        members.append(Member(_signed(receipt, at), own))
    head = _head(sealed, order, signed, usage, answered, members, places[0], roots, final)
    everybody = (Member(head.receipt, head.order), *members)
    whole = replace(head, chain=ChainCase(tuple(bundles), everybody))
    return Told(whole, everybody, (first, *bundles))


def _signed(receipt: Receipt, at: int) -> bytes:
    name = f"{OPERATORS[at]}/one"
    return sign(receipt, key=made.key(name), issuer=name)


def _context(order: Order) -> StreamContext:
    return StreamContext(ctx=order.ctx, kc=order.kc, bundle=order.bundle, node_nonce=H, attempt=0)


def _receipt(order: Order, entry: bytes, usage: Usage, chain: Chain) -> Receipt:
    return Receipt(
        order=entry, bundle=order.bundle, ctx=order.ctx, kc=order.kc, envelope=order.envelope, node_nonce=H,
        h_final=H, model_root=H, numeric_profile=made.PROFILE, usage=usage, finish=Finish.STOP,
        started=made.NOW - 1000, ended=made.NOW - 900,
        node_sequence=0, previous=bytes(32), rate_card=H, tenant="acme", number=0, attempt=0, chain=chain,
    )  # fmt: skip


def _head(
    sealed: SealedRequest, order: Order, signed: bytes, usage: Usage, answered: Run, stages: Sequence[Member],
    place: Place, roots: Sequence[bytes], final: dict[str, Any],
) -> Case:  # fmt: skip
    opened, told = open_with_secret(sealed.envelope_bytes, sealed.ts), answered.activations.finish()
    sealer, text = (
        FrameSealer(opened.keys, _context(order), opened.shape),
        FakeArithmetic.text(answered.tokens),
    )
    frame, _ = sealer.seal(answered.tokens, text, ())
    blocks = {"prompt_blocks": told.prompt_blocks, "output_blocks": told.output_blocks}
    evidence = seal_evidence(
        Evidence(tuple(PROMPT), answered.tokens, told.prompt_blocks, told.output_blocks, text), opened.keys, _context(order)
    )  # fmt: skip
    blinded = blinded_fields(
        opened.keys, body=opened.body, seed=H, input_tokens=tuple(PROMPT), output_tokens=answered.tokens, **blocks
    )  # fmt: skip
    listed = tuple(entry_of(member.receipt) for member in stages)
    chain = Chain(0, sent=roots[0], received=roots[-1], stages=listed)
    receipt = replace(
        _receipt(order, entry_of(signed), usage, replace(chain, **place.chain)), h_final=sealer.h_final,
        finish=Finish.LENGTH, settings=blinded.settings, activation_root=blinded.activation_root,
        input=blinded.input, output=blinded.output, evidence=sha256(evidence).digest(),
    )  # fmt: skip
    receipt = replace(receipt, **place.receipt)
    statement = _signed(receipt, 0)
    record = FinalRecord(
        answered.tokens, text, receipt.usage, receipt.finish, statement, evidence,
        tuple(member.receipt for member in stages),
    )  # fmt: skip
    last = sealer.seal_final(replace(record, **final))
    return Case(statement, signed, sealed.envelope_bytes, (frame,), last, sealed.ts)
