"""The ciphertexts of one request: from its node, or from whoever deposited them.

What does not hash to what the receipt names was not delivered: nobody can frame a node by handing in other bytes, and a
node cannot answer with bytes of its choice.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.envelope.header import envelope_hash
from shared.envelope.stream import StreamContext, stream_hash
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.statements.cose import entry_of
from shared.statements.receipts import Receipt

MAX_FRAMES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ciphertexts:
    """What was sent in either direction, and the order that asked for it."""

    order: bytes
    envelope: bytes
    frames: tuple[bytes, ...]
    final_record: bytes


def fetch_from_node(
    endpoint: str, ca_file: Path, request: bytes, *, timeout_s: float
) -> Ciphertexts:
    """Ask a node for the ciphertexts of the receipt that a logged disclosure request names.

    Raises what the node answered, or UNAVAILABLE.
    """
    with secure_channel(endpoint, ca_file) as channel:
        stub = execution_pb2_grpc.EvidenceStub(channel)
        try:
            answer = stub.GetEvidence(
                execution_pb2.GetEvidenceRequest(disclosure_request=request), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
    return Ciphertexts(
        order=answer.order,
        envelope=answer.envelope,
        frames=tuple(answer.frames),
        final_record=answer.final_record,
    )


def check_delivered(found: Ciphertexts, receipt: Receipt) -> None:
    """Raise COMMITMENT_MISMATCH unless the bytes are those that the receipt's signature covers."""
    if len(found.frames) > MAX_FRAMES:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "more frames than a response can have")
    context = StreamContext(
        ctx=receipt.ctx,
        kc=receipt.kc,
        bundle=receipt.bundle,
        node_nonce=receipt.node_nonce,
        attempt=receipt.attempt,
    )
    expected = (
        ("order", receipt.order, _hash_or_none(found.order)),
        ("envelope", receipt.envelope, envelope_hash(found.envelope)),
        ("h_final", receipt.h_final, stream_hash(context, found.frames)),
    )
    for name, claimed, actual in expected:
        if claimed != actual:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, f"the {name} handed in is not the receipt's"
            )


def _hash_or_none(statement: bytes) -> bytes | None:
    try:
        return entry_of(statement)
    except CounterfoilError:
        return None
