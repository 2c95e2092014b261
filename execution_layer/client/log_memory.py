"""What the client remembers of the log, so that it can be shown neither another history nor an older one.

The archive keeps every accepted witnessed checkpoint. A larger one must be proved to extend the largest; a
smaller one must be proved to be a prefix of it, and is then good for what it proves, but not for what is new. A
checkpoint that contradicts them is FORK: both notes stay in the archive as evidence. The proof comes from the log itself or,
computed from tiles, from any mirror of it; a mirror that shows nothing proves nothing against the log.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

import grpc

from execution_layer.client.log_records import LogRecords
from execution_layer.client.mirrors import ForkProved
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.proofs import verify_consistency

TIMEOUT_S: Final = 20.0
AUDIT_SERVER: Final = "the audit server"
"""Its name in errors, so that nobody looks for their cause at a node or in a database of their own."""
SKEW_S: Final = 300
SAME_SIZE: Final = "they have the same size but different roots"
NO_ANSWER: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE, Code.OVERLOADED, Code.QUOTA})
"""Errors that say that nobody answered, and nothing about what they know."""


class History(Protocol):
    """Somebody who can show that one tree begins with another."""

    @property
    def name(self) -> str:
        """Its name in errors."""
        ...

    async def check(self, older: Checkpoint, newer: Checkpoint) -> None:
        """Check that the newer tree begins with the older one.

        FORK if it does not, or if it is up to this party to prove it and it does not; UNAVAILABLE if this party shows neither.
        """
        ...


class AuditLog:
    """The log itself: that it does not prove what it signed counts against it."""

    name = AUDIT_SERVER

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._log = audit_pb2_grpc.LogStub(channel)

    async def check(self, older: Checkpoint, newer: Checkpoint) -> None:
        """Ask for a consistency proof and verify it."""
        request = audit_pb2.GetConsistencyRequest(old_size=older.size, new_size=newer.size)
        try:
            answer = await self._log.GetConsistency(request, timeout=TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = error_from_rpc(rpc_error, AUDIT_SERVER)
            if error.code in NO_ANSWER:
                raise error from rpc_error
            raise CounterfoilError(
                Code.FORK, f"the log does not prove it: {error.detail}"
            ) from rpc_error
        try:
            verify_consistency(older.size, older.root, newer.size, newer.root, list(answer.proof))
        except CounterfoilError as error:
            raise CounterfoilError(
                Code.FORK, f"the log's proof does not hold: {error.detail}"
            ) from error


class LogMemory:
    """One client's view of its log. Safe for concurrent calls within one event loop."""

    def __init__(
        self, archive: LogRecords, policy: LogPolicy, histories: Sequence[History]
    ) -> None:
        """`histories` are asked in order until one proves something."""
        self._archive = archive
        self._policy = policy
        self._histories = histories
        self._turn = asyncio.Lock()

    async def accept(self, seen: Witnessed) -> None:
        """Remember a witnessed checkpoint.

        FORK if it contradicts the stored checkpoints, or the log does not prove it to be consistent with them; UNAVAILABLE if
        nobody shows either.
        """
        async with self._turn:
            kept = self._archive.largest_checkpoint(seen.checkpoint.origin)
            while kept not in {None, seen.checkpoint}:
                assert kept is not None
                try:
                    await self._check(kept, seen.checkpoint)
                except CounterfoilError as error:
                    if error.code is not Code.FORK:
                        raise
                    nodes = error.nodes if isinstance(error, ForkProved) else {}
                    await self._archive.keep_suspect(seen, kept, error.detail, nodes)
                    raise _forked(kept, seen.checkpoint, error.detail) from error
                now_kept = self._archive.largest_checkpoint(seen.checkpoint.origin)
                if now_kept == kept:  # otherwise another process has seen more meanwhile
                    break
                kept = now_kept
            await self._archive.remember_checkpoint(seen, kept or seen.checkpoint)

    async def compare(self, others: Sequence[Witnessed]) -> int:
        """Hold what another client was shown against what was accepted here; return how many sizes both have.
        FORK, as `accept`, if they are not one history: each client's own checkpoints are, so the largest stands for all.
        """
        common = 0
        for seen in others:
            ours = self._archive.checkpoint_at(seen.checkpoint.origin, seen.checkpoint.size)
            if ours is not None and ours != seen.checkpoint:
                await self._archive.keep_suspect(seen, ours, SAME_SIZE, {})
                raise _forked(ours, seen.checkpoint, SAME_SIZE)
            common += ours is not None
        await self.accept(max(others, key=lambda seen: seen.checkpoint.size))
        return common

    async def refuse_older(self, seen: Witnessed, source: str) -> None:
        """Raise NOT_WITNESSED for a smaller checkpoint than one accepted before: what it lists may hide what came since.
        One that was witnessed long after the larger one is kept as evidence: no log goes back.
        """
        kept = self._archive.largest_checkpoint(seen.checkpoint.origin)
        if kept is None or seen.checkpoint.size >= kept.size:
            return
        before = verify_witnessed(self._archive.kept_note(kept), self._policy).times
        later_s = min(seen.times.values()) - max(before.values())
        if later_s > SKEW_S:
            why = (
                f"size {seen.checkpoint.size} was witnessed ({', '.join(sorted(seen.times))}) {later_s} s after size"
                f" {kept.size} ({', '.join(sorted(before))})"
            )
            await self._archive.keep_suspect(seen, kept, why, {})
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"{source} shows the log at size {seen.checkpoint.size}; it had {kept.size} before",
            remedy="Try again; if this persists, an older state was restored or is shown, or entries are hidden:"
            " `counterfoil client evidence` shows what was kept.",
        )

    async def _check(self, kept: Checkpoint, seen: Checkpoint) -> None:
        """Check that one of two checkpoints extends the other."""
        older, newer = sorted((kept, seen), key=lambda item: item.size)
        if older.size == newer.size:
            raise CounterfoilError(Code.FORK, SAME_SIZE)
        failed: list[CounterfoilError] = []
        for history in self._histories:
            try:
                await history.check(older, newer)
            except ForkProved:
                raise
            except CounterfoilError as error:
                failed.append(error)
            else:
                return
        raise next((error for error in failed if error.code is Code.FORK), failed[0])


def check_age(seen: Witnessed, most_s: int, now_s: float | None = None) -> None:
    """Check that a checkpoint was witnessed at most `most_s` seconds ago; otherwise NOT_WITNESSED.
    The time is the earliest at which one of the counting witnesses signed: what entered the log since is unknown.
    """
    now = time.time() if now_s is None else now_s
    witnessed_at = min(seen.times.values())
    size = seen.checkpoint.size
    if witnessed_at > now + SKEW_S:
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"the checkpoint of size {size} was witnessed {witnessed_at - now:.0f} s from now by this machine's clock",
            remedy="Set the clocks of this machine and of the witnesses.",
        )
    if witnessed_at < now - most_s:
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"the newest checkpoint shown, of size {size}, was witnessed {now - witnessed_at:.0f} s ago; the policy"
            f" accepts {most_s} s",
            remedy="Check that the log and its witnesses are running, and this machine's clock.",
        )


def _forked(kept: Checkpoint, seen: Checkpoint, why: str) -> CounterfoilError:
    return CounterfoilError(
        Code.FORK,
        f"the log {seen.origin} shows size {seen.size} (root {seen.root.hex()}), which is not consistent with size"
        f" {kept.size} (root {kept.root.hex()}) that it showed before: {why}",
        remedy="Both checkpoints are in the archive: `counterfoil client evidence` exports them for the auditor and the witnesses.",
    )
