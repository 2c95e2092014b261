"""`counterfoil.audit.v1` over gRPC: translation between messages and use cases, nothing else.

Use cases block, so they run in threads; failures are CounterfoilErrors, which the server's interceptor maps.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from audit_layer.directory.service import Directory
from audit_layer.log.proof_service import ProofService
from audit_layer.trail.call_batching import CallBatcher
from audit_layer.trail.service import Accepted, Refused, Submission, Trail
from audit_layer.trail.standings import Standings
from shared.envelope.delivered import Delivered
from shared.parties.permissions import BRINGERS, BROUGHT_BY_ANYBODY
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import Service
from shared.runtime.grpc_access import calling_party
from shared.runtime.interceptor import Context
from shared.statements.identities import identity
from shared.verification.standing import standing_in

PACKAGE: Final = "counterfoil.audit.v1"
MAX_SUBMISSIONS: Final = 1024
"""Statements in one call; the whole message is bounded by the server."""
MAX_IDENTITIES: Final = 256
MAX_RATE_CARDS: Final = 64
MAX_WAIT_S: Final = 2.0
"""For a proof; each wait is a call in flight."""
LOOK_S: Final = 0.25
"""How often a waiting call looks for what another process has published."""


class IntakeServicer(audit_pb2_grpc.IntakeServicer):
    """Takes statements and evidence in."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._intake = CallBatcher(trail)

    async def Submit(  # noqa: N802  # the generated name
        self, request: audit_pb2.SubmitRequest, context: Context
    ) -> audit_pb2.SubmitResponse:
        """Answer each submission separately; UNAVAILABLE for the whole call when no outcome is known."""
        party = calling_party(context)
        if len(request.submissions) > MAX_SUBMISSIONS:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a call takes at most {MAX_SUBMISSIONS} statements"
            )
        brings = party is not None and party.role in BRINGERS
        types = None if brings else BROUGHT_BY_ANYBODY
        submissions = [
            Submission(item.statement, item.order or None, types) for item in request.submissions
        ]
        results = await self._intake.submit(submissions, receipts=request.receipts)
        return audit_pb2.SubmitResponse(results=[_result(result) for result in results])

    async def Deposit(  # noqa: N802  # the generated name
        self, request: audit_pb2.DepositRequest, _context: Context
    ) -> audit_pb2.DepositResponse:
        """Keep ciphertexts for a receipt; COMMITMENT_MISMATCH unless they are those it names."""
        _check_entry(request.receipt)
        if len(request.node_nonce) != 32:
            raise CounterfoilError(Code.INVALID_ARGUMENT, "a node's nonce is 32 bytes long")
        found = Delivered(
            request.envelope,
            request.node_nonce,
            tuple(request.frames),
            request.final_record,
            request.final_signature,
        )
        await asyncio.to_thread(self._trail.deposit, request.receipt, found)
        return audit_pb2.DepositResponse()


class LogServicer(audit_pb2_grpc.LogServicer):
    """Serves checkpoints and proofs."""

    def __init__(self, proofs: ProofService, next_published: Callable[[], asyncio.Event]) -> None:
        self._proofs = proofs
        self._next_published = next_published

    async def GetCheckpoint(  # noqa: N802  # the generated name
        self, _request: audit_pb2.GetCheckpointRequest, _context: Context
    ) -> audit_pb2.GetCheckpointResponse:
        """Return the newest witnessed checkpoint; NOT_WITNESSED before the first."""
        witnessed = await asyncio.to_thread(self._proofs.witnessed)
        return audit_pb2.GetCheckpointResponse(note=witnessed.note.encode())

    async def GetProof(  # noqa: N802  # the generated name
        self, request: audit_pb2.GetProofRequest, context: Context
    ) -> audit_pb2.GetProofResponse:
        """Return a tlog-proof; NOT_FOUND, or NOT_WITNESSED with a hint of when to retry. A party may have it wait."""
        _check_entry(request.entry)
        waits = calling_party(context) is not None
        until = time.monotonic() + (min(request.wait_ms / 1000, MAX_WAIT_S) if waits else 0)
        while True:
            published = self._next_published()
            try:
                proof = await asyncio.to_thread(self._proofs.prove, request.entry)
            except CounterfoilError as error:
                left = until - time.monotonic()
                if error.code is not Code.NOT_WITNESSED or left <= 0:
                    raise
            else:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(published.wait(), min(left, LOOK_S))
        return audit_pb2.GetProofResponse(tlog_proof=proof.encode(), index=proof.index)

    async def GetConsistency(  # noqa: N802  # the generated name
        self, request: audit_pb2.GetConsistencyRequest, _context: Context
    ) -> audit_pb2.GetConsistencyResponse:
        """Return a consistency proof; NOT_WITNESSED until the larger size is published."""
        proof = await asyncio.to_thread(
            self._proofs.consistency, request.old_size, request.new_size
        )
        return audit_pb2.GetConsistencyResponse(proof=proof)


class DirectoryServicer(audit_pb2_grpc.DirectoryServicer):
    """Lists key bundles."""

    def __init__(self, directory: Directory, standings: Standings) -> None:
        self._directory = directory
        self._standings = standings

    async def ListKeyBundles(  # noqa: N802  # the generated name
        self, request: audit_pb2.ListKeyBundlesRequest, _context: Context
    ) -> audit_pb2.ListKeyBundlesResponse:
        """Return unexpired key bundles, with proofs of those that are witnessed."""
        found, revocations = await asyncio.to_thread(
            self._directory.listing, request.model_root or None
        )
        records = await asyncio.to_thread(self._standings.records)
        operators = sorted({identity("operator", item.bundle.operator) for item in found})
        return audit_pb2.ListKeyBundlesResponse(
            bundles=[
                audit_pb2.KeyBundleEntry(
                    statement=item.statement,
                    tlog_proof=item.tlog_proof or "",
                    revoked=item.revoked,
                    standing=standing_in(records, (item.bundle.operator, item.bundle.node)).value,
                )
                for item in found
            ],
            revocations=[
                audit_pb2.RevocationEntry(statement=statement, tlog_proof=proof)
                for statement, proof in revocations
            ],
            numeric_profiles=sorted(self._directory.numeric_profiles()),
            identities=await self._identities(operators),
        )

    async def ListIdentityKeys(  # noqa: N802  # the generated name
        self, request: audit_pb2.ListIdentityKeysRequest, _context: Context
    ) -> audit_pb2.ListIdentityKeysResponse:
        """Return what the log has about the keys of the identities that are named; nothing for an unknown one."""
        if len(request.identities) > MAX_IDENTITIES:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a call is about at most {MAX_IDENTITIES} identities"
            )
        found = await self._identities(request.identities)
        return audit_pb2.ListIdentityKeysResponse(identities=found)

    async def GetRateCards(  # noqa: N802  # the generated name
        self, request: audit_pb2.GetRateCardsRequest, _context: Context
    ) -> audit_pb2.GetRateCardsResponse:
        """Return the rate cards with these entries that the log has."""
        if len(request.entries) > MAX_RATE_CARDS:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a call is about at most {MAX_RATE_CARDS} rate cards"
            )
        for entry in request.entries:
            _check_entry(entry)
        found = await asyncio.to_thread(self._directory.rate_cards, request.entries)
        return audit_pb2.GetRateCardsResponse(statements=found)

    async def _identities(self, subjects: Sequence[str]) -> list[audit_pb2.IdentityEntry]:
        found = await asyncio.to_thread(self._directory.identities, subjects)
        return [
            audit_pb2.IdentityEntry(statement=statement, tlog_proof=proof)
            for statement, proof in found
        ]


def audit_services(
    trail: Trail,
    proofs: ProofService,
    directory: Directory,
    standings: Standings,
    next_published: Callable[[], asyncio.Event],
) -> Sequence[Service]:
    """Return the three services for `shared.runtime.grpc.build_server`; see `Publisher.next_published`."""
    added: tuple[tuple[str, Any, object], ...] = (
        ("Intake", audit_pb2_grpc.add_IntakeServicer_to_server, IntakeServicer(trail)),
        ("Log", audit_pb2_grpc.add_LogServicer_to_server, LogServicer(proofs, next_published)),
        (
            "Directory",
            audit_pb2_grpc.add_DirectoryServicer_to_server,
            DirectoryServicer(directory, standings),
        ),
    )
    return [Service(f"{PACKAGE}.{name}", add, servicer) for name, add, servicer in added]


def _check_entry(entry: bytes) -> None:
    if len(entry) != 32:
        raise CounterfoilError(Code.INVALID_ARGUMENT, "an entry is 32 bytes long")


def _result(result: Accepted | Refused) -> audit_pb2.SubmitResult:
    if isinstance(result, Refused):
        error = result.error
        detail = error.public_detail() if error.code.value.opaque else error.detail
        return audit_pb2.SubmitResult(
            rejected=audit_pb2.Rejected(code=error.code.name, detail=detail)
        )
    return audit_pb2.SubmitResult(
        sequenced=audit_pb2.Sequenced(
            entry=result.entry,
            index=result.index,
            duplicate=result.duplicate,
            receipt=result.receipt or b"",
        )
    )
