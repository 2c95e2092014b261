"""The intake: accepts requests, and keeps track of every session until its receipt is written."""

import asyncio
import logging
import time
from typing import Final

from execution_layer.engine.protocol import Engine, FinishReason, GenerationRequest
from execution_layer.node.admission import Admission, Admitted, Checked
from execution_layer.node.delivery import Delivery
from execution_layer.node.health import Health
from execution_layer.node.load import Load
from execution_layer.node.session import Session, SessionParts, open_session
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Unwritable

LARGE: Final = 16 * 2**10
"""Envelopes larger than this are parsed, opened and tokenised off the event loop."""
OPENING_S: Final = 2.0
"""How long a stop waits for requests that are being accepted."""
MARGIN: Final = 0.05
SHORTEST_MARGIN_S, LONGEST_MARGIN_S = 0.05, 0.5

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
    ) -> None:
        self._admission = admission
        self._engine = engine
        self._delivery = delivery
        self._health = health
        self._parts = parts
        self.owed: set[int] = set()
        """Accepted requests whose session ended without a receipt."""
        self._opening: set[asyncio.Task[Session]] = set()
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self.load = load

    async def take(self, order: bytes, envelope: bytes, remaining_s: float) -> Session:
        """Accept a request and start its session; if this raises, no trace of the request is left.
        `remaining_s` is the time until the caller's deadline: the sequence ends a little earlier, so
        that its receipt still reaches the caller.
        """
        opening = asyncio.create_task(self._start(order, envelope, remaining_s))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except (
            asyncio.CancelledError
        ):  # the caller is gone; an accepted request still gets its receipt
            opening.add_done_callback(_abandon)
            raise

    def refusal(self) -> CounterfoilError | None:
        """Return why requests are refused now; None if they are accepted."""
        return self.load.refusal() or self._health.refusal()

    async def close(self, grace_s: float) -> None:
        """Refuse new work, wait up to `grace_s` seconds for sessions to end, then cut them off with receipts."""
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
            _log.warning("requests are cut off by the stop", extra={"requests": len(late)})
        for session in list(self._sessions):
            session.cancel(FinishReason.FAILED)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, order: bytes, envelope: bytes, remaining_s: float) -> Session:
        if len(envelope) > LARGE:
            checked = await asyncio.to_thread(self._admission.check, order, envelope, now_ms())
        else:
            checked = self._admission.check(order, envelope, now_ms())
        if remaining_s <= SHORTEST_MARGIN_S:
            raise CounterfoilError(Code.DEADLINE, "no time is left until the call's deadline")
        if (refused := self._health.refusal()) is not None:
            raise refused
        tenant = checked.order.tenant
        self.load.enter(tenant)
        try:
            session = await self._open(checked, time.monotonic() + _usable(remaining_s))
        except BaseException:
            self.load.leave(tenant)
            raise
        self._sessions[session] = asyncio.create_task(self._run(session, tenant))
        return session

    async def _open(self, checked: Checked, deadline: float) -> Session:
        if len(checked.envelope) > LARGE:
            admitted = await asyncio.to_thread(self._admission.open, checked, now_ms())
        else:
            admitted = self._admission.open(checked, now_ms())
        generation = self._engine.submit(_generation_request(admitted, deadline))
        try:
            return await open_session(admitted, generation, self._parts)
        except Unwritable as error:
            generation.cancel(FinishReason.FAILED)
            raise self._health.told(error) from error
        except BaseException:
            generation.cancel(FinishReason.FAILED)
            raise

    async def _run(self, session: Session, tenant: str) -> None:
        try:
            await session.run()
        except Exception:  # noqa: BLE001  # the request stays recorded, and gets its receipt later
            _log.exception("a session could not write its receipt")
            self.owed.add(session.request)
        finally:
            del self._sessions[session]
            self.load.leave(tenant)
            self._delivery.wake()


def _usable(remaining_s: float) -> float:
    """Return the seconds available for generation, leaving time to deliver the receipt."""
    return remaining_s - min(LONGEST_MARGIN_S, max(SHORTEST_MARGIN_S, MARGIN * remaining_s))


def _generation_request(admitted: Admitted, deadline: float) -> GenerationRequest:
    return GenerationRequest(
        request_id=admitted.opened.header.request.hex(),
        tenant=admitted.order.tenant,
        prompt_ids=admitted.prompt_ids,
        settings=admitted.opened.body.settings,
        seed=admitted.seed,
        choice=admitted.opened.body.choice,
        deadline=deadline,
    )


def _abandon(opening: asyncio.Future[Session]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().cancel(FinishReason.CANCELLED)
