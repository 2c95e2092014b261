"""The intake: accepts requests, and keeps track of every session until its receipt is written."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from execution_layer.engine.protocol import (
    Engine,
    FinishReason,
    Generation,
    GenerationRequest,
    Resumed,
)
from execution_layer.node.admission import ACCEPTED, Admission, Admitted, Checked
from execution_layer.node.chain import HeadChain
from execution_layer.node.chained import Chained
from execution_layer.node.delivery import Delivery
from execution_layer.node.health import Health
from execution_layer.node.load import Load
from execution_layer.node.recovery import Continuation
from execution_layer.node.refusing import Refuser, Unfit, judging
from execution_layer.node.session import Session, SessionParts, open_session
from execution_layer.node.start import Start
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Unwritable

LARGE: Final = 16 * 2**10
"""Envelopes larger than this are parsed, opened and tokenised off the event loop."""
OPENING_S: Final = 2.0
"""How long a stop waits for requests that are being accepted."""

_log = logging.getLogger(__name__)


class Intake:
    """Admission, engine and sessions in one place. Belongs to one event loop."""

    def __init__(
        self,
        *,
        admission: Admission,
        engine: Engine,
        load: Load,
        delivery: Delivery,
        health: Health,
        parts: SessionParts,
        refuser: Refuser,
        chain: HeadChain | None = None,
    ) -> None:
        self._admission = admission
        self._refuser = refuser
        self._chain = chain
        self._engine = engine
        self._delivery = delivery
        self._health = health
        self._parts = parts
        self.owed: set[int] = set()
        """Accepted requests whose session ended without a receipt."""
        self._opening: set[asyncio.Task[Session]] = set()
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._by_order: dict[bytes, asyncio.Future[Session]] = {}
        """What opens or has opened the session in flight, by its order's entry."""
        self.load = load

    async def take(self, order: bytes, envelope: bytes, parts: Sequence[bytes] = ()) -> Session:
        """Accept a request and start its session; if this raises, all that is left of the request is its signed refusal, which
        the error then bears. `parts` are the orders for the stages of a chain.

        Once it is accepted, the request runs to its end, whatever becomes of the call.
        """
        opening = asyncio.create_task(self._start(order, envelope, parts))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # the caller is gone, and is answered all the same
            opening.add_done_callback(_unheard)
            raise

    async def take_up(self, interrupted: Continuation) -> None:
        """Let a request go on that an earlier process had accepted; the log says why one does not, and it is then owed its
        receipt.
        """
        admitted, request = interrupted.admitted, interrupted.record.id
        try:
            await self._parts.store.note_interruption(request)
            start = Start.at(interrupted.record.accepted.started)
            wanted = replace(_generation_request(admitted, start), resumed=interrupted.resumed)
            chained = self._chained(admitted, replace(wanted, resumed=None))
            generation = self._engine.submit(wanted)
        except CounterfoilError as error:
            _log.error("an interrupted request cannot go on: %s", error)
            self.owed.add(request)
            return
        accepted, before = interrupted.record.accepted, interrupted.before
        session = Session(
            admitted, generation, accepted, request, start, self._parts, before, chained
        )
        self.load.enter_again(admitted.order.tenant)
        opened = asyncio.get_running_loop().create_future()
        opened.set_result(session)
        self._by_order[admitted.order_entry] = opened
        self._sessions[session] = asyncio.create_task(self._run(session, admitted, opened))
        _log.info("an interrupted request goes on", extra={"output_tokens": len(before.tokens)})

    async def in_flight(self, order: bytes) -> Session | None:
        """Return the session that answers an order (by its entry), once it is accepted; None if there is none."""
        opening = self._by_order.get(order)
        if opening is None:
            return None
        try:
            return await asyncio.shield(opening)
        except CounterfoilError:  # it is refused after all
            return None

    async def cancel(self, order: bytes, signature: bytes) -> None:
        """End the answer to an order (by its entry), as its tenant wishes; repeated, it changes nothing.

        NOT_FOUND if the order is not in flight, BAD_SIGNATURE if the key that signed the order did not sign this.
        """
        session = await self.in_flight(order)
        if session is None:
            raise CounterfoilError(Code.NOT_FOUND, "no such order is in flight here")
        try:
            await session.cancel(signature)
        except Unwritable as error:
            raise self._health.told(error) from error

    def refusal(self) -> CounterfoilError | None:
        """Return why requests are refused now; None if they are accepted."""
        return self.load.refusal() or self._health.refusal()

    async def close(self, grace_s: float) -> None:
        """Refuse new work, wait up to `grace_s` seconds for sessions to end, then leave the others to the node's next process."""
        self.load.drain()
        if self._opening:  # a request that already has a place becomes a session, or is refused
            _, stuck = await asyncio.wait(set(self._opening), timeout=OPENING_S)
            for opening in stuck:  # if it is on disk after all, the next start writes its receipt
                opening.cancel()
        tasks = list(self._sessions.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        if late:
            _log.warning("requests go on after the next start", extra={"requests": len(late)})
        for session in list(self._sessions):
            session.leave()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, order: bytes, envelope: bytes, parts: Sequence[bytes]) -> Session:
        try:
            return await self._accept(order, envelope, parts)
        except Unfit as unfit:
            raise await self._refuser.signed(unfit, now_ms()) from unfit.__cause__

    async def _accept(self, order: bytes, envelope: bytes, parts: Sequence[bytes]) -> Session:
        if len(envelope) > LARGE:
            checked = await asyncio.to_thread(
                self._admission.check, order, envelope, now_ms(), parts
            )
        else:
            checked = self._admission.check(order, envelope, now_ms(), parts)
        if (refused := self._health.refusal()) is not None:
            raise refused
        self.load.enter(checked.order.tenant)
        opening = asyncio.current_task()
        assert opening is not None
        self._by_order.setdefault(checked.order_entry, opening)
        try:
            session = await self._open(checked)
        except BaseException:
            self._forget(checked, opening)
            raise
        self._by_order[checked.order_entry] = (
            opening  # of two that came with one order, the one accepted
        )
        self._sessions[session] = asyncio.create_task(self._run(session, checked, opening))
        return session

    async def _open(self, checked: Checked) -> Session:
        if len(checked.envelope) > LARGE:
            admitted = await asyncio.to_thread(self._admission.open, checked, now_ms())
        else:
            admitted = self._admission.open(checked, now_ms())
        if self._chain is not None:
            await self._chain.accept(admitted.envelope, admitted.head_bundle, admitted.parts)
        start = Start.now()
        wanted = _generation_request(admitted, start)
        chained = self._chained(admitted, wanted)
        generation: Generation | None = None
        try:
            with judging(checked.order, checked.order_entry, ACCEPTED):
                generation = self._engine.submit(wanted)
            with judging(checked.order, checked.order_entry, {}):
                return await open_session(admitted, generation, start, self._parts, chained)
        except BaseException as error:
            if generation is not None:
                generation.cancel(FinishReason.FAILED)
            if chained is not None:
                if generation is not None:
                    async for _ in generation:  # until nothing more of it begins
                        pass
                await chained.give_up()
            if isinstance(error, Unwritable):
                raise self._health.told(error) from error
            raise

    def _chained(self, admitted: Admitted, wanted: GenerationRequest) -> Chained | None:
        """Let the chain compute a request, and return what its session needs of the chain."""
        chain = self._chain
        if chain is None:
            return None
        opened, request = admitted.opened, wanted.request_id
        chain.open(request, opened.ctx, opened.ts, admitted.order_entry, admitted.parts)

        def again(resumed: Resumed) -> Generation:
            return self._engine.submit(replace(wanted, resumed=resumed))

        return Chained(chain, request, admitted.parts, again)

    async def _run(
        self, session: Session, request: Checked | Admitted, opening: asyncio.Future[Session]
    ) -> None:
        try:
            await session.run()
        except Exception:  # noqa: BLE001  # the request stays recorded, and gets its receipt later
            _log.exception("a session could not write its receipt")
            self.owed.add(session.request)
        finally:
            del self._sessions[session]
            self._forget(request, opening)
            self._delivery.wake()

    def _forget(self, request: Checked | Admitted, opening: asyncio.Future[Session]) -> None:
        """Release a request's place; its order can no longer be cancelled."""
        if self._by_order.get(request.order_entry) is opening:
            del self._by_order[request.order_entry]
        self.load.leave(request.order.tenant)


def _generation_request(admitted: Admitted, start: Start) -> GenerationRequest:
    return GenerationRequest(
        request_id=admitted.order_entry.hex(),
        tenant=admitted.order.tenant,
        prompt_ids=admitted.prompt_ids,
        settings=admitted.opened.body.settings,
        seed=admitted.seed,
        choice=admitted.opened.body.choice,
        deadline=start.deadline(admitted.order.max_ms),
        delivered=len(admitted.opened.body.prefix),
    )


def _unheard(opening: asyncio.Future[Session]) -> None:
    """Take note of how an opening ended for which nobody waits any more."""
    if not opening.cancelled():
        opening.exception()
