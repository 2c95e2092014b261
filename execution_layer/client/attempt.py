"""One attempt at one request: seal, order, stream, check, archive."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.archive import Archive, NewTranscript, Ordered, Received, State
from execution_layer.client.cancelling import Cancellations, cancel_order
from execution_layer.client.completion import CheckedReceipt, Completion, Timings
from execution_layer.client.directory import NodeEntry
from execution_layer.client.response_check import (
    Response,
    Sent,
    StreamReader,
    check_response,
)
from execution_layer.client.wanted import Terms, Wanted
from shared.codec.moment import now_ms
from shared.envelope.sealing import Candidate, OpenedRequest, SealedRequest, seal_request
from shared.envelope.stream import Frame
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.grpc import error_from_rpc
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, sign
from shared.statements.orders import MAX_WAIT_MS, Order
from shared.statements.receipts import Finish
from shared.statements.request import RequestBody

ANSWER_SHARE: Final = 0.95
"""Of a call's timeout, what the order allows for the answer: the rest is for the receipt to reach the caller."""
BACKSTOP_S: Final = 1.0
"""How much later than ours gRPC's own deadline comes. Ours must be first: a status could as well be the node's word,
and a node that could make us sign a cancellation early would be paid for an answer that it cut off itself."""


@dataclass(slots=True, repr=False)
class _Arrived:
    """What has come back so far."""

    node_nonce: bytes | None = None
    signature: bytes | None = None
    frames: list[tuple[bytes, bytes]] = field(default_factory=list)
    final_record: bytes | None = None
    final_signature: bytes | None = None
    first_token_at: float | None = None
    over: bool = False
    """Whether the node, or the network, ended the stream."""

    @property
    def accepted(self) -> bool:
        """Whether the node said that it accepted the request."""
        return self.node_nonce is not None

    def received(self) -> Received:
        return Received(
            self.node_nonce,
            self.signature,
            tuple(self.frames),
            self.final_record,
            self.final_signature,
        )


class Attempt:
    """A sealed and ordered request, on disk, ready to be sent once."""

    def __init__(
        self,
        archive: Archive,
        node: NodeEntry,
        wanted: Wanted,
        sent: Sent,
        ordered: Ordered,
        envelope: bytes,
        key: Ed25519PrivateKey,
    ) -> None:
        self._archive = archive
        self._node = node
        self._wanted = wanted
        self._sent = sent
        self._envelope = envelope
        self._key = key
        self.ordered = ordered
        self.node = node.name
        """operator/node"""
        self.frames: list[Frame] = []
        """What opened under the chain and was signed."""
        self.receipt: CheckedReceipt | None = None

    @classmethod
    async def prepare(
        cls,
        archive: Archive,
        terms: Terms,
        node: NodeEntry,
        wanted: Wanted,
        *,
        rate_card: bytes,
        number: int | None,
        timeout_s: float,
    ) -> "Attempt":
        """Seal a fresh envelope for one node and order it: a new number, or the next attempt of `number`.

        `timeout_s` is how long `run` will wait; the order's deadline comes a little earlier.
        """
        now = now_ms()
        sealed = _seal(terms, node, wanted, now)
        bound, max_ms = wanted.input_bound, _max_ms(timeout_s)
        if wanted.body.slots is not None:
            wanted.body.slots.check(wanted.body.settings, max_ms)
        order_for = partial(_order, terms, node, wanted, sealed, rate_card, bound, max_ms, now)

        def signed(given: int, attempt: int) -> tuple[bytes, bytes]:
            order = order_for(given, attempt)
            statement = sign(order, key=terms.key, issuer=terms.tenant)
            return statement, entry_of(statement)

        new = NewTranscript(node.name, node.entry, sealed.ts, sealed.envelope_bytes, wanted.tags)
        ordered = await archive.order(new, signed, number=number)
        fault_point("client.ordered")
        sent = Sent(
            order=order_for(ordered.number, ordered.attempt),
            order_entry=ordered.entry,
            opened=_as_opened(sealed, wanted.body),
            bundle=node.bundle,
            bundle_entry=node.entry,
            tenant_key=public_bytes(terms.key),
        )
        return cls(archive, node, wanted, sent, ordered, sealed.envelope_bytes, terms.key)

    async def run(
        self,
        channel: grpc.aio.Channel,
        timeout_s: float,
        cancellations: Cancellations,
        accept_s: float = float("inf"),
    ) -> Completion:
        """Send, read, check; whatever came back is archived, even if this raises.
        UNAVAILABLE if the node has not accepted within `accept_s` seconds, DEADLINE if the answer is not complete within
        `timeout_s`. A node whose stream we leave by ourselves is sent a cancellation; nobody waits for that.
        """
        arrived = _Arrived()
        started = time.monotonic()
        try:
            response = await self._exchange(channel, timeout_s, accept_s, arrived)
        except CounterfoilError as error:
            if not arrived.over and arrived.final_record is None:
                cancellations.send(channel, *self._cancellation(), accepted=arrived.accepted)
            await self._close(_state_of(error, arrived), arrived, problem=str(error))
            raise
        except BaseException:  # the caller gave up; the node still writes its receipt
            try:
                await cancel_order(channel, *self._cancellation(), accepted=arrived.accepted)
            finally:
                await self._close(State.BROKEN, arrived, problem="cancelled by the caller")
            raise
        try:
            receipt, entry = check_response(response, now_ms(), self._wanted.tokenise)
        except CounterfoilError as error:
            await self._close(State.DISBELIEVED, arrived, problem=str(error))
            raise
        fault_point("client.receipt.checked")
        await self._close(State.ANSWERED, arrived, receipt=(response.final.receipt, entry))
        self.receipt = CheckedReceipt(receipt, response.final.receipt, entry)
        if receipt.finish is Finish.FAILED:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{self._node.name} failed, and says so in its receipt"
            )
        return Completion(
            text=response.text,
            text_verified=response.text_is_whole is not None,
            token_ids=response.tokens,
            logprobs=response.logprobs,
            choice=self._wanted.body.choice,
            receipt=self.receipt,
            usage=receipt.usage,
            finish=receipt.finish,
            timings=_timings(started, arrived.first_token_at),
            transcript_id=self.ordered.id,
            number=self.ordered.number,
            attempt=self.ordered.attempt,
            node=self._node.name,
        )

    async def _exchange(
        self, channel: grpc.aio.Channel, timeout_s: float, accept_s: float, arrived: _Arrived
    ) -> Response:
        call = execution_pb2_grpc.InferenceStub(channel).Generate(
            execution_pb2.GenerateRequest(order=self.ordered.statement, envelope=self._envelope),
            timeout=timeout_s + BACKSTOP_S,
        )
        try:
            async with asyncio.timeout(timeout_s) as whole, asyncio.timeout(accept_s) as patience:
                return await self._read(call, arrived, lambda: patience.reschedule(None))
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
        except grpc.RpcError as error:
            arrived.over = True
            raise error_from_rpc(error) from error
        finally:
            with contextlib.suppress(Exception):
                call.cancel()

    def _cancellation(self) -> tuple[bytes, bytes]:
        """Return the order's entry and the signature that the rest of its answer is not wanted.
        A broken call alone would not tell the node.
        """
        return self.ordered.entry, sign_cancellation(self.ordered.entry, self._key)

    async def _read(
        self,
        call: AsyncIterable[execution_pb2.GenerateResponse],
        arrived: _Arrived,
        on_accepted: Callable[[], None],
    ) -> Response:
        reader: StreamReader | None = None
        response: Response | None = None
        async for message in call:
            if response is not None:
                raise CounterfoilError(
                    Code.MALFORMED, "the node sent something after the final record"
                )
            if reader is None:
                reader = self._accepted(message, arrived)
                on_accepted()
            elif message.WhichOneof("event") == "frame":
                self._frame(reader, message.frame, arrived)
            else:
                response = self._final(reader, message, arrived)
        arrived.over = True
        if response is None:
            raise CounterfoilError(Code.UNAVAILABLE, "the stream ended without a final record")
        return response

    def _accepted(self, message: execution_pb2.GenerateResponse, arrived: _Arrived) -> StreamReader:
        if message.WhichOneof("event") != "accepted":
            raise CounterfoilError(Code.MALFORMED, "the stream does not begin with the acceptance")
        accepted = message.accepted
        arrived.node_nonce, arrived.signature = accepted.node_nonce, accepted.signature
        text = self._wanted.model_text
        said = None if text is None else text.said(self._wanted.body)()
        return StreamReader(self._sent, accepted.node_nonce, accepted.signature, said)

    def _frame(self, reader: StreamReader, frame: execution_pb2.Frame, arrived: _Arrived) -> None:
        arrived.frames.append((frame.ciphertext, frame.signature))
        opened = reader.frame(frame.index, frame.ciphertext, frame.signature)
        self.frames.append(opened)
        if opened.tokens and arrived.first_token_at is None:
            arrived.first_token_at = time.monotonic()
        if opened.text and self._wanted.on_text is not None:
            self._wanted.on_text(opened.text)

    def _final(
        self,
        reader: StreamReader,
        message: execution_pb2.GenerateResponse,
        arrived: _Arrived,
    ) -> Response:
        if message.WhichOneof("event") != "final_record":
            raise CounterfoilError(Code.MALFORMED, "the node accepted the request twice")
        sealed, signature = message.final_record.ciphertext, message.final_record.signature
        arrived.final_record, arrived.final_signature = sealed, signature
        return Response.of(self._sent, reader, reader.final(sealed, signature))

    async def _close(
        self,
        state: State,
        arrived: _Arrived,
        *,
        problem: str | None = None,
        receipt: tuple[bytes, bytes] | None = None,
    ) -> None:
        await self._archive.close_attempt(
            self.ordered.id, state, arrived.received(), receipt=receipt, problem=problem
        )


def _seal(terms: Terms, node: NodeEntry, wanted: Wanted, now: int) -> SealedRequest:
    return seal_request(
        wanted.body,
        tenant=terms.tenant,
        candidates=[Candidate(node.entry, node.bundle.hpke_key)],
        custodians=terms.custodians,
        threshold=terms.threshold,
        model_root=wanted.model_root,
        max_output_tokens=wanted.body.settings.max_tokens,
        policy=terms.policy,
        expiry_ms=now + terms.expiry_ms,
    )


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


def _state_of(error: CounterfoilError, arrived: _Arrived) -> State:
    """Distinguish a refusal, a broken stream, and a response that cannot be believed."""
    if arrived.node_nonce is None:
        return State.REFUSED
    lying = {Code.UNREADABLE, Code.BAD_SIGNATURE, Code.MALFORMED, Code.COMMITMENT_MISMATCH}
    return State.DISBELIEVED if error.code in lying else State.BROKEN


def _timings(started: float, first_token_at: float | None) -> Timings:
    total = 1000 * (time.monotonic() - started)
    first = None if first_token_at is None else 1000 * (first_token_at - started)
    return Timings(first, total)
