"""gRPC: `counterfoil.execution.v1.Evidence`. Ciphertexts only, for a disclosure request in the log, to the worker it names.
The custodians check whether the request follows from a draw: they hold what opens the ciphertexts.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from cryptography.exceptions import InvalidSignature

from execution_layer.node.request_records import StoredEvidence
from execution_layer.node.settings import AuditServer
from execution_layer.node.store import NodeStore
from shared.codec.moment import now_ms, to_rfc3339
from shared.envelope.delivered import evidence_request_message
from shared.envelope.hpke import hpke_key_id
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id, public_key
from shared.statements.cose import (
    MAX_STATEMENT,
    SignedStatement,
    parse_statement,
    read_as,
    verify_signature,
)
from shared.statements.disclosures import DisclosureRequest
from shared.statements.receipts import Receipt
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof

SKEW_MS: Final = 300_000
PIECE: Final = 1 << 20
"""Bytes of the final record per message."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """Whose disclosure requests are answered, and to whom."""

    authorities: dict[bytes, bytes]
    """Public keys by key id."""
    workers: dict[bytes, tuple[str, bytes]]
    """Workers' names and signing keys, by the id of the HPKE key to which custodians release."""
    log: LogPolicy

    @classmethod
    def of(cls, settings: AuditServer) -> "EvidenceRules":
        """Return a configuration's rules; CONFIGURATION if a key in it is invalid."""
        authorities = [bytes.fromhex(key) for key in settings.authority_keys]
        workers = {}
        for worker in settings.workers:
            signing_key, hpke_key = worker.keys()
            workers[hpke_key_id(hpke_key)] = (worker.name, signing_key)
        return cls({key_id(key): key for key in authorities}, workers, settings.log.policy())


class EvidenceService(execution_pb2_grpc.EvidenceServicer):
    """Hands out what an audit of one receipt needs, but no plaintext: only the custodians can release that."""

    def __init__(self, store: NodeStore, rules: EvidenceRules) -> None:
        self._store = store
        self._rules = rules

    async def GetEvidence(  # noqa: N802  # the method's wire name
        self,
        request: execution_pb2.GetEvidenceRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # likewise its signature
    ) -> AsyncIterator[execution_pb2.EvidencePart]:
        """Yield the order, envelope, frames and final record of the receipt that the request names."""
        statement = self._authenticate(request, now_ms())
        wanted = statement.read(DisclosureRequest)
        asked = _asked_for(request, wanted)
        found = await asyncio.to_thread(self._store.evidence_of, asked)
        if found is None or (asked != wanted.receipt and not _lists(found, wanted.receipt)):
            raise CounterfoilError(
                Code.NOT_FOUND, "the evidence of that receipt is not, or no longer, kept here"
            )
        _log.info("evidence handed out", extra={"receipt": wanted.receipt.hex()})
        for part in _parts(found):
            yield part

    def _authenticate(self, request: execution_pb2.GetEvidenceRequest, now: int) -> SignedStatement:
        """Check (protocol §6.3.3) that (1) an authority signed the request, (2) the log has it, (3) its deadline has not passed,
        and (4) the caller is the worker that it names.
        """
        if len(request.disclosure_request) > MAX_STATEMENT:
            raise CounterfoilError(
                Code.MALFORMED, f"a disclosure request must be at most {MAX_STATEMENT} bytes long"
            )
        statement = parse_statement(request.disclosure_request, expected=DisclosureRequest.TYPE)
        key = self._rules.authorities.get(statement.kid)
        if key is None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                "the disclosure request is not signed by an audit authority in this node's configuration",
            )
        verify_signature(statement, key)  # (1)
        wanted = statement.read(DisclosureRequest)
        verify_tlog_proof(request.request_proof, statement.entry, self._rules.log)  # (2)
        if wanted.deadline + SKEW_MS < now:  # (3)
            raise CounterfoilError(
                Code.EXPIRED,
                f"the disclosure request's deadline was {to_rfc3339(wanted.deadline)}; it is {to_rfc3339(now)} here",
            )
        self._check_caller(request, statement, wanted, now)  # (4)
        return statement

    def _check_caller(
        self,
        request: execution_pb2.GetEvidenceRequest,
        statement: SignedStatement,
        wanted: DisclosureRequest,
        now: int,
    ) -> None:
        worker = self._rules.workers.get(wanted.recipient)
        if worker is None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                "the recipient is not an audit worker in this node's configuration",
            )
        name, key = worker
        if abs(request.at - now) > SKEW_MS:
            raise CounterfoilError(
                Code.EXPIRED,
                f"the call of {name} is dated {(request.at - now) / 1000:+.0f} s from now by this node's clock",
                remedy="Set the clocks.",
            )
        asked = _asked_for(request, wanted)
        message = evidence_request_message(statement.entry, asked, request.at)
        try:
            public_key(key).verify(request.signature, message)
        except InvalidSignature as error:
            raise CounterfoilError(
                Code.BAD_SIGNATURE,
                f"the call is not signed by {name}, to whom the request discloses",
            ) from error


def _asked_for(request: execution_pb2.GetEvidenceRequest, wanted: DisclosureRequest) -> bytes:
    """Return the receipt whose ciphertexts a call asks for: the disclosure request's, or the head's that lists it."""
    return request.receipt if request.HasField("receipt") else wanted.receipt


def _lists(found: StoredEvidence, stage: bytes) -> bool:
    """Whether the receipt behind some ciphertexts is a head's that lists this stage's receipt."""
    chain = read_as(Receipt, found.receipt).chain
    return chain is not None and stage in (chain.stages or ())


def _parts(found: StoredEvidence) -> Sequence[execution_pb2.EvidencePart]:
    head = execution_pb2.EvidenceHead(
        order=found.order,
        envelope=found.envelope,
        node_nonce=found.node_nonce,
        final_signature=found.final_signature,
    )
    final = found.final_record
    return [
        execution_pb2.EvidencePart(head=head),
        *(execution_pb2.EvidencePart(frame=frame) for frame in found.frames),
        *(
            execution_pb2.EvidencePart(final_record=final[first : first + PIECE])
            for first in range(0, len(final), PIECE)
        ),
    ]
