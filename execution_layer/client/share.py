"""Sharing one answer: a file that opens one request to whoever holds it, and that can be verified offline (docs/bundle.md §7).

Everything that the client checked is checked again by the receiver, from bytes: that the transcript secret is the one to which
the order commits, the envelope, every frame in its place in the chain, the blinded fields, the receipt and its place in the log.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from execution_layer.client.archive import Archive, Transcript
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.reading import Texts
from execution_layer.client.response_check import (
    STEPS,
    Response,
    Said,
    Sent,
    StreamReader,
    run_steps,
)
from execution_layer.client.verify import export
from shared.codec.hashing import framing
from shared.codec.moment import now_ms
from shared.codec.strict_json import strict_json
from shared.envelope.body import settings_map
from shared.envelope.header import envelope_hash
from shared.envelope.hpke import Opener, hpke_key_id, open_sealed, seal
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.statements.cose import detach, entry_of
from shared.statements.receipts import Finish, Receipt
from shared.translog.notes import decode_base64, encode_base64
from shared.verification.bundle import Bundle, bundle_of
from shared.verification.bundle_check import (
    Report,
    key_bundle_of,
    ordered,
    receipt_of,
    verify_bundle,
)
from shared.verification.steps import Verification
from shared.verification.trust import Trust

FORMAT: Final = "counterfoil-share/v1"
SEALED: Final = "counterfoil-sealed-share/v1"
MAX_SHARE: Final = 96 * 2**20
MAX_FRAMES: Final = 2**20 + 1
ENDS: Final = {
    Finish.STOP: "the whole answer",
    Finish.LENGTH: "the answer up to the number of tokens that was asked for",
    Finish.CANCELLED: "only the beginning: its tenant cancelled it",
    Finish.DEADLINE: "only the beginning: its time was over",
    Finish.FAILED: "only the beginning: the node failed",
}
LEARNS: Final = (
    "Whoever holds the file reads this one request: prompt and messages, settings and seed, the answer, and the node's evidence"
    " (hashes of its activations). It names your tenant, the request's number, node, price list, usage and times. It opens no"
    " other request, and it cannot be taken back."
)


@dataclass(frozen=True, slots=True, repr=False)
class Share:
    """A parsed file; nothing in it has been verified."""

    bundle: Bundle
    secret: bytes
    envelope: bytes
    node_nonce: bytes
    accepted_signature: bytes
    frames: tuple[tuple[bytes, bytes], ...]
    """(ciphertext, signature) in order."""
    final_record: bytes
    final_signature: bytes

    def encode(self) -> bytes:
        """Return the file's bytes."""
        values = {
            "format": FORMAT,
            "bundle": self.bundle.members(),
            **{name: encode_base64(getattr(self, name)) for name in _OCTETS},
            "frames": [[encode_base64(part) for part in frame] for frame in self.frames],
        }
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


_OCTETS: Final = (
    *("secret", "envelope", "node_nonce", "accepted_signature", "final_record", "final_signature"),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified share."""

    report: Report
    shown: dict[str, Any] | None
    """The request and its answer; None unless every step holds."""


def share_of(archive: Archive, transcript: Transcript, policy: ClientPolicy) -> Share:
    """Return what opens one answer; the errors of `export`, and NOT_FOUND without a complete response."""
    bundle = export(archive, transcript, policy)
    if transcript.node_nonce is None or transcript.final_record is None:
        raise CounterfoilError(Code.NOT_FOUND, "the archive has no complete response to share")
    return Share(
        bundle=bundle,
        secret=transcript.secret,
        envelope=transcript.envelope,
        node_nonce=transcript.node_nonce,
        accepted_signature=transcript.accepted_signature or b"",
        frames=tuple(zip(transcript.frames, transcript.signatures, strict=True)),
        final_record=transcript.final_record,
        final_signature=transcript.final_signature or b"",
    )


def seal_share(data: bytes, recipient: bytes) -> bytes:
    """Return a file that only the holder of a recipient's key opens; MALFORMED if the key is none."""
    key_id = hpke_key_id(recipient)
    sealed = seal(recipient, framing("shared-answer", key_id), data)
    values = {"format": SEALED, "recipient": key_id.hex(), "sealed": encode_base64(sealed)}
    return json.dumps(values, indent=2).encode() + b"\n"


def is_share(data: bytes) -> bool:
    """Return whether a file says that it is a share, sealed or not, and is to be read as one."""
    head = data[:128]
    return any(f'"{name}"'.encode() in head for name in (FORMAT, SEALED))


def read_share(path: Path, key: Opener | None) -> Share:
    """Read and parse a file, with the recipient's key if it is sealed; NOT_FOUND, MALFORMED or UNREADABLE."""
    return parse_share(read_bounded(path, MAX_SHARE, code=Code.NOT_FOUND), key)


def parse_share(data: bytes, key: Opener | None = None) -> Share:
    """Parse a file's bytes strictly; MALFORMED, or UNREADABLE if it is sealed to somebody else."""
    values = _members(
        data, {SEALED: {"recipient", "sealed"}, FORMAT: {"bundle", "frames", *_OCTETS}}
    )
    if values["format"] == SEALED:
        if key is None:
            raise CounterfoilError(
                Code.UNREADABLE,
                "the share is sealed to a recipient",
                remedy="Give the key of `counterfoil client recipient-key` with --recipient-key FILE.",
            )
        opened = open_sealed(key, framing("shared-answer", key.key_id), _octets(values["sealed"]))
        values = _members(opened, {FORMAT: {"bundle", "frames", *_OCTETS}})
    frames = values["frames"]
    if not isinstance(frames, list) or len(frames) > MAX_FRAMES:
        raise _malformed("has no list of frames")
    if not all(isinstance(frame, list) and len(frame) == 2 for frame in frames):
        raise _malformed("has a frame that is not a ciphertext and a signature")
    bundle = bundle_of(values["bundle"])
    if bundle.context is None:
        raise _malformed("is not about a receipt")
    return Share(
        bundle=bundle,
        **{name: _octets(values[name]) for name in _OCTETS},
        frames=tuple((_octets(one), _octets(other)) for one, other in frames),
    )


def verify_share(share: Share, trust: Trust, texts: Texts | None = None) -> Opened:
    """Check everything that a share claims, offline; `texts` are the receiver's own tokenizers, if there are any."""
    report = verify_bundle(share.bundle, trust)
    run = Verification(report.steps)
    sent: Sent = run.step(
        "the secret is the one that the order commits to (kc), and opens the envelope that was ordered",
        lambda: _sent(share, trust),
    )
    text = texts.of(sent.opened.header.model_root) if run.holds and texts is not None else None
    said = None if text is None else text.said(sent.opened.body)
    response: Response = run.step(
        "every frame opens in order under its AAD and is signed",
        lambda: _response(share, sent, None if said is None else said()),
    )
    if response is not None:
        checks = run_steps(response, now_ms())
        for title in STEPS:
            run.step(title, lambda: next(checks))
        run.step(
            "the answer carries the receipt that is in the log",
            lambda: _same_receipt(share, response),
        )
    word = (
        ["The text is the node's word for its tokens: no tokenizer was at hand to check it."]
        if text is None
        else []
    )
    facts = report.facts if run.holds else {}
    rests_on = [*report.rests_on, *(word if run.holds else [])]
    opened = Report(run.steps, rests_on, facts)
    return Opened(opened, _shown(response, sent) if run.holds else None)


def _sent(share: Share, trust: Trust) -> Sent:
    context = share.bundle.context
    assert context is not None
    (keys, entry), _ = key_bundle_of(context.key_bundle, trust, share.bundle.keys)
    receipt = receipt_of(share.bundle.statement, keys, entry)[0].read(Receipt)
    (order, tenant_key), _ = ordered(context.order, receipt, trust, share.bundle.keys)
    opened = open_with_secret(share.envelope, share.secret)
    theirs = (opened.ctx, opened.kc, envelope_hash(share.envelope), entry)
    if (order.ctx, order.kc, order.envelope, order.bundle) != theirs:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is for another envelope")
    return Sent(order, entry_of(context.order), opened, keys, entry, tenant_key)


def _response(share: Share, sent: Sent, said: Said | None) -> Response:
    reader = StreamReader(sent, share.node_nonce, share.accepted_signature, said)
    for index, (ciphertext, signature) in enumerate(share.frames, start=1):
        reader.frame(index, ciphertext, signature)
    final = reader.final(share.final_record, share.final_signature)
    return Response.of(sent, reader, final)


def _same_receipt(share: Share, response: Response) -> None:
    if detach(share.bundle.statement)[0] != response.final.receipt:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, "the final record has another receipt than the log"
        )


def _shown(response: Response, sent: Sent) -> dict[str, Any]:
    body, final = sent.opened.body, response.final
    return {
        "tenant": sent.order.tenant,
        "number": sent.order.number,
        "attempt": sent.order.attempt,
        "node": sent.bundle.issuer,
        "model_root": sent.opened.header.model_root,
        "prompt": body.prompt,
        "messages": [{"role": m.role, "content": m.content} for m in body.messages],
        "settings": settings_map(body.settings),
        "choice": body.choice,
        "earlier_tokens": len(body.prefix),
        "text": response.text,
        "finish": final.finish.value,
        "is": ENDS[final.finish],
        "text_verified": response.text_is_whole is not None,
    }


def as_text(shown: dict[str, Any]) -> str:
    """Return a verified request and its answer for people."""
    turns = [("prompt", shown["prompt"])] if shown["prompt"] is not None else []
    turns += [(message["role"], message["content"]) for message in shown["messages"]]
    lines = [f"── {role}\n{content}" for role, content in turns]
    if shown["earlier_tokens"]:
        lines.append(f"── after {shown['earlier_tokens']} tokens that other attempts delivered")
    lines.append(
        f"── answer of {shown['node']}: {shown['is']} ({shown['finish']})\n{shown['text']}"
    )
    return "\n".join(lines)


def _members(data: bytes, formats: dict[str, set[str]]) -> dict[str, Any]:
    """Return the members of a file in one of these formats, exactly those that the format has."""
    try:
        values = strict_json(data) if len(data) <= MAX_SHARE else None
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise _malformed(f"is no JSON object of at most {MAX_SHARE} bytes")
    names = formats.get(str(values.get("format")))
    if names is None or values.keys() != {"format", *names}:
        raise _malformed(f"is not in the format {', '.join(formats)}, or has other members")
    return values


def _octets(value: object) -> bytes:
    if not isinstance(value, str):
        raise _malformed("has bytes that are not base64")
    return decode_base64(value)


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the share {problem}",
        remedy="Make one with `counterfoil client share`.",
    )
