"""The ciphertexts of one request: from its node, or from whoever deposited them.

What is not the receipt's was not delivered (`shared.envelope.delivered`): nobody can frame a node by handing in other
bytes, and a node cannot answer with bytes of its choice.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.envelope.delivered import Delivered, check_delivered
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.statements.cose import entry_of
from shared.statements.receipts import Receipt


@dataclass(frozen=True, slots=True)
class Ciphertexts:
    """What was sent in either direction, and the order that asked for it."""

    order: bytes
    sent: Delivered


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
        answer.order,
        Delivered(
            answer.envelope,
            answer.node_nonce,
            tuple(answer.frames),
            answer.final_record,
            answer.final_signature,
        ),
    )


def check_evidence(found: Ciphertexts, receipt: Receipt, signing_key: bytes) -> None:
    """Raise COMMITMENT_MISMATCH unless the bytes are those that the receipt's and the node's signature cover."""
    try:
        order = entry_of(found.order)
    except CounterfoilError as error:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is no statement") from error
    if order != receipt.order:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is not the receipt's")
    check_delivered(found.sent, receipt, signing_key)
