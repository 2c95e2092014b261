"""The node's way to the audit server: submit statements, fetch proofs. Nothing else is ever asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import grpc

from execution_layer.node.settings import AuditTarget
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel

TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """The log's answer about one statement: its index, or the code and text of a refusal."""

    index: int | None
    refusal: tuple[Code, str] | None = None


class AuditLink:
    """A channel to the audit server; opened within the event loop that uses it."""

    def __init__(self, settings: AuditTarget) -> None:
        self._channel = secure_aio_channel(settings.target, settings.ca_file)
        self._intake = audit_pb2_grpc.IntakeStub(self._channel)
        self._log = audit_pb2_grpc.LogStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Hand in (statement, order or b"") pairs; one answer for each, in their order.

        Raises what kept the call as a whole from being answered, UNAVAILABLE above all.
        """
        request = audit_pb2.SubmitRequest(
            submissions=[
                audit_pb2.Submission(statement=statement, order=order)
                for statement, order in statements
            ]
        )
        try:
            response = await self._intake.Submit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        if len(response.results) != len(statements):
            raise CounterfoilError(
                Code.INTERNAL,
                "the audit server answered another number of statements than it was sent",
            )
        return [_submitted(result) for result in response.results]

    async def proof(self, entry: bytes) -> str:
        """Return the tlog-proof of an entry; raises NOT_FOUND or NOT_WITNESSED until there is one."""
        try:
            response = await self._log.GetProof(
                audit_pb2.GetProofRequest(entry=entry), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return response.tlog_proof


def _submitted(result: audit_pb2.SubmitResult) -> Submitted:
    if result.WhichOneof("result") == "sequenced":
        return Submitted(result.sequenced.index)
    rejected = result.rejected
    code = Code.__members__.get(rejected.code, Code.INTERNAL)
    return Submitted(None, (code, rejected.detail[:500]))
