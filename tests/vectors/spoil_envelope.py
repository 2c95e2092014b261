"""The request that the envelope vectors seal, and ways of spoiling its envelope."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.envelope.body import SMALLEST_BODY, encode_body
from shared.envelope.header import Envelope
from shared.envelope.padding import pad
from shared.envelope.secrets import TranscriptKeys
from shared.statements.request import Message, RequestBody, SamplingSettings, Slots
from tests.vectors.samples import NOW, octets

BODY = RequestBody(
    settings=SamplingSettings(
        max_tokens=64, temperature_ppm=700_000, top_k=40, top_p_ppm=950_000, stop=("\n\n", "末")
    ),
    messages=(Message("system", "Answer briefly."), Message("user", "What is a counterfoil? 🎟")),
)
FULL_BODY = RequestBody(
    settings=SamplingSettings(
        max_tokens=64,
        temperature_ppm=700_000,
        min_p_ppm=50_000,
        repetition_penalty_ppm=1_100_000,
        presence_penalty_ppm=-250_000,
        frequency_penalty_ppm=500_000,
        stop_token_ids=(7, 70_000),
        logprobs=3,
    ),
    prompt="Once",
    seed=octets("seed"),
    choice=2,
    prefix=(5, 6, 70_000),
    slots=Slots(50, 1024),
)
"""Every setting that may be absent, a choice, a prefix and time slots; no envelope of the vectors holds it."""
TS = octets("transcript secret")
CUSTODIANS = ("custodian 1", "custodian 2", "custodian 3")


def spoiled_envelopes(raw: bytes, other_wrap: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Yield what a node must refuse: (name, bytes, error code)."""
    good = Envelope.from_bytes(raw)
    keys = TranscriptKeys.derive(TS, good.header.ctx)

    def wire(**members: Value) -> bytes:
        return cbor.encode({**good.to_payload(), **members})

    def header(**members: Any) -> bytes:
        return wire(header=cbor.encode({**good.header.to_payload(), **members}))

    def body(plaintext: bytes) -> bytes:
        sealed = AESGCM(keys.request_key).encrypt(
            keys.request_nonce, plaintext, good.header.ctx + good.kc
        )
        return wire(body=sealed)

    padded = good.header.padded
    yield "truncated", raw[:-1], "MALFORMED"
    yield "trailing byte", raw + b"\x00", "MALFORMED"
    yield "unknown member", wire(extra=1), "MALFORMED"
    yield "header is a map", wire(header=good.header.to_payload()), "MALFORMED"
    yield "header version 2", header(v=2), "MALFORMED"
    yield "unknown suite", header(suite=2), "MALFORMED"
    yield "no candidate", header(candidates=[]), "MALFORMED"
    yield "candidate twice", header(candidates=[octets("bundle")] * 2), "MALFORMED"
    yield "threshold above the shares", header(threshold=4), "MALFORMED"
    yield "threshold zero", header(threshold=0), "MALFORMED"
    yield "zero token budget", header(max_output_tokens=0), "MALFORMED"
    yield "huge token budget", header(max_output_tokens=2**20 + 1), "MALFORMED"
    yield "size between classes", header(padded=padded + 1), "MALFORMED"
    yield "fewer wraps than candidates", wire(wraps=[]), "MALFORMED"
    yield "fewer escrow wraps than custodians", wire(escrow=list(good.escrow[:2])), "MALFORMED"
    yield "body shorter than its class", wire(body=good.body[:-1]), "MALFORMED"
    yield "expired", header(expiry=NOW), "EXPIRED"
    yield "sealed for another bundle", header(candidates=[octets("other bundle")]), "STALE_KEY"
    yield "changed header", header(tenant="acme2"), "UNREADABLE"
    yield "changed wrap", wire(wraps=[_flip(good.wraps[0])]), "UNREADABLE"
    yield "wrap of a custodian", wire(wraps=[good.escrow[0][: len(good.wraps[0])]]), "UNREADABLE"
    yield "wrap of another secret", wire(wraps=[other_wrap]), "UNREADABLE"
    yield "changed key commitment", wire(kc=octets("kc")), "UNREADABLE"
    yield "changed share commitment", header(shares=[octets("s")] * 3), "UNREADABLE"
    yield "changed body", wire(body=_flip(good.body)), "UNREADABLE"
    yield "body without padding", body(bytes(padded)), "UNREADABLE"
    yield "body padded too far", body(b"\xa0\x80" + bytes(padded - 2)), "UNREADABLE"
    yield "body that is no CBOR", body(b"\xff" * (padded - 1) + b"\x80"), "UNREADABLE"
    yield "body over the token budget", body(_over_budget(padded)), "UNREADABLE"


def _over_budget(padded: int) -> bytes:
    settings = replace(BODY.settings, max_tokens=65)
    plaintext = pad(encode_body(replace(BODY, settings=settings)), SMALLEST_BODY)
    assert len(plaintext) == padded
    return plaintext


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
