"""One sealed inference made by hand, for tests of those who must judge it. No node, no model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.replay.case import Case
from audit_layer.replay.hearing import Replayed
from shared.commitments.exact import Activations
from shared.envelope.blinded import blinded_fields
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import Candidate, open_with_secret, seal_request
from shared.envelope.shape import Shape
from shared.envelope.stream import FinalRecord, FrameSealer, StreamContext
from shared.model.sampler import Sampler
from shared.statements.cose import sign
from shared.statements.orders import Order
from shared.statements.receipts import EnergyQuality, Finish, Receipt, Usage
from shared.statements.request import RequestBody, SamplingSettings, Slots

H = bytes(range(32))
PROFILE = b"\x07" * 32
EOS = 0


def cut(tokens, delivered):
    """Return the prompt's own tokens, and those of the prefix."""
    own = len(tokens) - delivered
    return tokens[:own], tokens[own:]


class FakeArithmetic:
    """A double of the auditor's model: tokens and states are hashes of what came before."""

    profile, layers = PROFILE, 2

    def __init__(self):
        self.passes = 0

    def tokenise(self, body):
        return (*(body.prompt or "").encode(), *body.prefix)

    def check(self, prompt, output):
        """Refuse nothing."""

    def replay(self, prompt, output, settings, seed, choice, delivered=0, cuts=()):
        self.passes += 1
        own, prefix = cut(prompt, delivered)
        chosen = tuple(self.choose(own, (*prefix, *output[:n]), seed) for n in range(len(output)))
        return Replayed(self.activations(prompt, output), chosen)

    def says(self, frames, settings, prefix=(), *, ended):
        return all(text == self.text(tokens) for tokens, text in frames)

    def stops_at(self, output, settings, prefix=()):
        return output.index(EOS) + 1 if EOS in output else None

    def frame_texts(self, frames, settings, prefix=()):
        return [self.text(tokens) for tokens in frames]

    @staticmethod
    def text(tokens):
        return "".join(chr(97 + token % 26) for token in tokens if token != EOS)

    @staticmethod
    def choose(prompt, so_far, seed):
        return 1 + sha256(bytes(prompt) + b"|" + bytes(so_far) + seed).digest()[0] % 100

    @staticmethod
    def activations(prompt, output):
        """Return blocks as long prompts and answers have them: each follows from all tokens up to its end."""
        ends = range(32, len(prompt) + 31, 32)
        blocks = tuple(sha256(b"p" + bytes(prompt[:end])).digest() for end in ends)
        if not output:
            return Activations(blocks, ())
        whole = bytes(prompt) + b"|"
        ends = range(32, len(output) + 32, 32)
        return Activations(
            blocks, tuple(sha256(b"o" + whole + bytes(output[:end])).digest() for end in ends)
        )

    def generate(self, prompt, count, seed, delivered=0):
        own, prefix = cut(prompt, delivered)
        output = []
        while len(output) < count:
            output.append(self.choose(own, (*prefix, *output), seed))
        return tuple(output)


class SamplingArithmetic(FakeArithmetic):
    """A double with logits of its own making, under the real sampler."""

    def logits(self, prompt, so_far):
        """Return a row of 24 values that depends on everything before."""
        data = sha256(repr((*prompt, *so_far)).encode()).digest()[:24]
        return np.frombuffer(data, dtype=np.uint8).astype(np.float32) / 64

    def tokenise(self, body):
        return (*(byte % 24 for byte in (body.prompt or "").encode()), *body.prefix)

    def replay(self, prompt, output, settings, seed, choice, delivered=0, cuts=()):
        sampler = Sampler(settings, seed, choice, *cut(prompt, delivered))
        rows = [(self.logits(prompt, output[:n]), output[:n]) for n in range(len(output))]
        sampled = [sampler.sample(row, so_far) for row, so_far in rows]
        return Replayed(
            self.activations(prompt, output),
            tuple(item.token for item in sampled),
            tuple(told for item in sampled for told in item.logprobs),
        )

    def stops_at(self, output, settings, prefix=()):
        ends = [n for n, token in enumerate(output, 1) if token in settings.stop_token_ids]
        return min(ends, default=None)

    def serve(self, prompt, settings, seed, choice=0, delivered=0):
        """Return what a node delivers under some settings: (tokens, logprobs)."""
        output = []
        sampler = Sampler(settings, seed, choice, *cut(prompt, delivered))
        told = []
        while len(output) < settings.max_tokens:
            sampled = sampler.sample(self.logits(prompt, output), output)
            output.append(sampled.token)
            told += sampled.logprobs
            if sampled.token in settings.stop_token_ids:
                break
        return tuple(output), tuple(told)


@dataclass
class Story:
    """What the node of a test did; every field can be changed to make it lie."""

    max_tokens: int = 6
    finish: Finish = Finish.LENGTH
    tokens: tuple[int, ...] | None = None
    activations: Activations | None = None
    usage: dict | None = None
    receipt_changes: dict | None = None
    frames_lie: bool = False
    text: Callable[[str], str] = str
    """What the node makes of the text of each frame."""
    added: tuple[str, ...] = ()
    """The text of frames without tokens, which the node sends after all others."""
    final_text: str | None = None
    evidence_text: str | None = None
    final_changes: dict | None = None
    evidence_tokens: tuple[int, ...] | None = None
    profile: bytes = PROFILE
    settings: SamplingSettings | None = None
    choice: int = 0
    seed: bytes | None = None
    prefix: tuple[int, ...] = ()
    slots: Slots | None = None
    shape: Shape | None = None
    """How the node pads its records, if in another way than was requested."""
    treated: RequestBody | None = None
    """What the node takes the request for, if for another one than the sealed one."""
    logprobs: tuple = ()
    order_changes: dict | None = None
    header_model: bytes = H
    """The model that the request asks for; the receipt names H."""


def make_case(story: Story | None = None, *, prompt: str = "hello", arithmetic=None) -> Case:
    """Run the story and return the case that an auditor would hold."""
    story = story or Story()
    arithmetic = arithmetic or FakeArithmetic()
    node, custodian = generate_hpke_key(), generate_hpke_key()
    settings = story.settings or SamplingSettings(max_tokens=story.max_tokens)
    sealed = seal_request(
        RequestBody(
            settings,
            prompt=prompt,
            seed=story.seed,
            choice=story.choice,
            prefix=story.prefix,
            slots=story.slots,
        ),
        tenant="acme",
        candidates=[Candidate(H, node.public_bytes)],
        custodians=[custodian.public_bytes],
        threshold=1,
        model_root=story.header_model,
        max_output_tokens=max(64, settings.max_tokens),
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=10**12,
    )
    opened = open_with_secret(sealed.envelope_bytes, sealed.ts)
    keys, seed = opened.keys, story.seed or opened.keys.sampling_seed
    taken = story.treated or opened.body
    inputs = arithmetic.tokenise(taken)
    tokens = (
        story.tokens
        if story.tokens is not None
        else arithmetic.generate(inputs, story.max_tokens, seed, len(taken.prefix))
    )
    context = StreamContext(ctx=sealed.ctx, kc=sealed.kc, bundle=H, node_nonce=H, attempt=0)
    sealer = FrameSealer(keys, context, story.shape or opened.shape)
    sent = tuple(reversed(tokens)) if story.frames_lie else tokens
    parts = [sent[i : i + 2] for i in range(0, len(sent), 2)]
    texts = [story.text(text) for text in arithmetic.frame_texts(parts, settings)]
    frames = tuple(
        sealer.seal(part, text, story.logprobs[2 * i : 2 * i + 2])[0]
        for i, (part, text) in enumerate(zip(parts, texts, strict=True))
    )
    frames += tuple(sealer.seal((), added)[0] for added in story.added)
    text = "".join(texts) if story.final_text is None else story.final_text
    kept = text if story.evidence_text is None else story.evidence_text
    activations = story.activations or arithmetic.activations(inputs, tokens)
    claimed = story.evidence_tokens or tokens
    evidence = seal_evidence(
        Evidence(inputs, claimed, activations.prompt_blocks, activations.output_blocks, kept),
        keys,
        context,
    )
    blinded = blinded_fields(
        keys, body=taken, seed=seed, input_tokens=inputs, output_tokens=claimed,
        prompt_blocks=activations.prompt_blocks, output_blocks=activations.output_blocks,
    )  # fmt: skip
    usage = {"input": len(inputs), "cached": 0, "output": len(tokens), **(story.usage or {})}
    receipt = Receipt(
        order=H, bundle=H, ctx=sealed.ctx, kc=sealed.kc, envelope=sealed.envelope_hash,
        node_nonce=H, h_final=sealer.h_final, model_root=H, numeric_profile=story.profile,
        usage=Usage(**usage, energy_quality=EnergyQuality.UNMEASURED), finish=story.finish,
        started=1, ended=2, node_sequence=0, previous=bytes(32), rate_card=H, tenant="acme",
        number=0, attempt=0, settings=blinded.settings, activation_root=blinded.activation_root,
        input=blinded.input, output=blinded.output, evidence=sha256(evidence).digest(),
    )  # fmt: skip
    receipt = replace(receipt, **(story.receipt_changes or {}))
    statement = sign(receipt, key=Ed25519PrivateKey.from_private_bytes(H), issuer="op")
    record = FinalRecord(sent, text, receipt.usage, receipt.finish, statement, evidence)
    final = sealer.seal_final(replace(record, **(story.final_changes or {})))
    most = 64 if story.settings is None else max(64, story.settings.max_tokens)
    order = Order(
        tenant="acme", number=0, attempt=0, ctx=sealed.ctx, kc=sealed.kc, envelope=sealed.envelope_hash, bundle=H,
        created=1, expiry=10**12, max_output_tokens=most, max_input_tokens=2**20, rate_card=H,
    )  # fmt: skip
    order = replace(order, **(story.order_changes or {}))
    ordered = sign(order, key=Ed25519PrivateKey.from_private_bytes(H), issuer="acme")
    return Case(statement, ordered, sealed.envelope_bytes, frames, final, sealed.ts)
