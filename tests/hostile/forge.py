"""Builds cases that a client and a node who lie together could bring before the judge, with every hash, seal and signature right.

The honest story is built anew from whatever the lies before it left, so a lie reaches the code behind the check that it would
otherwise stop at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_layer.replay.case import Case
from shared.codec import cbor
from shared.codec.hashing import labelled_hash
from shared.commitments.exact import Activations
from shared.envelope.blinded import blinded_fields
from shared.envelope.body import SMALLEST_BODY, encode_body
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.header import ESCROW_BYTES, WRAP_BYTES, Header, envelope_hash
from shared.envelope.padding import pad
from shared.envelope.sealing import OpenedRequest, open_with_secret
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import MAX_FINAL, MAX_FRAME
from shared.envelope.shares import share_commitments
from shared.envelope.stream import (
    FinalRecord,
    FrameSealer,
    StreamContext,
)
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import sign_statement
from shared.statements.orders import Order
from shared.statements.receipts import EnergyQuality, Finish, Receipt, Usage
from shared.statements.request import RequestBody, SamplingSettings
from tests.hostile.mutation import Chooser, mutated, mutated_bytes, pick

H = bytes(range(32))
SECRET = sha256(b"secret").digest()
KEY = Ed25519PrivateKey.from_private_bytes(H)
ENCODED = ("body", "header", "envelope", "frame", "frames", "final", "evidence", "receipt", "order")
"""Where a lie is in one place only."""
CONSISTENT = ("tokens", "texts", "blocks", "usage", "finish")
"""Where everything that follows repeats it."""
LAYERS = (*ENCODED, *CONSISTENT)


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes in a record's place: what its encoding would be."""

    data: bytes

    def to_cbor(self) -> bytes:
        """Return them."""
        return self.data


@dataclass(frozen=True, slots=True)
class Node:
    """An honest node over the auditor's arithmetic: it generates what will be replayed."""

    arithmetic: Any
    profile: bytes
    model: bytes

    def answer(self, opened: OpenedRequest) -> tuple[tuple[int, ...], tuple[int, ...], list[str]]:
        """Return the prompt's tokens, the answer's tokens, and the text of each frame of two tokens."""
        body = opened.body
        seed = body.seed or opened.keys.sampling_seed
        prompt = self.arithmetic.tokenise(body)
        count = min(body.settings.max_tokens, 6)
        tokens = self.arithmetic.generate(prompt, count, seed, len(body.prefix))
        frames = [tokens[i : i + 2] for i in range(0, len(tokens), 2)]
        texts = self.arithmetic.frame_texts(frames, body.settings, body.prefix)
        return prompt, tokens, list(texts)


PREFIX = (70, 71, 71)
"""Tokens of earlier attempts, from which the forged answers go on."""


class Forger:
    """Makes cases; `liars` are the layers at which one lies."""

    def __init__(self, node: Node, *, prompt: str = "hello") -> None:
        self.node = node
        self._body = RequestBody(
            SamplingSettings(max_tokens=6), prompt=prompt, seed=H, prefix=PREFIX
        )

    def honest(self) -> Case:
        """Return the case without any lie."""
        return self.forged(None, ())

    def lying(self, chooser: Chooser) -> tuple[Case, tuple[str, ...]]:
        """Return a case with one to three lies, and where they are."""
        liars = tuple(pick(chooser, LAYERS) for _ in range(chooser.integer(1, 3)))
        return self.forged(chooser, liars), liars

    def forged(self, chooser: Chooser | None, liars: Sequence[str]) -> Case:
        """Build a case from the inside out, lying where asked."""

        def told(layer: str, value: Any) -> bytes:
            """Encode a value, with a lie in it if somebody lies at this layer."""
            for liar in liars:
                if liar == layer:
                    assert chooser is not None
                    if not chooser.integer(0, 15):
                        return mutated_bytes(_encoded(value), chooser)
                    value = mutated(value, chooser)
            return _encoded(value)

        def lied(layer: str, items: Sequence[Any], kind: type) -> tuple[Any, ...]:
            """Return a list with a lie in it, of which only items of its own kind are left."""
            for liar in liars:
                if liar == layer:
                    assert chooser is not None
                    found = mutated(list(items), chooser)
                    items = found if isinstance(found, list) else []
            return tuple(item for item in items if type(item) is kind)

        envelope, ctx, kc = self._envelope(told)
        opened = _opened(envelope)
        keys = TranscriptKeys.derive(SECRET, ctx)
        prompt, tokens, texts = self._answer(opened)
        tokens = tuple(token % 2**32 for token in lied("tokens", tokens, int))
        texts = list(lied("texts", texts, str))
        context = StreamContext(ctx=ctx, kc=kc, bundle=H, node_nonce=H, attempt=0)
        sealer = FrameSealer(keys, context)
        frames = tuple(
            _seal_frame(sealer, told("frame" if number == 1 else "frames", frame))
            for number, frame in enumerate(_frames(tokens, texts))
        )
        settings = self._body.settings if opened is None else opened.body.settings
        seed = self._seed(opened, keys)
        known = tuple(token % 250 for token in tokens)
        blocks = self.node.arithmetic.activations(prompt, known)
        hashes = tuple(
            lied("blocks", side, bytes) for side in (blocks.prompt_blocks, blocks.output_blocks)
        )
        blocks = Activations(*(tuple(item for item in side if len(item) == 32) for side in hashes))
        text = "".join(texts)
        evidence = Evidence(prompt, tokens, blocks.prompt_blocks, blocks.output_blocks, text)
        sealed = seal_evidence(Raw(told("evidence", evidence.to_payload())), keys, context)  # type: ignore[arg-type]  # its bytes
        blinded = blinded_fields(
            keys,
            body=self._body if opened is None else opened.body,
            seed=seed,
            input_tokens=prompt,
            output_tokens=tokens,
            prompt_blocks=blocks.prompt_blocks,
            output_blocks=blocks.output_blocks,
        )
        counts = lied("usage", [len(prompt), 0, len(tokens), 0], int)
        usage = _usage([abs(count) % 2**63 for count in counts])
        finish = Finish.LENGTH if len(tokens) == settings.max_tokens else Finish.CANCELLED
        if "finish" in liars:
            assert chooser is not None
            finish = pick(chooser, list(Finish))
        shared: dict[str, Any] = {
            "bundle": H,
            "ctx": ctx,
            "kc": kc,
            "rate_card": H,
            "tenant": "acme",
        }
        shared |= {"number": 0, "attempt": 0, "envelope": envelope_hash(envelope)}
        order = Order(
            **shared, created=1, expiry=10**12, max_output_tokens=64, max_input_tokens=2**20
        )
        ordered = self._signed(Order.TYPE, told("order", order.to_payload()), order.subject)
        receipt = Receipt(
            **shared,
            order=H,
            node_nonce=H,
            h_final=sealer.h_final,
            model_root=self.node.model,
            numeric_profile=self.node.profile,
            usage=usage,
            finish=finish,
            started=1,
            ended=2,
            node_sequence=0,
            previous=bytes(32),
            settings=blinded.settings,
            activation_root=blinded.activation_root,
            input=blinded.input,
            output=blinded.output,
            evidence=sha256(sealed).digest(),
            cancel=bytes(64) if finish is Finish.CANCELLED else None,
        )
        statement = self._signed(
            Receipt.TYPE, told("receipt", receipt.to_payload()), receipt.subject
        )
        record = FinalRecord(tokens, text, usage, finish, statement, sealed)
        final = sealer._seal(1, Raw(told("final", record.to_payload())), MAX_FINAL)  # type: ignore[arg-type]  # its bytes
        return Case(statement, ordered, envelope, frames, final, SECRET)

    def _envelope(self, told: Any) -> tuple[bytes, bytes, bytes]:
        """Return envelope, ctx and kc; commitments and padding follow the lies."""
        plaintext = pad(told("body", cbor.decode(encode_body(self._body))), SMALLEST_BODY)
        header = Header(
            request=H[:16],
            tenant="acme",
            candidates=(H,),
            model_root=self.node.model,
            max_output_tokens=64,
            policy=H,
            threshold=1,
            shares=share_commitments(SECRET, 1, 1),
            custodians=(H,),
            expiry=10**12,
            padded=len(plaintext),
        )
        header_bytes = told("header", header.to_payload())
        ctx = labelled_hash("ctx", header_bytes)
        keys = TranscriptKeys.derive(SECRET, ctx)
        body = AESGCM(keys.request_key).encrypt(keys.request_nonce, plaintext, ctx + keys.kc)
        whole = {
            "header": header_bytes,
            "kc": keys.kc,
            "wraps": [bytes(WRAP_BYTES)],
            "escrow": [bytes(ESCROW_BYTES)],
        }
        return told("envelope", {**whole, "body": body}), ctx, keys.kc

    def _answer(
        self, opened: OpenedRequest | None
    ) -> tuple[tuple[int, ...], tuple[int, ...], list[str]]:
        """Return an honest answer to what was asked; where nobody can read it, to something else."""
        if opened is not None:
            try:
                return self.node.answer(opened)
            except CounterfoilError:
                pass
        return (1, 2, 3), (4, 5), ["ab"]

    def _seed(self, opened: OpenedRequest | None, keys: TranscriptKeys) -> bytes:
        return keys.sampling_seed if opened is None else opened.body.seed or keys.sampling_seed

    def _signed(self, kind: str, payload: bytes, subject: str) -> bytes:
        try:
            value = cbor.decode(payload)
        except CounterfoilError:
            value = {}
        return sign_statement(
            kind, value if isinstance(value, dict) else {}, key=KEY, issuer="acme", subject=subject
        )


def _usage(counts: Sequence[int]) -> Usage:
    """Return a usage of these counts, as far as a usage may have them."""
    given = (*counts, 0, 0, 0, 0)[:4]
    return Usage(
        input=given[0],
        cached=min(given[1], given[0]),
        output=given[2],
        compute_ms=given[3],
        energy_quality=EnergyQuality.UNMEASURED,
    )


def _frames(tokens: Sequence[int], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"tokens": list(tokens[2 * at : 2 * at + 2]), "text": text} for at, text in enumerate(texts)
    ]


def _seal_frame(sealer: FrameSealer, data: bytes) -> bytes:
    ciphertext = sealer._seal(0, Raw(data), MAX_FRAME)  # type: ignore[arg-type]  # its bytes
    sealer._advance(ciphertext)
    return ciphertext


def _opened(envelope: bytes) -> OpenedRequest | None:
    try:
        return open_with_secret(envelope, SECRET)
    except CounterfoilError:
        return None


def _encoded(value: Any) -> bytes:
    """Return the canonical encoding; what has none becomes something that nobody expects."""
    try:
        return cbor.encode(value)
    except (CounterfoilError, TypeError, ValueError):
        return b"\xf6"
