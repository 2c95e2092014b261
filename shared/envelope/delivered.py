"""One request's ciphertexts as somebody submits them, checked against what was signed (protocol §6.2).

Nothing here is believed because of who submits it: order, envelope and frames must hash to what the receipt names, and
the final record must carry the node's own signature. So nobody can frame a node with other bytes, and a node cannot
answer with bytes of its choice.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature

from shared.codec.hashing import framing
from shared.envelope.header import MAX_ENVELOPE, envelope_hash
from shared.envelope.shape import MAX_FINAL, MAX_FRAME
from shared.envelope.stream import (
    StreamContext,
    final_signature_message,
    stream_hash,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_key
from shared.statements.receipts import Receipt

MAX_FRAMES = 1 << 16
"""Most frames in one response."""
MAX_DELIVERED = 1 << 26
"""Bytes of envelope, frames and final record of one request."""


@dataclass(frozen=True, slots=True, repr=False)
class Delivered:
    """What was sent in either direction. Final record and signature are empty if there is none."""

    envelope: bytes
    node_nonce: bytes
    frames: tuple[bytes, ...]
    final_record: bytes
    final_signature: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.envelope) + len(self.final_record) + sum(map(len, self.frames))


def evidence_request_message(request: bytes, receipt: bytes, at: int) -> bytes:
    """Return what a worker signs to request evidence from a node: the entries of disclosure request and receipt, and its
    time (ms)."""
    return framing("evidence-request", request, receipt, at.to_bytes(8, "big"))


def receipt_context(receipt: Receipt) -> StreamContext:
    """Return what the response behind a receipt is bound to."""
    return StreamContext(
        ctx=receipt.ctx,
        kc=receipt.kc,
        bundle=receipt.bundle,
        node_nonce=receipt.node_nonce,
        attempt=receipt.attempt,
    )


def check_stream(found: Delivered, receipt: Receipt) -> None:
    """Raise COMMITMENT_MISMATCH, with the reason, unless envelope, nonce and frames are what the receipt names."""
    _require(found.size <= MAX_DELIVERED, f"it is longer than {MAX_DELIVERED} bytes")
    _require(len(found.frames) <= MAX_FRAMES, f"there are more than {MAX_FRAMES} frames")
    _require(len(found.envelope) <= MAX_ENVELOPE, "the envelope is too long")
    _require(all(len(frame) <= MAX_FRAME for frame in found.frames), "a frame is too long")
    _require(envelope_hash(found.envelope) == receipt.envelope, "the envelope is not the receipt's")
    _require(found.node_nonce == receipt.node_nonce, "the node's nonce is not the receipt's")
    h_final = stream_hash(receipt_context(receipt), found.frames)
    _require(h_final == receipt.h_final, "the frames are not the receipt's")


def check_final(found: Delivered, receipt: Receipt, signing_key: bytes) -> None:
    """Raise COMMITMENT_MISMATCH unless the node signed the final record, after frames that were checked.
    `signing_key` is that of the receipt's key bundle. If a receipt names no evidence, no final record is needed.
    """
    _require(len(found.final_record) <= MAX_FINAL, "the final record is too long")
    if not found.final_record and receipt.evidence is None:
        _require(not found.final_signature, "there is a signature without a final record")
        return
    context = receipt_context(receipt)
    message = final_signature_message(context, receipt.h_final, found.final_record)
    try:
        public_key(signing_key).verify(found.final_signature, message)
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, "the final record is not signed by the node"
        ) from error


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, problem)
