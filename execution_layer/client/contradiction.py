"""What a node signed in one place of one stream, twice and differently (protocol §4.9). Pure: it takes no secret."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature

from execution_layer.client.response_check import Sent
from shared.envelope.stream import StreamContext, stream_hash, stream_signature_message
from shared.proto.counterfoil.execution.v1 import execution_pb2
from shared.runtime.keys import public_key


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The second value: another node nonce (`position` 0) or another frame, with the node's signature over h_position."""

    position: int
    value: bytes
    signature: bytes


def contradiction(
    sent: Sent, node_nonce: bytes, frames: Sequence[bytes], message: execution_pb2.GenerateResponse
) -> Contradiction | None:
    """Return what a message contradicts of the stream that the client has, if the node signed it; else None."""
    event = message.WhichOneof("event")
    if event == "accepted" and message.accepted.node_nonce != node_nonce:
        nonce, signature = message.accepted.node_nonce, message.accepted.signature
        context, found = sent.context(nonce), Contradiction(0, nonce, signature)
        return found if _signed(sent, context, 0, context.h_0, signature) else None
    if event == "frame" and 1 <= message.frame.index <= len(frames):
        index, other = message.frame.index, message.frame.ciphertext
        if other == frames[index - 1]:
            return None
        context = sent.context(node_nonce)
        h = stream_hash(context, [*frames[: index - 1], other])
        if _signed(sent, context, index, h, message.frame.signature):
            return Contradiction(index, other, message.frame.signature)
    return None


def _signed(sent: Sent, context: StreamContext, index: int, h: bytes, signature: bytes) -> bool:
    try:
        message = stream_signature_message(context, index, h)
        public_key(sent.bundle.signing_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
