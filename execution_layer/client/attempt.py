"""One attempt at one request: seal, order, stream, check, archive."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

import grpc

from execution_layer.client.archive import (
    Archive,
    NewTranscript,
    Ordered,
    Received,
    State,
    Transcript,
)
from execution_layer.client.calls import LIES, Calls, Patience, Reach
from execution_layer.client.cancelling import Cancellations, cancel_order
from execution_layer.client.chain_check import SentPart, part_order
from execution_layer.client.completion import CheckedReceipt, Completion, StageReceipt, Timings
from execution_layer.client.entries import NodeEntry
from execution_layer.client.envelopes import Envelopes
from execution_layer.client.part_records import NewPart
from execution_layer.client.receiving import Receiving
from execution_layer.client.response_check import Sent, check_response
from execution_layer.client.wanted import Terms, Wanted
from shared.codec.moment import now_ms
from shared.envelope.body import Audit
from shared.envelope.sealing import OpenedRequest, SealedRequest
from shared.envelope.stream import Frame
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.journal import Unwritable
from shared.runtime.keys import Signer, public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, sign
from shared.statements.orders import MAX_WAIT_MS, Order
from shared.statements.receipts import Finish
from shared.statements.refusals import open_refusal
from shared.statements.request import RequestBody

_log = logging.getLogger(__name__)
ANSWER_SHARE: Final = 0.95
"""Of a call's timeout, what the order allows for the answer: the rest is for the receipt to reach the caller."""
BACKSTOP_S: Final = 1.0
"""How much later than ours gRPC's own deadline comes. Ours must be first: a status could as well be the node's word,
and a node that could make us sign a cancellation early would be paid for an answer that it cut off itself."""
KEEP_EVERY_S: Final = 0.25
"""How often the archive gets what has arrived: what a client that is killed has not recorded, its node still has."""


class Attempt:
    """A sealed and ordered request, on disk, ready to be sent once."""

    def __init__(
        self,
        archive: Archive,
        node: str,
        wanted: Wanted,
        sent: Sent,
        ordered: Ordered,
        envelope: bytes,
        key: Signer,
    ) -> None:
        self._archive = archive
        self._wanted = wanted
        self._sent = sent
        self._envelope = envelope
        self._key = key
        self.ordered = ordered
        self.node = node
        """operator/node"""
        text = wanted.model_text
        said = None if text is None else text.said(wanted.body)
        self._receiving = Receiving(sent, said, wanted.on_text)
        self.receipt: CheckedReceipt | None = None

    @classmethod
    async def prepare(
        cls,
        archive: Archive,
        terms: Terms,
        node: NodeEntry,
        wanted: Wanted,
        *,
        rate_cards: Sequence[bytes],
        number: int | None,
        timeout_s: float,
        envelopes: Envelopes | None = None,
        beside: Sequence[NodeEntry] = (),
    ) -> "Attempt":
        """Seal an envelope for a node, and for those beside it, and order it from that node: a new number, or the next attempt of
        `number`. What `envelopes` has sealed is used again where it serves. `rate_cards` are the entries of the node's and of its
        stages' in order, each of whom is ordered from too.

        `timeout_s` is how long `run` will wait; the order's deadline comes a little earlier.
        """
        now = now_ms()
        sealed = (envelopes or Envelopes()).seal(terms, node, beside, wanted, now)
        bound, max_ms = wanted.input_bound, _max_ms(timeout_s)
        if wanted.body.slots is not None:
            wanted.body.slots.check(wanted.body.settings, max_ms)
        order_for = partial(_order, terms, node, wanted, sealed, rate_cards[0], bound, max_ms, now)

        def part_for(given: int, attempt: int, head: bytes, place: int) -> Order:
            stage, order = node.stages[place - 1], order_for(given, attempt)
            return part_order(order, head, place, stage.entry, rate_cards[place])

        def signed(order: Order) -> tuple[bytes, bytes]:
            statement = sign(order, key=terms.key, issuer=terms.tenant)
            return statement, entry_of(statement)

        audited = terms.policy.audit is Audit.ALWAYS
        new = NewTranscript(
            *(node.name, node.entry, sealed.ts, sealed.envelope_bytes, wanted.tags),
            audited=audited,
            canary=wanted.canary,
            parts=tuple(NewPart(stage.name, stage.entry) for stage in node.stages),
        )
        ordered = await archive.order(
            new,
            lambda *given: signed(order_for(*given)),
            number=number,
            key=public_bytes(terms.key),
            sign_part=lambda *given: signed(part_for(*given)),
        )
        fault_point("client.ordered")
        given = ordered.number, ordered.attempt
        sent = Sent(
            order=order_for(*given),
            order_entry=ordered.entry,
            opened=_as_opened(sealed, wanted.body),
            bundle=node.bundle,
            bundle_entry=node.entry,
            tenant_key=public_bytes(terms.key),
            parts=tuple(
                SentPart(part_for(*given, ordered.entry, place), entry, stage.bundle)
                for place, (stage, (_, entry)) in enumerate(
                    zip(node.stages, ordered.parts, strict=True), start=1
                )
            ),
        )
        return cls(archive, node.name, wanted, sent, ordered, sealed.envelope_bytes, terms.key)

    @classmethod
    def reopen(
        cls,
        archive: Archive,
        kept: Transcript,
        wanted: Wanted,
        sent: Sent,
        key: Signer,
    ) -> "Attempt":
        """Return an attempt of an earlier process, with what it had received; `wanted.on_text` gets the text of that too."""
        ordered = Ordered(
            *(kept.id, kept.number, kept.attempt, kept.order_statement, kept.order_entry),
            parts=tuple((part.order_statement, part.order_entry) for part in kept.parts),
        )
        attempt = cls(archive, kept.node, wanted, sent, ordered, kept.envelope, key)
        frames = tuple(zip(kept.frames, kept.signatures, strict=True))
        attempt._receiving.recall(
            Received(kept.node_nonce, kept.accepted_signature, frames, None, None)
        )
        return attempt

    @property
    def frames(self) -> list[Frame]:
        """What opened under the chain and was signed."""
        return self._receiving.opened

    async def run(
        self,
        channel: grpc.aio.Channel,
        timeout_s: float,
        cancellations: Cancellations,
        accept_s: float = float("inf"),
        patience: Patience | None = None,
    ) -> Completion:
        """Send, read, check; whatever came back is archived, even if this raises.
        UNAVAILABLE if the node has not accepted within `accept_s` seconds, DEADLINE if the answer is not complete within
        `timeout_s`. Once it is accepted, a stream that breaks is resumed with `patience`. A node whose stream we leave by
        ourselves is sent a cancellation; nobody waits for that.
        """
        started = time.monotonic()
        calls = self._calls(patience or Patience(0.0, _same(channel)), timeout_s)
        call = execution_pb2_grpc.InferenceStub(channel).Generate(
            execution_pb2.GenerateRequest(
                order=self.ordered.statement,
                envelope=self._envelope,
                parts=[statement for statement, _ in self.ordered.parts],
            ),
            timeout=timeout_s + BACKSTOP_S,
        )
        try:
            await self._exchange(calls, call, timeout_s, accept_s)
        except CounterfoilError as error:
            if not calls.over and self._receiving.received().final_record is None:
                cancellations.send(channel, *self._cancellation(), accepted=self._accepted)
            refusal = self._refusal(error)
            contradicted = refusal is not None and self._accepted
            state = State.DISBELIEVED if contradicted else _state_of(error, self._accepted)
            await self._close(state, problem=str(error), refusal=refusal)
            raise
        except BaseException:  # the caller gave up; the node still writes its receipt
            try:
                await cancel_order(channel, *self._cancellation(), accepted=self._accepted)
            finally:
                await self._close(State.BROKEN, problem="cancelled by the caller")
            raise
        return await self._checked(started)

    async def resume(self, timeout_s: float, patience: Patience) -> Completion:
        """Get the rest of an answer that was cut off, and check it; whatever comes back is archived.
        NOT_FOUND if the node has no more of it. It stays as it was, to be resumed later, where the node does not answer.
        """
        started = time.monotonic()
        try:
            await self._exchange(self._calls(patience, timeout_s), None, timeout_s, float("inf"))
        except CounterfoilError as error:
            if error.code in LIES:
                await self._close(State.DISBELIEVED, problem=str(error))
            elif error.code is Code.NOT_FOUND and self._accepted:
                await self._close(State.LOST, problem=str(error))
            elif error.code is Code.NOT_FOUND and self._is_past:
                await self._close(State.REFUSED, problem=str(error))
            raise
        return await self._checked(started)

    def paused(self, error: CounterfoilError) -> None:
        """Tell the application that the stream has broken and is being resumed."""
        if self._wanted.on_pause is not None:
            self._wanted.on_pause(self.node, error)

    @property
    def _accepted(self) -> bool:
        return self._receiving.accepted

    @property
    def _is_past(self) -> bool:
        """Whether nobody can accept the order any more, nor be answering it."""
        order = self._sent.order
        return max(order.expiry, order.created + (order.max_ms or 0)) < now_ms()

    def _calls(self, patience: Patience, timeout_s: float) -> Calls:
        return Calls(
            self.ordered.entry, self._key, self._receiving, patience, timeout_s + BACKSTOP_S
        )

    async def _exchange(self, calls: Calls, call: Any, timeout_s: float, accept_s: float) -> None:
        try:
            async with (
                self._keeping(),
                asyncio.timeout(timeout_s) as whole,
                asyncio.timeout(accept_s) as patience,
            ):
                await calls.receive(call, lambda: patience.reschedule(None))
        except TimeoutError as error:
            if whole.expired():
                raise CounterfoilError(
                    Code.DEADLINE, f"the answer was not complete within {timeout_s:g} s"
                ) from error
            if not patience.expired():
                raise
            raise CounterfoilError(
                Code.UNAVAILABLE, f"the request was not accepted within {accept_s:g} s"
            ) from error
        finally:
            if (found := calls.contradiction) is not None:
                await self._archive.keep_contradiction(
                    self.ordered.id, found.position, found.value, found.signature
                )

    @contextlib.asynccontextmanager
    async def _keeping(self) -> AsyncIterator[None]:
        """Archive what arrives, from time to time: what this process leaves behind is what another one resumes."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()

    async def _keep(self) -> None:
        known = 0
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            received = self._receiving.received()
            if received.node_nonce is not None and len(received.frames) > known:
                with contextlib.suppress(Unwritable):  # then the end of the attempt says so
                    await self._archive.keep(self.ordered.id, received, known)
                known = len(received.frames)
                fault_point("client.frames.kept")

    async def _checked(self, started: float) -> Completion:
        """Check the response, and archive and return the answer."""
        response = self._receiving.response
        assert response is not None
        try:
            receipt, entry = check_response(response, now_ms(), self._wanted.tokenise)
        except CounterfoilError as error:
            await self._close(State.DISBELIEVED, problem=str(error))
            raise
        fault_point("client.receipt.checked")
        stages = self._stages(response.final.stages or ())
        signed = [(stage.statement, stage.entry) for stage in stages]
        await self._close(State.ANSWERED, receipt=(response.final.receipt, entry), parts=signed)
        self.receipt = CheckedReceipt(receipt, response.final.receipt, entry)
        if receipt.finish is Finish.FAILED:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{self.node} failed, and says so in its receipt"
            )
        return Completion(
            text=response.text,
            text_verified=response.text_is_whole is not None,
            token_ids=response.tokens,
            logprobs=response.logprobs,
            choice=self._wanted.body.choice,
            receipt=self.receipt,
            stages=stages,
            usage=receipt.usage,
            finish=receipt.finish,
            timings=_timings(started, self._receiving.first_token_at),
            transcript_id=self.ordered.id,
            number=self.ordered.number,
            attempt=self.ordered.attempt,
            node=self.node,
        )

    def _stages(self, signed: Sequence[bytes]) -> tuple[StageReceipt, ...]:
        """Return the stages' receipts, which have been checked."""
        return tuple(
            StageReceipt(part.bundle.issuer, raw, entry_of(raw))
            for part, raw in zip(self._sent.parts or (), signed, strict=False)
        )

    def _refusal(self, error: CounterfoilError) -> tuple[bytes, bytes] | None:
        """Return (statement, entry) of the refusal that came with an error, if it is this order's and the node signed it; the error
        then says so. Any other one is worth no more than none.
        """
        raw, error.statement = error.statement, None
        if raw is None:
            return None
        try:
            refusal, signed = open_refusal(
                raw, self._sent.bundle, self._sent.order, self.ordered.entry
            )
        except CounterfoilError as wrong:
            _log.warning("%s sent a refusal that does not count: %s", self.node, wrong.detail)
            return None
        error.statement = raw
        error.metadata |= {"refusal": signed.entry.hex(), "refused_for": refusal.reason.value}
        return raw, signed.entry

    def _cancellation(self) -> tuple[bytes, bytes]:
        """Return the order's entry and the signature that the rest of its answer is not wanted.
        A broken call alone would not tell the node.
        """
        return self.ordered.entry, sign_cancellation(self.ordered.entry, self._key)

    async def _close(
        self,
        state: State,
        *,
        problem: str | None = None,
        receipt: tuple[bytes, bytes] | None = None,
        refusal: tuple[bytes, bytes] | None = None,
        parts: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        await self._archive.close_attempt(
            self.ordered.id,
            state,
            self._receiving.received(),
            receipt=receipt,
            refusal=refusal,
            problem=problem,
            parts=parts,
        )


def _same(channel: grpc.aio.Channel) -> Reach:
    async def reach(_elsewhere: bool) -> grpc.aio.Channel:
        return channel

    return reach


def _order(
    terms: Terms,
    node: NodeEntry,
    wanted: Wanted,
    sealed: SealedRequest,
    rate_card: bytes,
    max_input_tokens: int,
    max_ms: int,
    now: int,
    number: int,
    attempt: int,
) -> Order:
    return Order(
        tenant=terms.tenant,
        number=number,
        attempt=attempt,
        ctx=sealed.ctx,
        kc=sealed.kc,
        envelope=sealed.envelope_hash,
        bundle=node.entry,
        created=now,
        expiry=now + terms.expiry_ms,
        max_input_tokens=max_input_tokens,
        max_output_tokens=wanted.body.settings.max_tokens,
        rate_card=rate_card,
        cost_centre=wanted.cost_centre,
        max_ms=max_ms,
    )


def _max_ms(timeout_s: float) -> int:
    """Return an order's deadline, in ms from its acceptance, for a call that lasts `timeout_s` seconds."""
    return min(MAX_WAIT_MS, max(1, int(ANSWER_SHARE * 1000 * timeout_s)))


def _as_opened(sealed: SealedRequest, body: RequestBody) -> OpenedRequest:
    return OpenedRequest(
        header=sealed.header,
        ctx=sealed.ctx,
        kc=sealed.kc,
        keys=sealed.keys,
        body=body,
        ts=sealed.ts,
        envelope_hash=sealed.envelope_hash,
    )


def _state_of(error: CounterfoilError, accepted: bool) -> State:
    """Distinguish a refusal, a broken stream, and a response that cannot be believed."""
    if not accepted:
        return State.REFUSED
    return State.DISBELIEVED if error.code in LIES else State.BROKEN


def _timings(started: float, first_token_at: float | None) -> Timings:
    total = 1000 * (time.monotonic() - started)
    first = None if first_token_at is None else 1000 * (first_token_at - started)
    return Timings(first, total)
