"""What the client remembers of the log, so that it can be shown neither another history nor an older one.

The archive keeps every accepted witnessed checkpoint. A larger one must be proved to extend the largest; a
smaller one must be proved to be a prefix of it, and is then good for what it proves, but not for what is new. A
checkpoint that contradicts them is FORK: both notes stay in the archive as evidence.
"""

import asyncio
import time
from typing import Final

import grpc

from execution_layer.client.archive import Archive
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import Witnessed
from shared.translog.proofs import verify_consistency

TIMEOUT_S: Final = 20.0
AUDIT_SERVER: Final = "the audit server"
"""Its name in errors, so that nobody looks for their cause at a node or in a database of their own."""
SKEW_S: Final = 300


class LogMemory:
    """One client's view of its log. Safe for concurrent calls within one event loop."""

    def __init__(self, archive: Archive, channel: grpc.aio.Channel) -> None:
        self._archive = archive
        self._log = audit_pb2_grpc.LogStub(channel)
        self._turn = asyncio.Lock()

    async def accept(self, seen: Witnessed) -> None:
        """Remember a witnessed checkpoint.

        FORK if it contradicts the stored checkpoints, or is not proved to be consistent with them; UNAVAILABLE if the log
        does not return the proof.
        """
        async with self._turn:
            kept = self._archive.largest_checkpoint(seen.checkpoint.origin)
            while kept not in {None, seen.checkpoint}:
                assert kept is not None
                try:
                    await self._check(kept, seen.checkpoint)
                except CounterfoilError as error:
                    if error.code is Code.FORK:
                        await self._archive.keep_suspect(seen, error.detail)
                    raise
                now_kept = self._archive.largest_checkpoint(seen.checkpoint.origin)
                if now_kept == kept:  # otherwise another process has seen more meanwhile
                    break
                kept = now_kept
            await self._archive.remember_checkpoint(seen, kept or seen.checkpoint)

    async def _check(self, kept: Checkpoint, seen: Checkpoint) -> None:
        """Check that one of two checkpoints extends the other."""
        older, newer = sorted((kept, seen), key=lambda item: item.size)
        if older.size == newer.size:
            raise _forked(kept, seen, "they have the same size but different roots")
        request = audit_pb2.GetConsistencyRequest(old_size=older.size, new_size=newer.size)
        try:
            answer = await self._log.GetConsistency(request, timeout=TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = error_from_rpc(rpc_error, AUDIT_SERVER)
            if error.code in {Code.UNAVAILABLE, Code.DEADLINE, Code.OVERLOADED, Code.QUOTA}:
                raise error from rpc_error
            raise _forked(kept, seen, f"the log does not prove it: {error.detail}") from rpc_error
        try:
            verify_consistency(older.size, older.root, newer.size, newer.root, list(answer.proof))
        except CounterfoilError as error:
            raise _forked(kept, seen, f"the log's proof does not hold: {error.detail}") from error


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
        remedy="Both checkpoints are in the archive: show them to the auditor and the witnesses.",
    )
