"""One accepted request, from its first token to its receipt.

A session runs in a task of its own and outlives the call that started it: if the client goes away, the
answer is completed all the same, and its receipt written (protocol §4.7). Whoever reads its events, now or later, has
each only after its content is stored. It also goes on where a process that was killed had stored a session's last frame.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from execution_layer.engine.protocol import (
    Finished,
    FinishReason,
    Generation,
    TokenChunk,
)
from execution_layer.node.admission import Admitted
from execution_layer.node.chained import Chained
from execution_layer.node.counts import NodeCounts
from execution_layer.node.drafts import (
    Outcome,
    ReceiptSigner,
    draft_receipt,
    seal_final,
    stream_context,
)
from execution_layer.node.energy import UNMEASURED, EnergyMeter
from execution_layer.node.request_records import AcceptedRecord
from execution_layer.node.slot_clock import SlotClock
from execution_layer.node.start import Start
from execution_layer.node.store import NodeStore
from execution_layer.node.tape import Event, FinalEvent, StreamSigner, Tape
from execution_layer.node.words import Waiting, Words
from shared.envelope.blinded import token_bytes
from shared.envelope.body import settings_bytes
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.shape import frame_class
from shared.envelope.stream import FrameSealer
from shared.runtime.faults import fault_point
from shared.runtime.logs import incident
from shared.statements.cancellations import verify_cancellation
from shared.statements.receipts import EnergyQuality, Finish, Usage
from shared.statements.request import Slots

_log = logging.getLogger(__name__)
NONCE_BYTES: Final = 32
FRAME_TOKENS: Final = 1024
"""This many tokens are framed without waiting: with all their log-probabilities they fit into a frame."""


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What all of a node's sessions share."""

    store: NodeStore
    signer: ReceiptSigner
    energy: EnergyMeter
    frame_interval_s: float
    numeric_profile: bytes
    counts: NodeCounts = field(default_factory=NodeCounts)


@dataclass(frozen=True, slots=True)
class Before:
    """What an earlier process had stored of a response: its frames, and what they say."""

    frames: tuple[bytes, ...] = ()
    tokens: tuple[int, ...] = ()
    text: str = ""


class Session:
    """Create it with `open_session`; `run` it in a task, read its `tape`. With `before`, it goes on behind those frames."""

    def __init__(
        self,
        admitted: Admitted,
        generation: Generation,
        record: AcceptedRecord,
        request: int,
        start: Start,
        parts: SessionParts,
        before: Before | None = None,
        chained: Chained | None = None,
    ) -> None:
        self._admitted = admitted
        self._generation = generation
        self._record = record
        self.request = request
        """Its row in the store."""
        self.incident: str | None = None
        """The number under which the node's log has what went wrong."""
        self.left = False
        """Whether the node stops."""
        self._start = start
        self._parts = parts
        self._chained = chained
        self._cancel: bytes | None = None
        """The tenant's signature, once it has cancelled the order."""
        self._context = stream_context(admitted.order, record.node_nonce)
        self._keys = admitted.opened.keys
        self._interrupted = before is not None
        before = before or Before()
        self._sealer = FrameSealer(self._keys, self._context, admitted.opened.shape)
        for ciphertext in before.frames:
            self._sealer.follow(ciphertext)
        self._waiting = Waiting()
        """What has not been framed yet."""
        self._stored = Words(list(before.tokens), before.text)
        """What is in frames on disk: all that the receipt will cover."""
        self._stored_h = self._sealer.h
        self._signer = StreamSigner(self._context, parts.signer)
        self.tape = Tape(parts.store, request, self._signer, self._sealer.frames)
        """What callers have of the response."""
        self._flushed_at = float("-inf")
        self._hurry = asyncio.Event()
        """Set once nothing is to wait for a time slot any more."""

    async def cancel(self, signature: bytes) -> None:
        """End the sequence as its tenant wishes, also over a restart; BAD_SIGNATURE if the order's tenant did not sign this."""
        verify_cancellation(self._record.order_entry, signature, self._admitted.tenant_key)
        await self._parts.store.note_cancel(self.request, signature)
        self._cancel = self._cancel or signature
        self._generation.cancel(FinishReason.CANCELLED)
        self._hurry.set()

    def leave(self) -> None:
        """Stop here, because the node stops: what is not done by then goes on behind its stored frames after the restart."""
        if self._cancel is None:
            self.left = True
            self._generation.cancel(FinishReason.FAILED)
        self._hurry.set()

    def events(self) -> AsyncIterator[Event]:
        """Yield the events for the client, in order, up to the final record."""
        return self.tape.read()

    async def run(self) -> None:
        """Stream, then write the receipt. Whatever goes wrong, the request ends with a receipt, unless the node stops: then it
        is left to the node's next process.
        """
        share = self._parts.energy.begin()
        try:
            try:
                slots = self._admitted.opened.body.slots
                finished = await (self._stream() if slots is None else self._stream_in_slots(slots))
            except Exception as error:  # noqa: BLE001  # a node is accountable for what it accepted
                self.incident = incident(_log, error, "a generation").metadata["incident"]
                self._generation.cancel(FinishReason.FAILED)
                finished = None
            energy = self._parts.energy.end(share)
            if self._goes_on_later(finished):
                await self._parts.store.note_stop(self.request)
                return
            if self._interrupted:  # what an earlier process used is known to nobody
                energy = UNMEASURED
            outcome = self._outcome(finished, energy.quality, energy.millijoules)
            if self._chained is not None:
                outcome = await self._chained.close(outcome, self._stored.text)
            await self._finish(outcome)
        finally:
            self.tape.end(None)

    async def _stream(self) -> Finished:
        """Frame tokens as they arrive: the first immediately, later ones grouped by the frame interval."""
        loop = asyncio.get_running_loop()
        source = aiter(self._generation)
        pending: asyncio.Task[TokenChunk | Finished] | None = None
        try:
            while True:
                if pending is None and not self._waiting:
                    event = await anext(source)  # nothing is due: no timer, no task
                else:
                    pending = pending or asyncio.ensure_future(anext(source))
                    wait_s = self._flushed_at + self._parts.frame_interval_s - loop.time()
                    timeout = max(0.0, wait_s) if self._waiting else None
                    await asyncio.wait({pending}, timeout=timeout)
                    if not pending.done():
                        await self._flush()
                        continue
                    event, pending = pending.result(), None
                if isinstance(event, Finished):
                    if not self._goes_on_later(event):
                        await self._flush_rest(event)
                    return event
                assert isinstance(event, TokenChunk)
                self._waiting.add(event)
                if len(self._waiting) >= FRAME_TOKENS:
                    await self._flush()
        finally:
            if pending is not None:
                pending.cancel()

    async def _stream_in_slots(self, slots: Slots) -> Finished:
        """Send a frame in every slot, whatever the engine does, and then up to a class of their number."""
        loop = asyncio.get_running_loop()
        clock, reading = SlotClock(loop.time(), slots.ms / 1000), asyncio.create_task(self._read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=clock.wait(loop.time()))
                if clock.due(loop.time()):
                    await self._flush(slots)
            finished = reading.result()
        finally:
            reading.cancel()
        if self._goes_on_later(finished):
            return finished
        self._waiting.add(
            TokenChunk(self._rest(finished), "")
        )  # no frame is on its way to disk now
        if finished.finish_reason not in {FinishReason.STOP, FinishReason.LENGTH}:
            self._hurry.set()
        while not self._hurry.is_set() and (self._waiting or not self._in_class):
            await self._slot(clock)
            await self._flush(slots)
        while self._waiting:
            await self._flush(slots)
        return finished

    def _goes_on_later(self, finished: Finished | None) -> bool:
        """Whether the node stops before the answer has come to its end."""
        return self.left and (finished is None or finished.finish_reason is FinishReason.FAILED)

    async def _read(self) -> Finished:
        """Take in what is generated, at the engine's own pace."""
        async for event in self._generation:
            if isinstance(event, Finished):
                return event
            self._waiting.add(event)
        raise AssertionError("a generation ends with Finished")

    async def _slot(self, clock: SlotClock) -> None:
        """Wait for the next slot, or until nothing is to wait any more: then the order's deadline has come, or somebody
        wants the end.
        """
        loop, order = asyncio.get_running_loop(), self._admitted.order
        deadline = self._start.deadline(order.max_ms) or float("inf")
        try:
            async with asyncio.timeout_at(min(clock.next_at, deadline)):
                await self._hurry.wait()
        except TimeoutError:
            clock.due(loop.time())
            if loop.time() >= deadline:
                self._hurry.set()

    @property
    def _in_class(self) -> bool:
        return self._sealer.frames == frame_class(self._sealer.frames)

    async def _flush_rest(self, finished: Finished) -> None:
        """Frame what is left, so that frames and receipt cover the same tokens."""
        self._waiting.add(TokenChunk(self._rest(finished), ""))
        await self._flush()

    def _rest(self, finished: Finished) -> tuple[int, ...]:
        """Return the tokens that came in no chunk."""
        known = (*self._stored.tokens, *self._waiting.tokens)
        assert finished.output_ids[: len(known)] == known
        rest = finished.output_ids[len(known) :]
        if self._admitted.opened.body.settings.logprobs is None:
            return rest
        # a token that lacks its log-probabilities because of a failure is not sent
        assert not rest or finished.finish_reason is FinishReason.FAILED
        return ()

    async def _flush(self, slots: Slots | None = None) -> None:
        """Seal, store and send one frame of what has accumulated: under time slots what it has room for, be it nothing."""
        if slots is None and not self._waiting:
            return
        words = self._waiting.take() if slots is None else self._waiting.take_within(slots.size)
        self._flushed_at = asyncio.get_running_loop().time()
        ciphertext, h = self._sealer.seal(words.tokens, words.text, words.logprobs)
        index = self._sealer.frames
        first = bool(words.tokens) and not self._stored.tokens
        cached = self._generation.cached_prompt_tokens if first else None
        await self._parts.store.append_frame(self.request, index, ciphertext, cached=cached)
        self._stored.add(words.tokens, words.text)
        self._stored_h = h
        fault_point("node.frame.stored")
        self.tape.add(self._signer.frame(index, ciphertext, h))

    def _outcome(
        self, finished: Finished | None, quality: EnergyQuality, millijoules: int | None
    ) -> Outcome:
        """Return how it ended. A failed request has usage for what was framed, and no evidence."""
        failed = finished is None or finished.finish_reason is FinishReason.FAILED
        framed = tuple(self._stored.tokens)
        usage = Usage(
            input=len(self._admitted.prompt_ids),
            cached=0 if finished is None else finished.cached_prompt_tokens,
            output=len(framed),
            energy_quality=quality,
            compute_ms=None if finished is None else finished.compute_ms,
            energy_mj=millijoules,
        )
        if failed:
            return Outcome(Finish.FAILED, usage, self._stored_h, framed, self._start.ended())
        assert finished is not None
        blocks = finished.activations
        evidence = Evidence(
            input_tokens=self._admitted.prompt_ids,
            output_tokens=framed,
            prompt_blocks=blocks.prompt_blocks,
            output_blocks=blocks.output_blocks,
            text=self._stored.text,
        )
        return Outcome(
            finish=Finish(finished.finish_reason.value),
            usage=usage,
            h_final=self._stored_h,
            output_ids=framed,
            ended=self._start.ended(),
            prompt_blocks=blocks.prompt_blocks,
            output_blocks=blocks.output_blocks,
            evidence=seal_evidence(evidence, self._keys, self._context),
            cancel=self._cancel if finished.finish_reason is FinishReason.CANCELLED else None,
        )

    async def _finish(self, outcome: Outcome) -> None:
        """Number, sign and store the receipt; only then may the final record be sent."""
        whole = self._sealer.h == self._stored_h
        """False if a frame was sealed but could not be stored: nothing can follow it then."""
        seal = seal_final(self._sealer, self._signer.final, outcome, self._stored.text)
        signed = await self._parts.store.finish(
            self.request,
            draft_receipt(self._record, self._keys, outcome),
            sign=self._parts.signer.receipt,
            seal_final=seal if whole else None,
        )
        fault_point("node.receipt.stored")
        self._parts.counts.ended(outcome)
        _log.info(
            "receipt signed",
            extra={
                "node_sequence": signed.sequence,
                "tenant": self._record.tenant,
                "finish": outcome.finish.value,
                "output_tokens": outcome.usage.output,
            },
        )
        if whole:
            self.tape.end(FinalEvent(signed.final_record, signed.final_signature))


async def open_session(
    admitted: Admitted,
    generation: Generation,
    start: Start,
    parts: SessionParts,
    chained: Chained | None = None,
) -> Session:
    """Record the request as accepted at `start` and return its session; REPLAYED if another call with it came first."""
    keys, body = admitted.opened.keys, admitted.opened.body
    settings = settings_bytes(body, admitted.seed)
    record = AcceptedRecord(
        order=admitted.order_statement,
        order_entry=admitted.order_entry,
        tenant=admitted.order.tenant,
        number=admitted.order.number,
        attempt=admitted.order.attempt,
        ctx=admitted.order.ctx,
        envelope=admitted.envelope,
        request_id=admitted.opened.header.request,
        secret=admitted.opened.ts,
        node_nonce=os.urandom(NONCE_BYTES),
        model_root=admitted.opened.header.model_root,
        numeric_profile=parts.numeric_profile,
        settings=keys.blind("settings", settings),
        input=keys.blind("input", token_bytes(admitted.prompt_ids)),
        prompt_tokens=len(admitted.prompt_ids),
        started=start.wall_ms,
        tenant_key=admitted.tenant_key,
        parts=tuple(part.statement for part in admitted.parts),
    )
    until = max(admitted.order.expiry, admitted.opened.header.expiry)
    request = await parts.store.accept(record, until_ms=until)
    fault_point("node.accepted")
    return Session(admitted, generation, record, request, start, parts, chained=chained)
