"""The node's link to the audit server: it submits statements and fetches proofs, and asks nothing else of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import grpc

from execution_layer.node.settings import AuditTarget
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.party import PartyFiles

TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """The log's answer for one statement: its index, or the code and text of a refusal."""

    index: int | None
    refusal: tuple[Code, str] | None = None


class AuditLink:
    """A channel to the audit server; opened within the event loop that uses it."""

    def __init__(self, settings: AuditTarget, party: PartyFiles | None = None) -> None:
        self._channel = secure_aio_channel(settings.target, settings.ca_file, party)
        self._intake = audit_pb2_grpc.IntakeStub(self._channel)
        self._log = audit_pb2_grpc.LogStub(self._channel)
        self._directory = audit_pb2_grpc.DirectoryStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Submit (statement, order or b"") pairs; return one answer per pair, in order.
        Raises an error if the call as a whole was not answered, typically UNAVAILABLE.
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
                "the audit server did not return one answer per statement",
            )
        return [_submitted(result) for result in response.results]

    async def proof(self, entry: bytes) -> str:
        """Return an entry's tlog-proof; raise NOT_FOUND or NOT_WITNESSED until there is one."""
        try:
            response = await self._log.GetProof(
                audit_pb2.GetProofRequest(entry=entry), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return response.tlog_proof

    async def revocations(self, model_root: bytes) -> list[bytes]:
        """Return the revocations of a model's key bundles that have not expired, as the directory lists them: unchecked."""
        request = audit_pb2.ListKeyBundlesRequest(model_root=model_root)
        try:
            response = await self._directory.ListKeyBundles(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return [item.statement for item in response.revocations]

    async def identities(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what the log has about identities' keys: unchecked."""
        request = audit_pb2.ListIdentityKeysRequest(identities=subjects)
        try:
            response = await self._directory.ListIdentityKeys(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return [(item.statement, item.tlog_proof) for item in response.identities]


def _submitted(result: audit_pb2.SubmitResult) -> Submitted:
    if result.WhichOneof("result") == "sequenced":
        return Submitted(result.sequenced.index)
    rejected = result.rejected
    code = Code.__members__.get(rejected.code, Code.INTERNAL)
    return Submitted(None, (code, rejected.detail[:500]))
