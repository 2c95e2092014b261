"""Writes the vectors of `docs/protocol.md` §1 to §4, §6 and §7.2 under `tests/vectors/protocol/`.

`python -m tests.vectors.generate_protocol` regenerates everything that is deterministic. What holds HPKE
ciphertexts is random by nature: those (`frozen` in envelope.json) are read from the file, opened, and kept;
`--freeze` makes fresh ones.
"""

import json
import sys
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from shared.codec.hashing import framing, hkdf_expand, hkdf_extract, labelled_hash, labelled_mac
from shared.envelope.blinded import blinded_fields
from shared.envelope.body import SMALLEST_BODY, Audit, AuditPolicy, encode_body, settings_bytes
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.header import Envelope
from shared.envelope.hpke import seal
from shared.envelope.padding import pad
from shared.envelope.release import ReleaseContext, open_release, seal_release
from shared.envelope.sealing import (
    Candidate,
    SealedRequest,
    open_escrow,
    open_request,
    seal_request,
)
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import Shape, frame_class
from shared.envelope.shares import share_commitments, split
from shared.envelope.stream import FinalRecord, FrameSealer, StreamContext, stream_signature_message
from shared.runtime.keys import public_bytes
from shared.selection import beacon, draw
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, sign, sign_statement
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import cancel_message
from shared.statements.receipts import EnergyQuality, Finish, Usage
from shared.statements.request import SamplingSettings, Slots
from shared.statements.resumption import resume_message, sign_resumption
from tests.vectors import arithmetic, attestation, chain, custody, disputes, identities, tags
from tests.vectors.files import FOLDER, Json, load, splice
from tests.vectors.growth import grown
from tests.vectors.samples import NOW, ORIGIN, SAMPLES, hpke_key, octets, signing_key
from tests.vectors.spoil import spoiled_receipt
from tests.vectors.spoil_envelope import BODY, CUSTODIANS, FULL_BODY, TS, spoiled_envelopes

CONTEXT = StreamContext(
    ctx=octets("ctx"), kc=TranscriptKeys.derive(TS, octets("ctx")).kc, bundle=octets("bundle"),
    node_nonce=octets("nonce"), attempt=2,
)  # fmt: skip


def primitives() -> Json:
    """Framing, hash, MAC and key derivation of §1."""
    prk = hkdf_extract(b"salt", octets("input key"))
    return {
        "parts": [b"".hex(), b"\x00\x01".hex(), octets("part").hex()],
        "framing": framing("example", b"", b"\x00\x01", octets("part")).hex(),
        "hash": labelled_hash("example", b"", b"\x00\x01", octets("part")).hex(),
        "mac_key": octets("mac key").hex(),
        "mac": labelled_mac(octets("mac key"), "example", b"", b"\x00\x01", octets("part")).hex(),
        "salt": b"salt".hex(),
        "input_key": octets("input key").hex(),
        "prk": prk.hex(),
        "expanded_42": hkdf_expand(prk, "example", 42, b"", b"\x00\x01", octets("part")).hex(),
    }


def statements() -> Json:
    """Every statement of §2, and every way of spoiling a receipt."""
    valid = {}
    for name, (value, signer, issuer) in SAMPLES.items():
        key = signing_key(signer)
        raw = sign(value, key=key, issuer=issuer)
        valid[name] = {
            "type": value.TYPE,
            "private_key": key.private_bytes_raw().hex(),
            "public_key": public_bytes(key).hex(),
            "issuer": issuer,
            "subject": value.subject,
            "payload": readable(value.to_payload()),
            "statement": raw.hex(),
            "entry": entry_of(raw).hex(),
            "leaf_hash": sha256(b"\x00" + entry_of(raw)).hexdigest(),
        }
    value, signer, issuer = SAMPLES["receipt"]
    key = signing_key(signer)
    raw = sign(value, key=key, issuer=issuer)
    spoiled = [
        {"name": name, "error": error, **splice(raw, data)}
        for name, data, error in spoiled_receipt(raw, key, issuer, value.subject)
    ]
    return {
        "valid": valid,
        "spoiled_receipt": spoiled,
        "growth": growth(),
        "cancellation": cancellation(),
        "resumption": resumption(),
    }


def cancellation() -> Json:
    """The cancellation of the sample order (§4.7)."""
    value, signer, issuer = SAMPLES["order"]
    key = signing_key(signer)
    order = entry_of(sign(value, key=key, issuer=issuer))
    return {
        "order": order.hex(),
        "public_key": public_bytes(key).hex(),
        "message": cancel_message(order).hex(),
        "signature": sign_cancellation(order, key).hex(),
    }


def resumption() -> Json:
    """The wish to have what follows the third frame of the response to the sample order (§4.9)."""
    value, signer, issuer = SAMPLES["order"]
    key, frames, at = signing_key(signer), 3, 1_767_225_600_000
    order = entry_of(sign(value, key=key, issuer=issuer))
    return {
        "order": order.hex(),
        "frames": frames,
        "at": at,
        "public_key": public_bytes(key).hex(),
        "message": resume_message(order, frames, at).hex(),
        "signature": sign_resumption(order, frames, at, key).hex(),
    }


def growth() -> list[Json]:
    """Orders as other versions would sign them, and what a verifier and an intake of this one make of each (§2.2)."""
    value, signer, issuer = SAMPLES["order"]
    key = signing_key(signer)
    return [
        {
            "name": name,
            "statement": sign_statement(
                value.TYPE, payload, key=key, issuer=issuer, subject=value.subject
            ).hex(),
            "verifier": verifier,
            "intake": intake,
        }
        for name, payload, verifier, intake in grown(value.to_payload())
    ]


def shares() -> Json:
    """Escrow shares of §3.1."""
    numbers = ((1, 1), (1, 3), (2, 3), (3, 5), (16, 16))
    return {
        "secret": TS.hex(),
        "splits": [
            {
                "threshold": k,
                "count": n,
                "shares": [share.hex() for share in split(TS, k, n)],
                "commitments": [commitment.hex() for commitment in share_commitments(TS, k, n)],
            }
            for k, n in numbers
        ],
    }


def secrets() -> Json:
    """Everything derived from a transcript secret (§3, §4), and the blinded fields (§4.5)."""
    keys = TranscriptKeys.derive(TS, CONTEXT.ctx)
    place = (CONTEXT.bundle, CONTEXT.node_nonce, CONTEXT.attempt)
    blocks = [octets(f"block {b}") for b in range(5)]
    fields = blinded_fields(
        keys,
        body=BODY,
        seed=keys.sampling_seed,
        input_tokens=(1, 2, 70_000),
        output_tokens=(5, 6),
        prompt_blocks=blocks[:2],
        output_blocks=blocks[2:],
    )
    return {
        "transcript_secret": TS.hex(),
        **context_json(),
        "prk": keys.prk.hex(),
        "kc": keys.kc.hex(),
        "request_key": keys.request_key.hex(),
        "request_nonce": keys.request_nonce.hex(),
        "response_secret": keys.response_secret.hex(),
        "response_key": keys.response_key(*place).hex(),
        "evidence_key": keys.evidence_key(*place).hex(),
        "sampling_seed": keys.sampling_seed.hex(),
        "blinded": {
            "settings_plain": readable(BODY.settings),
            "input_tokens": [1, 2, 70_000],
            "output_tokens": [5, 6],
            "prompt_blocks": [block.hex() for block in blocks[:2]],
            "output_blocks": [block.hex() for block in blocks[2:]],
            "settings": fields.settings.hex(),
            "input": fields.input.hex(),
            "output": fields.output.hex(),
            "activation_root": (fields.activation_root or b"").hex(),
        },
        "body": encode_body(BODY).hex(),
        "full_body": encode_body(FULL_BODY).hex(),
        "full_settings_blinded": keys.blind(
            "settings", settings_bytes(FULL_BODY, octets("seed"))
        ).hex(),
        "body_padded": pad(encode_body(BODY), SMALLEST_BODY).hex(),
        "policies": {
            audit.value: AuditPolicy(audit).commitment(octets("policy nonce")).hex()
            for audit in Audit
        },
    }


def stream() -> Json:
    """Frames, chain, signatures, evidence and final record of §4."""
    keys = TranscriptKeys.derive(TS, CONTEXT.ctx)
    node = signing_key("node")
    sealer = FrameSealer(keys, CONTEXT)
    frames = []
    for i, (tokens, text) in enumerate((((5,), "A"), ((6, 7), " stub"), ((), "")), start=1):
        ciphertext, h = sealer.seal(tokens, text)
        message = stream_signature_message(CONTEXT, i, h)
        frames.append(
            {
                "tokens": list(tokens),
                "text": text,
                "ciphertext": ciphertext.hex(),
                "h": h.hex(),
                "signature": node.sign(message).hex(),
            }
        )
    evidence = Evidence((1, 2, 3), (5, 6, 7), (octets("block 0"),), (octets("block 1"),), "A stub")
    sealed_evidence = seal_evidence(evidence, keys, CONTEXT)
    receipt, signer, issuer = SAMPLES["receipt"]
    record = FinalRecord(
        tokens=(5, 6, 7),
        text="A stub",
        usage=Usage(input=3, cached=0, output=3, energy_quality=EnergyQuality.UNMEASURED),
        finish=Finish.STOP,
        receipt=sign(receipt, key=signing_key(signer), issuer=issuer),
        evidence=sealed_evidence,
    )
    return {
        "transcript_secret": TS.hex(),
        **context_json(),
        "h_0": sealer.h0.hex(),
        "signature_message_0": stream_signature_message(CONTEXT, 0, sealer.h0).hex(),
        "signature_0": node.sign(stream_signature_message(CONTEXT, 0, sealer.h0)).hex(),
        "signing_key": public_bytes(node).hex(),
        "frames": frames,
        "h_final": sealer.h_final.hex(),
        "evidence": sealed_evidence.hex(),
        "final_record": sealer.seal_final(record).hex(),
        "with_logprobs": _frame_with_logprobs(keys),
        "in_slots": _in_slots(keys, record),
    }


def _in_slots(keys: TranscriptKeys, record: FinalRecord) -> Json:
    """An answer in time slots, under the same keys (§4.2.1): the text is spread, and a frame is empty."""
    slots, padded = Slots(50, 256), 512
    sealer = FrameSealer(keys, CONTEXT, Shape(slots, padded))
    frames = [
        sealer.seal(tokens, text)[0] for tokens, text in (((5,), "A"), ((6, 7), " st"), ((), "ub"))
    ]
    frames += [sealer.seal((), "")[0] for _ in range(frame_class(len(frames)) - len(frames))]
    return {
        "slots": {"ms": slots.ms, "size": slots.size},
        "padded": padded,
        "frames": [frame.hex() for frame in frames],
        "h_final": sealer.h_final.hex(),
        "final_record": sealer.seal_final(record).hex(),
    }


def _frame_with_logprobs(keys: TranscriptKeys) -> Json:
    """The first frame of another response under the same keys, for a request with logprobs = 2."""
    told = (
        TokenLogprobs(-105_361, (5, 9), (-105_361, -2_302_585)),
        TokenLogprobs(-(10**9), (1, 2), (0, -20_000_000)),
    )
    ciphertext, h = FrameSealer(keys, CONTEXT).seal((5, 6), "A st", told)
    return {
        "tokens": [5, 6],
        "text": "A st",
        "logprobs": [item.to_payload() for item in told],
        "ciphertext": ciphertext.hex(),
        "h": h.hex(),
    }


def selection() -> Json:
    """Beacon and sampling rule of §6.1."""
    parties = ("witness-1", "custodian-1")
    reveals = [beacon.reveal(octets(f"beacon of {party}"), ORIGIN, 3) for party in parties]
    root = octets("root")
    seed = draw.selection_seed(ORIGIN, 164, root, beacon.combine(reveals))
    entries = [octets(f"receipt {i}") for i in range(12)]
    return {
        "origin": ORIGIN,
        "epoch": 3,
        "parties": [
            {
                "party": party,
                "secret": octets(f"beacon of {party}").hex(),
                "reveal": value.hex(),
                "commitment": beacon.commitment(party, ORIGIN, 3, value).hex(),
            }
            for party, value in zip(parties, reveals, strict=True)
        ],
        "combined": beacon.combine(reveals).hex(),
        "size": 164,
        "root": root.hex(),
        "seed": seed.hex(),
        "rate_ppm": 500_000,
        "floor": 2,
        "entries": [
            {
                "entry": entry.hex(),
                "ticket": f"{draw.ticket(seed, entry):064x}",
                "by_rate": draw.drawn_by_rate(seed, entry, 500_000),
                "by_floor": entry in draw.floor_of(seed, entries, 2),
            }
            for entry in entries
        ],
        "node_hash": draw.node_hash(entries).hex(),
    }


def freeze() -> Json:
    """Make the random parts of the envelope vectors."""
    sealed = _sealed()
    share = split(TS, 2, len(CUSTODIANS))[1]
    context = _release_context(Envelope.from_bytes(sealed.envelope_bytes))
    release = seal_release(hpke_key("worker").public_bytes, context, 2, share)
    wrong_ts = seal(
        hpke_key("node").public_bytes,
        framing("wrap/node", octets("bundle"), sealed.ctx, sealed.kc),
        octets("another transcript secret"),
    )
    return {
        "envelope": sealed.envelope_bytes.hex(),
        "release": release.hex(),
        "wrap_of_another_secret": wrong_ts.hex(),
    }


def envelope(frozen: Mapping[str, str]) -> Json:
    """Envelope of §3 and share release of §6.2; everything but `frozen` follows from it."""
    raw = bytes.fromhex(frozen["envelope"])
    found = Envelope.from_bytes(raw)
    opened = open_request(
        raw, bundle_entry=octets("bundle"), hpke_private=hpke_key("node"), now_ms=NOW
    )
    assert (opened.body, opened.ts) == (BODY, TS), "the frozen envelope is of another request"
    for name in CUSTODIANS:
        key = hpke_key(name)
        open_escrow(raw, custodian_key_id=key.key_id, hpke_private=key)
    context = _release_context(found)
    index, share = open_release(
        hpke_key("worker"), context, found.header, bytes.fromhex(frozen["release"])
    )
    return {
        "frozen": dict(frozen),
        "transcript_secret": TS.hex(),
        "bundle": octets("bundle").hex(),
        "node_seed": hpke_key("node").seed.hex(),
        "node_public_key_id": hpke_key("node").key_id.hex(),
        "custodian_seeds": [hpke_key(name).seed.hex() for name in CUSTODIANS],
        "opened_at": NOW,
        "header": found.header.to_cbor().hex(),
        "ctx": opened.ctx.hex(),
        "kc": opened.kc.hex(),
        "envelope_hash": opened.envelope_hash.hex(),
        "body": encode_body(BODY).hex(),
        "release": {
            "request": context.request.hex(),
            "custodian": context.custodian.hex(),
            "worker_seed": hpke_key("worker").seed.hex(),
            "index": index,
            "share": share.hex(),
        },
        "spoiled": [
            {"name": name, "error": error, **splice(raw, data)}
            for name, data, error in spoiled_envelopes(
                raw, bytes.fromhex(frozen["wrap_of_another_secret"])
            )
        ],
    }


def _sealed() -> SealedRequest:
    return seal_request(
        BODY,
        tenant="acme",
        candidates=[Candidate(octets("bundle"), hpke_key("node").public_bytes)],
        custodians=[hpke_key(name).public_bytes for name in CUSTODIANS],
        threshold=2,
        model_root=octets("model"),
        max_output_tokens=64,
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=NOW + 60_000,
        request_id=octets("request id")[:16],
        ts=TS,
        policy_nonce=octets("policy nonce"),
    )


def _release_context(found: Envelope) -> ReleaseContext:
    return ReleaseContext(
        octets("disclosure request"), hpke_key(CUSTODIANS[1]).key_id, found.header.ctx, found.kc
    )


def context_json() -> Json:
    """Return the stream context of the vectors."""
    return {
        "ctx": CONTEXT.ctx.hex(),
        "bundle": CONTEXT.bundle.hex(),
        "node_nonce": CONTEXT.node_nonce.hex(),
        "attempt": CONTEXT.attempt,
    }


def readable(value: Any) -> Any:
    """Return a value for people: byte strings as h'…' like CBOR's diagnostic notation."""
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else readable(k): readable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    if isinstance(value, SamplingSettings):
        names = ("max_tokens", "temperature_ppm", "top_k", "top_p_ppm", "stop")
        return {name: readable(getattr(value, name)) for name in names}
    return value


def files(frozen: Mapping[str, str]) -> dict[str, str]:
    """Return every vector file's text by its name."""
    contents = {
        "primitives": primitives(),
        "statements": statements(),
        "shares": shares(),
        "secrets": secrets(),
        "stream": stream(),
        "selection": selection(),
        "envelope": envelope(frozen),
        "arithmetic": arithmetic.vectors(),
        "custody": custody.vectors(frozen),
        "tags": tags.vectors(),
        "identities": identities.vectors(),
        "attestation": attestation.vectors(),
        "chain": chain.vectors(),
        "disputes": disputes.vectors(),
    }
    return {
        f"{name}.json": json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        for name, content in contents.items()
    }


def main(arguments: list[str]) -> None:
    """Write all files."""
    frozen = freeze() if "--freeze" in arguments else load("envelope")["frozen"]
    FOLDER.mkdir(exist_ok=True)
    for name, text in files(frozen).items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
