"""The audit server as holders of identity keys ask it: takes their statements in, and shows those of others."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc

from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.statements.cose import entry_of

TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.25
WAITING: Final = frozenset({Code.NOT_WITNESSED, Code.NOT_FOUND})


class IdentityLog:
    """A channel to the audit server. Use it as a context manager."""

    def __init__(self, target: str, ca_file: Path) -> None:
        self._channel = secure_channel(target, ca_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def submit(self, statement: bytes) -> int:
        """Return the index that the log gives a statement, or raise its refusal."""
        request = audit_pb2.SubmitRequest(submissions=[audit_pb2.Submission(statement=statement)])
        try:
            answer = audit_pb2_grpc.IntakeStub(self._channel).Submit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, "the audit server") from error
        if len(answer.results) != 1:
            raise CounterfoilError(Code.INTERNAL, "the audit server did not answer the statement")
        (result,) = answer.results
        if result.WhichOneof("result") == "rejected":
            code = Code.__members__.get(result.rejected.code, Code.INTERNAL)
            raise CounterfoilError(code, result.rejected.detail[:500])
        return int(result.sequenced.index)

    def until_witnessed(self, statement: bytes, timeout_s: float) -> None:
        """Return once a witnessed checkpoint covers a statement, so that everybody can be shown it; NOT_WITNESSED if none
        does within `timeout_s` seconds.
        """
        request = audit_pb2.GetProofRequest(entry=entry_of(statement))
        until = time.monotonic() + timeout_s
        while True:
            try:
                audit_pb2_grpc.LogStub(self._channel).GetProof(request, timeout=TIMEOUT_S)
            except grpc.RpcError as rpc_error:
                error = error_from_rpc(rpc_error, "the audit server")
                if error.code not in WAITING or time.monotonic() > until:
                    raise error from rpc_error
                time.sleep(POLL_S)
            else:
                return

    def shown(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what is witnessed about identities: unchecked."""
        request = audit_pb2.ListIdentityKeysRequest(identities=subjects)
        stub = audit_pb2_grpc.DirectoryStub(self._channel)
        try:
            answer = stub.ListIdentityKeys(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, "the audit server") from error
        return [(item.statement, item.tlog_proof) for item in answer.identities]
