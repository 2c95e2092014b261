"""gRPC: `counterfoil.execution.v1.Evidence`. Ciphertexts only, for a disclosure request that an authority signed.

Whether that request is in the log, in time and follows from a draw is for the custodians to check: they hold
what opens the ciphertexts.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc

from execution_layer.node.store import NodeStore
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.audits import DisclosureRequest
from shared.statements.cose import MAX_STATEMENT, parse_statement, verify_signature

_log = logging.getLogger(__name__)


class EvidenceService(execution_pb2_grpc.EvidenceServicer):
    """Hands out what an audit of one receipt needs. The plaintext is not in it: that is the custodians'."""

    def __init__(self, store: NodeStore, authority_keys: Sequence[bytes]) -> None:
        self._store = store
        self._authorities = {key_id(key): key for key in authority_keys}

    async def GetEvidence(  # noqa: N802  # the name of the method on the wire
        self,
        request: execution_pb2.GetEvidenceRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # likewise its shape
    ) -> execution_pb2.GetEvidenceResponse:
        """Return order, envelope, frames and final record of the receipt that the request names."""
        wanted = self._authenticate(request.disclosure_request)
        found = await asyncio.to_thread(self._store.evidence_of, wanted.receipt)
        if found is None:
            raise CounterfoilError(
                Code.NOT_FOUND, "the evidence of that receipt is not kept here (any more)"
            )
        _log.info("evidence handed out", extra={"receipt": wanted.receipt.hex()})
        return execution_pb2.GetEvidenceResponse(
            order=found.order,
            envelope=found.envelope,
            node_nonce=found.node_nonce,
            frames=found.frames,
            final_record=found.final_record,
            final_signature=found.final_signature,
        )

    def _authenticate(self, raw: bytes) -> DisclosureRequest:
        if len(raw) > MAX_STATEMENT:
            raise CounterfoilError(
                Code.MALFORMED, f"a disclosure request has at most {MAX_STATEMENT} bytes"
            )
        statement = parse_statement(raw, expected=DisclosureRequest.TYPE)
        key = self._authorities.get(statement.kid)
        if key is None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                "the disclosure request is not by an audit authority of this node",
            )
        verify_signature(statement, key)
        return statement.read(DisclosureRequest)
