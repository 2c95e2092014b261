"""Drafts of receipts from what happened; number and predecessor come from the store."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from execution_layer.node.request_records import AcceptedRecord
from shared.envelope.blinded import activation_root, token_bytes
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.stream import FinalRecord, FrameSealer, StreamContext
from shared.runtime.keys import Signer
from shared.statements.cose import open_as, sign
from shared.statements.orders import Order
from shared.statements.receipts import NO_RECEIPT, Chain, Finish, Receipt, Usage
from shared.statements.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Outcome:
    """How and when (ms since 1970) one request ended. `evidence` is the sealed evidence; None for a request that failed,
    and `cancel` the tenant's signature; None unless the answer was cancelled.
    """

    finish: Finish
    usage: Usage
    h_final: bytes
    output_ids: tuple[int, ...]
    ended: int
    prompt_blocks: tuple[bytes, ...] = ()
    output_blocks: tuple[bytes, ...] = ()
    evidence: bytes | None = None
    cancel: bytes | None = None
    chain: Chain | None = None
    """What an accountable chain has to say of it, and its stages' receipts."""
    stages: tuple[bytes, ...] = ()


def stream_context(order: Order, node_nonce: bytes) -> StreamContext:
    """Return the context to which the response to an order is bound."""
    return StreamContext(order.ctx, order.kc, order.bundle, node_nonce, order.attempt)


def draft_receipt(record: AcceptedRecord, keys: TranscriptKeys, outcome: Outcome) -> Receipt:
    """Return an accepted request's receipt with number 0, for the store to number."""
    root = activation_root(keys, outcome.prompt_blocks, outcome.output_blocks)
    return replace(
        _draft(record, outcome.usage, outcome.finish, outcome.ended),
        h_final=outcome.h_final,
        settings=record.settings,
        input=record.input,
        output=keys.blind("output", token_bytes(outcome.output_ids)),
        activation_root=None if outcome.evidence is None else root,
        evidence=None if outcome.evidence is None else sha256(outcome.evidence).digest(),
        cancel=outcome.cancel,
        chain=outcome.chain,
    )


def draft_part(
    record: AcceptedRecord, usage: Usage, finish: Finish, ended: int, chain: Chain | None
) -> Receipt:
    """Do the same for a stage's part of an answer (protocol §4.10.4); nothing was said to anybody, so its stream has no frames."""
    return replace(_draft(record, usage, finish, ended), chain=chain)


def _draft(record: AcceptedRecord, usage: Usage, finish: Finish, ended: int) -> Receipt:
    """Return what the receipts of answers and parts have in common; its stream has no frames."""
    order, statement = open_as(Order, record.order, None)
    return Receipt(
        order=statement.entry,
        bundle=order.bundle,
        ctx=order.ctx,
        kc=order.kc,
        envelope=order.envelope,
        node_nonce=record.node_nonce,
        h_final=stream_context(order, record.node_nonce).h_0,
        model_root=record.model_root,
        numeric_profile=record.numeric_profile,
        usage=usage,
        finish=finish,
        started=record.started,
        ended=ended,
        node_sequence=0,
        previous=NO_RECEIPT,
        rate_card=order.rate_card,
        tenant=order.tenant,
        number=order.number,
        attempt=order.attempt,
    )


def seal_final(
    sealer: FrameSealer, sign: Callable[[bytes, bytes], bytes], outcome: Outcome, text: str
) -> Callable[[bytes], tuple[bytes, bytes]]:
    """Return what turns an outcome's signed receipt into (final record, signature over it); `sign` takes h_final and the
    record, `text` is that of the frames.
    """

    def seal(statement: bytes) -> tuple[bytes, bytes]:
        sealed = sealer.seal_final(
            FinalRecord(
                tokens=outcome.output_ids,
                text=text,
                usage=outcome.usage,
                finish=outcome.finish,
                receipt=statement,
                evidence=outcome.evidence,
                stages=outcome.stages or None,
            )
        )
        return sealed, sign(outcome.h_final, sealed)

    return seal


class ReceiptSigner:
    """Signs the receipts and refusals of one node."""

    def __init__(self, key: Signer, issuer: str) -> None:
        self._key = key
        self._issuer = issuer

    def receipt(self, receipt: Receipt) -> bytes:
        """Return the signed receipt."""
        return sign(receipt, key=self._key, issuer=self._issuer)

    def refusal(self, refusal: Refusal) -> bytes:
        """Return the signed refusal."""
        return sign(refusal, key=self._key, issuer=self._issuer)

    def message(self, message: bytes) -> bytes:
        """Sign the message of a stream hash or of the final record (protocol §4.2), 64 bytes."""
        return self._key.sign(message)
