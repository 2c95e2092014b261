"""The audit server as workers reach it: statements in, proofs out, over gRPC with TLS.

Imports generated code: this is the wire module of the room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.runtime.party import PartyFiles


@dataclass(frozen=True, slots=True)
class Logged:
    """Where the log keeps a statement."""

    entry: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Proof:
    """A C2SP tlog-proof under a witnessed checkpoint, and the index that it proves."""

    text: str
    index: int


class AuditServer:
    """Synchronous client of Intake and Log. Every call has a deadline; failures are CounterfoilErrors."""

    def __init__(
        self,
        target: str,
        ca_file: Path,
        party: PartyFiles | None = None,
        *,
        timeout_s: float = 10.0,
    ) -> None:
        self._channel = secure_channel(target, ca_file, party)
        self._intake = audit_pb2_grpc.IntakeStub(self._channel)
        self._log = audit_pb2_grpc.LogStub(self._channel)
        self._directory = audit_pb2_grpc.DirectoryStub(self._channel)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def submit(self, statements: Sequence[bytes]) -> list[Logged]:
        """Submit statements; all must be accepted. Submitting the same bytes again gives the same answer."""
        if not statements:
            return []
        request = audit_pb2.SubmitRequest(
            submissions=[audit_pb2.Submission(statement=raw) for raw in statements]
        )
        try:
            response = self._intake.Submit(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return [_sequenced(result) for result in response.results]

    def proof(self, entry: bytes, *, wait_s: float = 0.0) -> Proof | None:
        """Return the proof, or None if no witnessed checkpoint covers the entry within `wait_s` (the server permits 2 s)."""
        request = audit_pb2.GetProofRequest(entry=entry, wait_ms=max(0, int(1000 * wait_s)))
        try:
            response = self._log.GetProof(request, timeout=self._timeout_s + wait_s)
        except grpc.RpcError as error:
            failure = error_from_rpc(error)
            if failure.code is Code.NOT_WITNESSED:
                return None
            raise failure from error
        return Proof(response.tlog_proof, response.index)

    def identities(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what is witnessed about identities' keys: unchecked."""
        request = audit_pb2.ListIdentityKeysRequest(identities=subjects)
        try:
            response = self._directory.ListIdentityKeys(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return [(item.statement, item.tlog_proof) for item in response.identities]

    def checkpoint(self) -> str:
        """Return the latest witnessed checkpoint as a signed note."""
        try:
            response = self._log.GetCheckpoint(
                audit_pb2.GetCheckpointRequest(), timeout=self._timeout_s
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        return response.note


def _sequenced(result: audit_pb2.SubmitResult) -> Logged:
    if result.WhichOneof("result") == "sequenced":
        return Logged(result.sequenced.entry, result.sequenced.index)
    try:
        code = Code[result.rejected.code]
    except KeyError:
        code = Code.INTERNAL
    raise CounterfoilError(code, f"the log refused a statement: {result.rejected.detail}")
