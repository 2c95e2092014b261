"""A stage's parts of answers: accepted once, durably, and closed with a receipt each (protocol §4.10)."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from execution_layer.node.drafts import ReceiptSigner, draft_part
from execution_layer.node.health import Health
from execution_layer.node.load import Load
from execution_layer.node.part_admission import CheckedPart, PartAdmission, open_part
from execution_layer.node.part_store import PartStore
from execution_layer.node.request_records import AcceptedRecord
from execution_layer.node.session import NONCE_BYTES
from execution_layer.node.start import Start
from execution_layer.pipeline.parts import Computed, Counts, Offered, Part
from shared.codec.moment import now_ms
from shared.envelope.stages import BoundarySecret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.journal import Unwritable
from shared.statements.cose import read_as
from shared.statements.orders import Order, beyond_bounds
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage

PATIENCE_MS: Final = 3_600_000
"""How long after the order's expiry a part may be closed: an order that was accepted in time may be answered for longer."""
LOOK_EVERY_S: Final = 5.0
_SECRET: Final = 32
_NOTHING: Final = Counts(0, 0, 0)
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True, repr=False)
class _Kept:
    """A part whose secrets are kept."""

    id: int
    record: AcceptedRecord
    order: Order
    start: Start
    part: Part
    closed: bool = False

    @property
    def until(self) -> int:
        """When it counts as abandoned, and its secrets are forgotten (ms since 1970)."""
        return self.order.expiry + PATIENCE_MS


class AcceptedParts:
    """Implements `Parts` for one stage. Belongs to one event loop."""

    def __init__(
        self,
        admission: PartAdmission,
        store: PartStore,
        signer: ReceiptSigner,
        *,
        load: Load,
        health: Health,
        heed: Callable[[bytes], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        """`heed` learns of the key that an order is signed with, if it is a new one; `wake` signals a receipt to deliver."""
        self._admission = admission
        self._store = store
        self._signer = signer
        self._load = load
        self._health = health
        self._heed = heed
        self._wake = wake
        self._kept: dict[bytes, _Kept] = {}
        self._turn = asyncio.Lock()
        """Of two that end one part, the second finds it ended."""
        self._under_way: set[asyncio.Task[Any]] = set()

    async def restore(self, promised: Callable[[bytes], bool]) -> None:
        """Take up what an earlier process had accepted. A part fails unless its key bundle (by its entry) is still `promised`:
        the model, the layers or the numeric profile may be others by now.
        """
        for request, record, closed in self._store.kept():
            one = self._keep(request, record, Start.at(record.started), closed=closed)
            if not (closed or promised(one.order.bundle)):
                _log.warning("a part of an answer does not go on: its key bundle is gone")
                await self._give_up(one)

    async def run(self) -> None:
        """Let go of what is over, from time to time; ends only by cancellation."""
        while True:
            await self.let_go(now_ms())
            await asyncio.sleep(LOOK_EVERY_S)

    async def let_go(self, now: int) -> None:
        """Forget the secrets of parts whose time is over, and sign that those failed that nobody has closed."""
        for one in [one for one in self._kept.values() if one.until <= now]:
            if not one.closed:
                _log.warning("a part of an answer was never closed", extra={"head": one.part.head})
                await self._give_up(one)
            if one.closed:
                await self._store.forget(one.id)
                del self._kept[one.part.order]

    async def settle(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def accept(self, offered: Offered, caller: str) -> bytes:
        """Accept an order from the node `caller`, durably, and return the key bundle (statement) that it names; raises why
        not. One that was accepted is accepted again.
        """
        await self._heed(offered.order)
        return await self._to_its_end(self._accept(offered, caller))

    def find(self, order: bytes) -> Part | None:
        """Return an accepted part, also one that has its receipt: a chain may have to compute it again for another stage."""
        one = self._kept.get(order)
        return None if one is None else one.part

    async def close(self, order: bytes, counts: Counts, caller: str, computed: Computed) -> bytes:
        """Sign, store and return a part's receipt, the same one each time. NOT_FOUND, FORBIDDEN for another caller than the
        head, CONFLICT if the counts are not those of what was computed or of the receipt that there is. Without output, the
        part is given up, and its receipt says failed.
        """
        return await self._to_its_end(self._close(order, counts, caller, computed))

    async def _give_up(self, one: _Kept) -> None:
        """Sign that a part failed, unless it is closed meanwhile or the store cannot be written: then it stays open."""
        try:
            await self._to_its_end(self._close(one.part.order, _NOTHING, one.part.head, None))
        except CounterfoilError as error:
            _log.warning("a part of an answer stays open: %s", error)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what writes: it is not left half done if its caller goes."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except Unwritable as error:
            raise self._health.told(error) from error

    async def _accept(self, offered: Offered, caller: str) -> bytes:
        signed = self._admission.signed(offered)
        if self._is_known(signed.entry, caller):
            return self._admission.bundle(signed, now_ms()).statement
        checked = self._admission.check(signed, offered, caller, now_ms())
        if (refused := self._health.refusal()) is not None:
            raise refused
        place = _place(signed.order.tenant, caller)
        self._load.enter(place)
        try:
            start = Start.now()
            record = self._record(checked, open_part(checked, offered), caller, start)
            until = max(signed.order.expiry, checked.header.expiry)
            try:
                request = await self._store.accept(record, until_ms=until)
            except CounterfoilError as error:
                if error.code is Code.REPLAYED and self._is_known(signed.entry, caller):
                    return checked.keys.statement  # of two calls at once, the other one was first
                raise
            fault_point("node.part.accepted")
            self._keep(request, record, start)
        finally:
            self._load.leave(place)
        return checked.keys.statement

    def _is_known(self, order: bytes, caller: str) -> bool:
        """Return whether an order was accepted; FORBIDDEN unless the caller is the head that it was accepted from."""
        known = self._store.find(order)
        if known is not None:
            _check_head(known.head, caller)
        return known is not None

    def _record(
        self,
        checked: CheckedPart,
        secrets: tuple[BoundarySecret, BoundarySecret],
        head: str,
        start: Start,
    ) -> AcceptedRecord:
        order = checked.signed.order
        return AcceptedRecord(
            order=checked.signed.statement,
            order_entry=checked.signed.entry,
            tenant=order.tenant,
            number=order.number,
            attempt=order.attempt,
            ctx=order.ctx,
            envelope=b"",
            request_id=checked.header.request,
            secret=b"".join(side.secret for side in secrets),
            node_nonce=os.urandom(NONCE_BYTES),
            model_root=checked.header.model_root,
            numeric_profile=checked.keys.bundle.numeric_profile,
            settings=b"",
            input=b"",
            prompt_tokens=0,
            started=start.wall_ms,
            tenant_key=checked.signed.tenant_key,
            head=head,
        )

    def _keep(
        self, request: int, record: AcceptedRecord, start: Start, *, closed: bool = False
    ) -> _Kept:
        order = read_as(Order, record.order)
        assert order.part is not None and order.max_input_tokens is not None  # noqa: PT018  # as accepted
        assert record.head is not None
        place, secret = order.part.place, record.secret
        part = Part(
            order=record.order_entry,
            ctx=record.ctx,
            head=record.head,
            before=BoundarySecret(place - 1, secret[:_SECRET]),
            behind=BoundarySecret(place, secret[_SECRET:]),
            positions=order.max_input_tokens + order.max_output_tokens,
        )
        one = self._kept[record.order_entry] = _Kept(request, record, order, start, part, closed)
        if not closed:
            self._load.enter_again(_place(record.tenant, record.head))
        return one

    async def _close(
        self, order: bytes, counts: Counts, caller: str, computed: Computed | None
    ) -> bytes:
        async with self._turn:
            known = self._store.find(order)
            if known is None or (known.receipt is None and order not in self._kept):
                raise CounterfoilError(
                    Code.NOT_FOUND, f"no part for order {order.hex()[:16]}… was accepted here"
                )
            _check_head(known.head, caller)
            if known.receipt is not None:
                _check_again(read_as(Receipt, known.receipt), counts)
                return known.receipt
            one = self._kept[order]
            if counts.output and computed is not None:
                draft = _completed(one, counts, computed)
            else:
                draft = _failed(one)
            statement = await self._store.finish(one.id, draft, self._signer.receipt)
            fault_point("node.part.closed")
            one.closed = True
        self._load.leave(_place(one.record.tenant, one.part.head))
        self._wake()
        return statement


def _completed(one: _Kept, counts: Counts, computed: Computed) -> Receipt:
    """Return the draft for a part that was computed."""
    order = one.order
    wrong = beyond_bounds(
        (counts.input, counts.output), (order.max_input_tokens, order.max_output_tokens)
    )
    if wrong is None and not (counts.input and counts.cached <= counts.input):
        wrong = f"{counts.cached} of {counts.input} input tokens cannot have been cached"
    if wrong is not None:
        raise CounterfoilError(Code.INVALID_ARGUMENT, wrong)
    roots = computed(one.part, counts.positions)
    assert order.part is not None
    chain = Chain(order.part.place, sent=roots.sent, received=roots.received)
    usage = Usage(*counts, EnergyQuality.UNMEASURED, compute_ms=roots.compute_ms)
    return draft_part(one.record, usage, Finish.STOP, one.start.ended(), chain)


def _failed(one: _Kept) -> Receipt:
    usage = Usage(*_NOTHING, EnergyQuality.UNMEASURED)
    return draft_part(one.record, usage, Finish.FAILED, one.start.ended(), None)


def _check_again(receipt: Receipt, counts: Counts) -> None:
    """Check that a part is closed with the numbers with which it was closed before; CONFLICT."""
    usage = receipt.usage
    told = Counts(usage.input, usage.cached, usage.output)
    if told != counts and (counts.output or receipt.finish is not Finish.FAILED):
        raise CounterfoilError(
            Code.CONFLICT,
            f"the part's receipt says {receipt.finish}, with {told.input} input tokens, {told.cached} of them cached, and"
            f" {told.output} output tokens",
        )


def _place(tenant: str, head: str) -> str:
    """Return whose quota a part uses: a head that closes nothing takes nobody else's."""
    return f"{tenant} at {head}"


def _check_head(head: str, caller: str) -> None:
    if head != caller:
        raise CounterfoilError(
            Code.FORBIDDEN, f"the part belongs to a chain whose head is {head}, not {caller}"
        )
