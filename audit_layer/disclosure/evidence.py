"""The ciphertexts of one request: from its node, or from whoever deposited them.

Bytes other than the receipt's were not delivered (`shared.envelope.delivered`): nobody can frame a node by depositing
other bytes, and a node cannot answer with bytes of its choice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from shared.codec.moment import now_ms
from shared.envelope.delivered import (
    MAX_DELIVERED,
    MAX_FRAMES,
    Delivered,
    check_final,
    check_stream,
    evidence_request_message,
)
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.runtime.keys import Signer
from shared.runtime.party import PartyFiles
from shared.statements.cose import entry_of
from shared.statements.receipts import Receipt


@dataclass(frozen=True, slots=True)
class Ciphertexts:
    """What was sent in either direction, and the order that asked for it."""

    order: bytes
    sent: Delivered


@dataclass(frozen=True, slots=True)
class Asking:
    """A logged disclosure request, and who asks for its evidence."""

    request: bytes
    proof: str
    """The request's tlog-proof."""
    receipt: bytes
    """Entry of the receipt whose ciphertexts are asked for."""
    key: Signer
    """The worker's signing key, which nodes know."""
    for_stage: bool = False
    """Whether the request is about a stage's receipt, and the receipt asked for is its head's."""

    def message(self) -> execution_pb2.GetEvidenceRequest:
        """Return the signed call."""
        at = now_ms()
        signed = evidence_request_message(entry_of(self.request), self.receipt, at)
        return execution_pb2.GetEvidenceRequest(
            disclosure_request=self.request,
            request_proof=self.proof,
            at=at,
            signature=self.key.sign(signed),
            receipt=self.receipt if self.for_stage else None,
        )


def fetch_from_node(
    endpoint: str,
    ca_file: Path,
    asking: Asking,
    *,
    timeout_s: float,
    party: PartyFiles | None = None,
) -> Ciphertexts:
    """Ask a node for the ciphertexts of the receipt that a logged disclosure request names.

    Raises the node's error, UNAVAILABLE, or COMMITMENT_MISMATCH for more than a response can hold.
    """
    with secure_channel(endpoint, ca_file, party) as channel:
        stub = execution_pb2_grpc.EvidenceStub(channel)
        try:
            return _collect(stub.GetEvidence(asking.message(), timeout=timeout_s))
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


def _collect(parts: Iterable[execution_pb2.EvidencePart]) -> Ciphertexts:
    """Assemble the parts; reading stops when they are too large or out of order."""
    head: execution_pb2.EvidenceHead | None = None
    frames: list[bytes] = []
    final = bytearray()
    size = 0
    for part in parts:
        kind = part.WhichOneof("part")
        size += part.ByteSize()
        if size > MAX_DELIVERED + 2**20 or len(frames) > MAX_FRAMES:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, "the evidence is larger than any response"
            )
        if (kind == "head") != (head is None) or (kind == "frame" and final):
            raise CounterfoilError(Code.MALFORMED, "the parts are out of order")
        if kind == "head":
            head = part.head
        elif kind == "frame":
            frames.append(part.frame)
        else:
            final += part.final_record
    if head is None:
        raise CounterfoilError(Code.MALFORMED, "the node's answer is empty")
    sent = Delivered(
        head.envelope, head.node_nonce, tuple(frames), bytes(final), head.final_signature
    )
    return Ciphertexts(head.order, sent)


def check_evidence(
    found: Ciphertexts, receipt: Receipt, signing_key: bytes
) -> tuple[Ciphertexts, str]:
    """Return what of the bytes the receipt and the node's signature cover, and what is wrong with the rest.

    The frames are covered by the receipt itself: a final record that its node did not sign is left out, and the frames
    still count. COMMITMENT_MISMATCH when they are not the receipt's either.
    """
    try:
        order = entry_of(found.order)
    except CounterfoilError as error:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is not a statement") from error
    if order != receipt.order:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is not the receipt's")
    check_stream(found.sent, receipt)
    try:
        check_final(found.sent, receipt, signing_key)
    except CounterfoilError as error:
        frames = replace(found.sent, final_record=b"", final_signature=b"")
        return Ciphertexts(found.order, frames), str(error)
    return found, ""
