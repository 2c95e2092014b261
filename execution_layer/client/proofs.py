"""After the answer: proofs that receipts and refusals are in the witnessed log, and what to do if they are not."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from execution_layer.client.archive import Archive, Transcript
from execution_layer.client.log_memory import AUDIT_SERVER, LogMemory
from execution_layer.client.part_records import Part
from shared.codec.moment import now_ms
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.runtime.printable import printable
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof

TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.5
AT_ONCE: Final = 16
BATCH: Final = 64
LATER: Final = frozenset({Code.NOT_FOUND, Code.NOT_WITNESSED, Code.UNAVAILABLE, Code.OVERLOADED})
"""Errors that may go away with time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProofReport:
    """How many receipts and refusals are proved, and how many are not yet."""

    proved: int
    missing: int


@dataclass(frozen=True, slots=True)
class HandedIn:
    """What the log made of one statement: where it has it, or why it does not take it."""

    order: bytes
    statement: str
    index: int | None
    refused: str | None


class Proofs:
    """Handles the archive's receipts and refusals that have no proof yet."""

    def __init__(
        self,
        archive: Archive,
        memory: LogMemory,
        channel: grpc.aio.Channel,
        policy: LogPolicy,
    ) -> None:
        self._archive = archive
        self._memory = memory
        self._policy = policy
        self._log = audit_pb2_grpc.LogStub(channel)
        self._intake = audit_pb2_grpc.IntakeStub(channel)

    async def upgrade(self, timeout_s: float) -> ProofReport:
        """Hand in the refusals that are due, then fetch, verify and store proofs; missing ones are retried until the time is up.
        Raises FORK, BAD_PROOF and the like at once: there is no point in waiting for a log whose proofs are wrong.
        """
        until = time.monotonic() + timeout_s
        proved = 0
        try:
            await self.hand_in_refusals(now_ms())
        except CounterfoilError as error:
            if error.code not in LATER:
                raise
        while True:
            proved += await self._round(self._unproved())
            missing = len(self._unproved())
            if not missing or time.monotonic() >= until:
                return ProofReport(proved, missing)
            await asyncio.sleep(min(POLL_S, max(0.0, until - time.monotonic())))

    async def hand_in(self, after_s: float) -> int:
        """Submit receipts, stages' too, and refusals that are older than `after_s` and have no proof, with their orders."""
        before = now_ms() - int(1000 * after_s)
        taken = await self.hand_in_refusals(before)
        late = [item for item in self._unproved() if (item.finished or 0) <= before]
        for start in range(0, len(late), BATCH):
            taken += await self._submit(late[start : start + BATCH])
        return taken

    async def hand_in_receipts(self, transcripts: Sequence[int]) -> None:
        """Submit the receipts of these transcripts and their parts, with their orders, whatever the log has of them already."""
        found: list[Transcript | Part] = []
        for number in transcripts:
            item = self._archive.get(number)
            found += [item, *item.parts]
        signed = [one for one in found if one.evidence is not None]
        for start in range(0, len(signed), BATCH):
            await self._submit(signed[start : start + BATCH])

    async def hand_in_refusals(self, before_ms: int) -> int:
        """Submit the refusals, of attempts that ended by `before_ms`, that close their numbers; return how many were taken.

        What is not answered is found again: nothing but the log's answer ends this.
        """
        taken = 0
        while batch := self._archive.closing(before_ms=before_ms, limit=BATCH):
            answered = await self._submit(batch)
            taken += answered
            if not answered:
                break
        return taken

    async def hand_in_accused(self) -> list[HandedIn]:
        """Submit the receipts and refusals of attempts about which their nodes contradicted themselves, with their orders."""
        found = [
            (item, name, raw)
            for item in self._archive.accused()
            for name, raw in (("receipt", item.receipt), ("refusal", item.refusal))
            if raw is not None
        ]
        told: list[HandedIn] = []
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            submissions = [
                audit_pb2.Submission(statement=raw, order=item.order_statement)
                for item, _, raw in batch
            ]
            results = await self.submit(submissions)
            for (item, name, _), result in zip(batch, results, strict=False):
                rejected = result.WhichOneof("result") != "sequenced"
                said = f"{result.rejected.code[:64]}: {result.rejected.detail[:200]}"
                index = None if rejected else result.sequenced.index
                told.append(
                    HandedIn(
                        item.order_entry,
                        name,
                        index,
                        printable(said, len(said)) if rejected else None,
                    )
                )
        return told

    async def deposit(self, receipt_entry: bytes) -> None:
        """Deposit the ciphertexts of one request, so that it can be audited even if the node withholds them."""
        found = self._archive.by_entry(receipt_entry)
        if found.receipt_entry is None or found.node_nonce is None:
            raise CounterfoilError(Code.NOT_FOUND, "the archive has no receipt for this request")
        request = audit_pb2.DepositRequest(
            receipt=found.receipt_entry,
            envelope=found.envelope,
            node_nonce=found.node_nonce,
            frames=found.frames,
            final_record=found.final_record or b"",
            final_signature=found.final_signature or b"",
        )
        try:
            await self._intake.Deposit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, AUDIT_SERVER) from error

    def _unproved(self) -> list[Transcript | Part]:
        return [*self._archive.unproved(), *self._archive.unproved_parts()]

    async def _round(self, waiting: Sequence[Transcript | Part]) -> int:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(item: Transcript | Part) -> bool:
            async with gate:
                return await self._prove(item)

        return sum(await asyncio.gather(*(one(item) for item in waiting)))

    async def _prove(self, item: Transcript | Part) -> bool:
        """Fetch one proof; return False if it is not available yet."""
        assert item.evidence is not None
        _, entry = item.evidence
        request = audit_pb2.GetProofRequest(entry=entry)
        try:
            answer = await self._log.GetProof(request, timeout=TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = error_from_rpc(rpc_error, AUDIT_SERVER)
            if error.code in LATER:
                return False
            raise error from rpc_error
        included = verify_tlog_proof(answer.tlog_proof, entry, self._policy)
        await self._memory.accept(included.witnessed)
        if isinstance(item, Part):
            await self._archive.attach_part_proof(item, answer.tlog_proof, included.index)
        else:
            await self._archive.attach_proof(item.id, answer.tlog_proof, included.index)
        return True

    async def submit(
        self, submissions: Sequence[audit_pb2.Submission]
    ) -> Sequence[audit_pb2.SubmitResult]:
        """Submit statements to the log; return its answer to each. Raises what an audit server that is away gives."""
        request = audit_pb2.SubmitRequest(submissions=submissions)
        try:
            answer = await self._intake.Submit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, AUDIT_SERVER) from error
        return answer.results

    async def _submit(self, batch: Sequence[Transcript | Part]) -> int:
        submissions = [
            audit_pb2.Submission(statement=item.evidence[0], order=item.order_statement)
            for item in batch
            if item.evidence is not None
        ]
        taken = 0
        for item, result in zip(batch, await self.submit(submissions), strict=False):
            if result.WhichOneof("result") == "sequenced":
                await self._note_handed_in(item)
                taken += 1
            else:
                code, detail = result.rejected.code[:64], result.rejected.detail[:200]
                _log.warning(
                    "the log does not accept what %s signed: %s: %s", item.node, code, detail
                )
                later = code in {error.name for error in LATER}
                if isinstance(item, Transcript) and item.receipt is None and not later:
                    await self._archive.note_rejected(item, f"{code}: {detail}")
        return taken

    async def _note_handed_in(self, item: Transcript | Part) -> None:
        if isinstance(item, Part):
            await self._archive.note_part_handed_in(item, now_ms())
        else:
            await self._archive.note_handed_in(item.id)
