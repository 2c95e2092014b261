"""Publication: sign once, after commit; get it cosigned; put files where the world reads them.

The steps of one checkpoint, each durable before the next begins:

1. intent: the size and root to be signed, in the database;
2. signature, into the second place, then into the database;
3. tiles and entry bundles, as immutable files;
4. cosignatures of the quorum, into the database;
5. the checkpoint file, replaced last.

While nothing new arrives, the newest checkpoint is cosigned again from time to time, so that readers can tell a log at
rest from one that hides what is new: the file then holds the same tree as the database under later cosignatures.

Recovery is the normal path: every tick looks at what is unfinished and continues from there. There
is at most one signed checkpoint without a quorum; while it waits, nothing larger is signed. The
log stops permanently (FORK) when its database is behind the second place, or when anyone shows a
checkpoint signed by its key that its tree does not extend. A witness that merely claims to be ahead only
withholds its cosignature.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from audit_layer.log import checkpoint_table as table
from audit_layer.log.files import PublishedFiles
from audit_layer.log.fork_check import check_history
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.tile_table import read_file
from audit_layer.log.witnesses import WitnessClient, WitnessHoldsError
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import Note, Signer, parse_note
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed, witness_time
from shared.translog.proofs import consistency_proof
from shared.translog.signed_checkpoint import parse_and_verify, sign
from shared.translog.tiles import TileReader, files_grown

DEFAULT_INTERVAL_S = 0.5
DEFAULT_REFRESH_S = 120.0
"""Age of its cosignatures at which the newest checkpoint is cosigned again."""
GATHER_S = 0.02
"""How long a publication that was asked for waits for what arrives with it: no more of them than 50 a second."""
_MAX_BACKOFF_S = 5.0

_log = logging.getLogger(__name__)


class Publisher:
    """Publishes one log. One publisher works at a time per second place; others wait their turn."""

    def __init__(
        self,
        engine: Engine,
        *,
        signers: Sequence[Signer],
        policy: LogPolicy,
        witnesses: Sequence[WitnessClient],
        files: PublishedFiles,
        second_place: SecondPlace,
        interval_s: float = DEFAULT_INTERVAL_S,
        refresh_s: float = DEFAULT_REFRESH_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        origins = {signer.verifier.name for signer in signers}
        if len(origins) != 1 or {s.verifier for s in signers} != set(policy.logs):
            raise CounterfoilError(
                Code.CONFIGURATION, "the log's signing keys are not those in its log policy"
            )
        (self.origin,) = origins
        self._engine = engine
        self._signers = tuple(signers)
        self._policy = policy
        self._witnesses = tuple(witnesses)
        self._files = files
        self._second_place = second_place
        self._interval_s = interval_s
        self._refresh_s = refresh_s
        self._clock = clock
        self._fresh_until = 0.0
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._published_next = asyncio.Event()
        self._asked = False
        self._witness_sizes: dict[str, int] = {}

    def wake(self) -> None:
        """Ask `run` for a tick soon (from the loop's own thread): in `GATHER_S`, or as soon as publication works again."""
        self._wake.set()

    def next_published(self) -> asyncio.Event:
        """Return what is set when this process has published the next checkpoint."""
        return self._published_next

    async def run(self) -> None:
        """Tick until cancelled. Failures are logged and retried, more slowly."""
        failures = 0
        while True:
            try:
                await self.tick()
                failures = 0
            except CounterfoilError as e:
                failures += 1
                _log.log(
                    logging.WARNING if e.code.value.retryable else logging.ERROR,
                    "publication waits: %s",
                    e,
                )
            except Exception:  # noqa: BLE001 - one bad tick must not end publication for good
                failures += 1
                _log.exception("publication failed")
            pause = min(
                self._interval_s * 2 ** min(failures, 8), max(_MAX_BACKOFF_S, self._interval_s)
            )
            await self._pause(pause, wakes=failures == 0)

    async def _pause(self, longest_s: float, *, wakes: bool) -> None:
        """Wait until the next tick is due; being woken shortens it, unless publication fails."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await (self._wake.wait() if wakes else asyncio.sleep(longest_s))
                await asyncio.sleep(GATHER_S)
        self._wake.clear()

    async def publish(self) -> Witnessed | None:
        """Publish everything sequenced so far, now; return the newest witnessed checkpoint."""
        witnessed = await self.tick()
        return await self.tick() or witnessed

    async def tick(self) -> Witnessed | None:
        """Complete the next unfinished checkpoint; None when there is nothing to do.

        Errors: FORK (stopped), CONFLICT or NOT_WITNESSED (no quorum now), UNAVAILABLE, CORRUPT.
        """
        async with self._turn:
            with self._second_place.exclusively() as ours:
                if not ours:
                    return None
                self._second_place.check_running()
                await self._ask_witnesses_once()
                row = await asyncio.to_thread(self._sign_next)
                if row is None or row.note is None:
                    return await self._freshen()
                cosigned = row.cosigned_note or await self._gather(row.note)
                witnessed = await asyncio.to_thread(self._finish, row, cosigned)
                self._tell_published()
                return witnessed

    def _tell_published(self) -> None:
        waiting, self._published_next = self._published_next, asyncio.Event()
        waiting.set()

    def observe(self, note: str) -> None:
        """Examine a checkpoint that someone shows; FORK, permanently, if it is ours and not in our tree.

        A note that is not signed by this log's keys proves nothing and raises what verification
        raises.
        """
        shown, _ = parse_and_verify(note, self._policy.logs)
        with transaction(self._engine) as connection:
            history = table.History(connection)
            held = shown.size <= history.size and history.root_at(shown.size) == shown.root
        if not held:
            self._second_place.stop(note)
            self._second_place.check_running()

    async def _ask_witnesses_once(self) -> None:
        """Before this process first signs, see what a quorum of witnesses holds.

        A database and a second place that were both restored from a backup are caught here,
        before they can sign anything.
        """
        if self._asked:
            return
        answers = await asyncio.gather(
            *(witness.latest(self.origin) for witness in self._witnesses), return_exceptions=True
        )
        heard = 0
        for witness, answer in zip(self._witnesses, answers, strict=True):
            if isinstance(answer, CounterfoilError):
                _log.warning("witness %s: %s", witness.name, answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                heard += 1
                if answer is not None:
                    await asyncio.to_thread(self._observe_claim, witness.name, answer)
        if heard < self._policy.threshold:
            raise CounterfoilError(
                Code.UNAVAILABLE,
                f"{heard} of {self._policy.threshold} witnesses have said what they hold",
                retry_after_s=1.0,
            )
        self._asked = True

    def _observe_claim(self, witness: str, note: str) -> None:
        """Observe what a witness shows; a note that is not ours is the witness's problem."""
        try:
            self.observe(note)
        except CounterfoilError as e:
            if e.code in {Code.FORK, Code.UNAVAILABLE}:
                raise
            _log.warning("witness %s shows a checkpoint that is not ours: %s", witness, e)

    def _sign_next(self) -> table.CheckpointRow | None:
        """Steps 1 to 3: return the unfinished checkpoint, signed and its tiles published, or None."""
        with transaction(self._engine) as connection:
            history = table.History(connection)
            check_history(history, self._second_place)
            row = table.newest(connection)
            if row is None or row.published_at is not None:
                row = table.record_intent(history)
                fault_point("log.sign.before-intent")
        if row is None:
            return None
        fault_point("log.sign.after-intent")
        if row.note is None:
            note = self._signed_note(row)
            with transaction(self._engine) as connection:
                stored = table.store_note(connection, row.size, note)
            fault_point("log.sign.after-store")
            row = table.CheckpointRow(row.size, row.root, stored, None, None)
        self._publish_tiles(row.size)
        return row

    def _signed_note(self, row: table.CheckpointRow) -> str:
        """Sign an intent into the second place, unless that holds its signature already."""
        checkpoint = Checkpoint(self.origin, row.size, row.root)
        kept = self._second_place.read()
        if kept is not None and kept[0] == checkpoint:
            return kept[1]
        note = sign(checkpoint, self._signers, time_s=int(time.time())).encode()
        parse_and_verify(note, self._policy.logs)  # a faulty signature must not get out
        kept = self._second_place.write(checkpoint, note)
        return kept[1] if kept[0] == checkpoint else note

    def _publish_tiles(self, size: int) -> None:
        """Write every file that this size has and the last published one lacked."""
        with transaction(self._engine) as connection:
            grown = files_grown(table.published_size(connection), size)
            self._files.write_all((tile, read_file(connection, tile)) for tile in grown)

    async def _gather(self, note_text: str) -> str:
        """Ask all witnesses at once; return the note with cosignatures once there is a quorum."""
        note = parse_note(note_text)
        checkpoint, _ = parse_and_verify(note_text, self._policy.logs)
        tasks = [
            asyncio.create_task(self._ask(witness, checkpoint, note)) for witness in self._witnesses
        ]
        refusals: list[str] = []
        try:
            for task in asyncio.as_completed(tasks):
                try:
                    note = note.with_signatures((await task).signatures[len(self._signers) :])
                except CounterfoilError as e:
                    if e.code is Code.FORK:
                        raise
                    refusals.append(str(e))
                    continue
                with contextlib.suppress(CounterfoilError):
                    verify_witnessed(note.encode(), self._policy)
                    return note.encode()
        finally:
            for waiting in tasks:
                waiting.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise CounterfoilError(
            Code.NOT_WITNESSED,
            f"no quorum for size {checkpoint.size}: {'; '.join(refusals) or 'too few witnesses'}",
            retry_after_s=1.0,
        )

    async def _ask(self, witness: WitnessClient, checkpoint: Checkpoint, note: Note) -> Note:
        """Return the note with one witness's cosignatures, verified under the log policy's keys."""
        reader = TileReader(checkpoint.size, self._files.read)
        old = min(self._witness_sizes.get(witness.name, 0), checkpoint.size)
        for _ in range(3):
            proof = await asyncio.to_thread(consistency_proof, old, checkpoint.size, reader)
            try:
                lines = await witness.add_checkpoint(old, proof, note.encode())
            except WitnessHoldsError as e:
                if e.size > checkpoint.size or e.size == old:
                    break
                old = e.size
                continue
            keys = self._policy.witness_keys(witness.name)
            known = {(key.name, key.key_id) for key in keys}
            mine = tuple(line for line in lines if (line.name, line.key_id) in known)
            signed = note.with_signatures(mine)
            if witness_time(checkpoint, signed, keys) is None:
                raise CounterfoilError(
                    Code.NOT_WITNESSED, f"witness {witness.name!r} did not sign with all its keys"
                )
            self._witness_sizes[witness.name] = checkpoint.size
            return signed
        shown = await witness.latest(self.origin)
        if shown is not None:
            await asyncio.to_thread(self._observe_claim, witness.name, shown)
        raise CounterfoilError(
            Code.CONFLICT, f"witness {witness.name!r} claims to hold another or a larger tree"
        )

    async def _freshen(self) -> Witnessed | None:
        """Have the published checkpoint cosigned again if its cosignatures are old; None if they are not."""
        if self._clock() < self._fresh_until:
            return None
        published = await asyncio.to_thread(self._published)
        if published is None:
            return None
        row, witnessed = published
        if self._still_fresh(witnessed):
            return None
        assert row.note is not None
        again = verify_witnessed(await self._gather(row.note), self._policy)
        await asyncio.to_thread(self._files.write_checkpoint, again.note.encode())
        self._still_fresh(again)
        return again

    def _published(self) -> tuple[table.CheckpointRow, Witnessed] | None:
        """Return the newest checkpoint, as stored in the database and as published."""
        with transaction(self._engine) as connection:
            row = table.newest(connection)
        note = self._files.checkpoint()
        if row is None or row.published_at is None or note is None:
            return None
        witnessed = verify_witnessed(note, self._policy)
        held = (witnessed.checkpoint.size, witnessed.checkpoint.root) == (row.size, row.root)
        return (row, witnessed) if held else None  # otherwise fsck reports a difference

    def _still_fresh(self, witnessed: Witnessed) -> bool:
        self._fresh_until = min(witnessed.times.values()) + self._refresh_s
        return self._clock() < self._fresh_until

    def _finish(self, row: table.CheckpointRow, cosigned: str) -> Witnessed:
        """Steps 4 and 5."""
        verify_witnessed(cosigned, self._policy)
        fault_point("log.publish.before-cosigned")
        with transaction(self._engine) as connection:
            stored = table.store_cosigned(connection, row.size, cosigned)
            before = table.published_size(connection)
        witnessed = verify_witnessed(stored, self._policy)
        fault_point("log.publish.after-cosigned")
        self._files.write_checkpoint(stored)
        with transaction(self._engine) as connection:
            table.mark_published(connection, row.size)
        fault_point("log.publish.after-mark")
        self._files.drop_partials(files_grown(before, row.size))
        return witnessed
