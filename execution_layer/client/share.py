"""Sharing one answer: a file that opens one request to whoever holds it, and that can be verified offline (docs/bundle.md §7).

Everything that the client checked is checked again by the receiver, from bytes: that the transcript secret is the one to which
the order commits, the envelope, every frame in its place in the chain, the blinded fields, the receipt and its place in the log.
"""

from dataclasses import dataclass
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
from shared.codec.moment import now_ms
from shared.envelope.body import settings_map
from shared.envelope.header import envelope_hash
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import detach, entry_of
from shared.statements.receipts import Finish, Receipt
from shared.verification.bundle_check import (
    Report,
    followed,
    key_bundle_of,
    ordered,
    policy_in,
    receipt_of,
    verify_bundle,
)
from shared.verification.share import Share
from shared.verification.steps import Verification
from shared.verification.trust import Trust

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
    if run.holds and sent.opened.header.stages:
        word.append(
            "The receipts of the chain's stages were not checked: their orders are not in the file."
        )
    facts = report.facts if run.holds else {}
    rests_on = [*report.rests_on, *(word if run.holds else [])]
    opened = Report(run.steps, rests_on, facts)
    return Opened(opened, _shown(response, sent) if run.holds else None)


def _sent(share: Share, trust: Trust) -> Sent:
    policy, _ = policy_in(share.bundle.policy, trust)
    trust, _ = followed(share.bundle, policy, trust)
    context = share.bundle.context
    assert context is not None
    (keys, entry), _ = key_bundle_of(context.key_bundle, trust, share.bundle.keys)
    receipt = receipt_of(share.bundle.statement, keys, entry)[0].read(Receipt)
    (order, tenant_key), _ = ordered(context.order, receipt, keys, trust, share.bundle.keys)
    opened = open_with_secret(share.envelope, share.secret)
    theirs = (opened.ctx, opened.kc, envelope_hash(share.envelope), entry)
    if (order.ctx, order.kc, order.envelope, order.bundle) != theirs:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is for another envelope")
    return Sent(order, entry_of(context.order), opened, keys, entry, tenant_key, parts=None)


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
