"""Resuming streams (protocol §4.9): who may have the rest of a response, and how many at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from execution_layer.node.drafts import ReceiptSigner, stream_context
from execution_layer.node.request_records import StoredStream
from execution_layer.node.session import Session
from execution_layer.node.store import NodeStore
from execution_layer.node.stored_streams import stream_of
from execution_layer.node.tape import Event, FinalEvent, StreamSigner, Tape
from shared.codec.moment import now_ms
from shared.runtime.clocks import untimely
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.rates import RateLimit
from shared.statements.cose import open_as
from shared.statements.orders import Order
from shared.statements.resumption import verify_resumption

FRESH_MS: Final = 5 * 60_000
"""How far a caller's time may be from the node's."""
MOST_READERS: Final = 2
"""Resumed streams of one order at a time; one more ends the oldest, whose caller may be gone without a word."""
PER_S: Final = 1.0
BURST: Final = 8.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for, and signed."""

    order: bytes
    """Entry of the order."""
    frames: int
    """How many frames it has."""
    at: int
    """Its time, ms since 1970."""
    signature: bytes


class InFlight(Protocol):
    """Knows the sessions."""

    async def in_flight(self, order: bytes) -> Session | None:
        """Return the session that answers an order, by its entry."""


class TenantKeys(Protocol):
    """Knows which keys tenants have."""

    def live(self, tenant: str) -> Collection[bytes] | None:
        """Return the keys that a tenant has now; None for a stranger."""


Look = Callable[[Callable[[], bool]], Awaitable[None]]
"""Asks the log, unless what is wanted is known by now."""


class Resuming:
    """Belongs to one event loop."""

    def __init__(
        self,
        sessions: InFlight,
        store: NodeStore,
        signer: ReceiptSigner,
        pace: Callable[[str, str], None],
        keys: TenantKeys,
        look: Look,
    ) -> None:
        """`pace` counts a call of a tenant to a method, or raises QUOTA; `look` asks the log for tenants' newer keys."""
        self._keys = keys
        self._look = look
        self._sessions = sessions
        self._pace = pace
        self._store = store
        self._signer = signer
        self._rate = RateLimit(PER_S, BURST)
        self._readers: dict[bytes, list[object]] = {}
        """Who reads the response to an order, oldest first."""

    async def events(self, wish: Wish) -> AsyncIterator[Event]:
        """Yield the acceptance, the frames that the caller lacks, and the final record.

        NOT_FOUND for whatever is not the wish of the order's own tenant, or not kept here; for that tenant also EXPIRED,
        CONFLICT, QUOTA, and UNAVAILABLE while the receipt cannot be written.
        """
        session = await self._sessions.in_flight(wish.order)
        found = self._store.journal.read(lambda db: stream_of(db, wish.order))
        if not await self._is_signed(found, wish) or found is None or not found.kept:
            raise CounterfoilError(
                Code.NOT_FOUND, "there is no response here that this signature resumes"
            )
        self._check(wish, found)
        tape = self._tape(found) if session is None else session.tape
        readers, mine = self._readers.setdefault(wish.order, []), object()
        readers.append(mine)
        if len(readers) > MOST_READERS:
            readers.pop(0)
            tape.wake()
        ended = False
        try:
            async for event in tape.read(wish.frames, lambda: mine in readers):
                yield event
                ended = isinstance(event, FinalEvent)
        finally:
            _leave(self._readers, wish.order, mine)
        if not ended:
            raise CounterfoilError(
                Code.UNAVAILABLE,
                "the response was cut off: it has no final record, or was resumed again elsewhere",
            )

    async def _is_signed(self, found: StoredStream | None, wish: Wish) -> bool:
        """Whether a key that the order's tenant has now signed the wish. One of a tenant that is served no more needs the key
        that signed the order. The log is asked for newer keys even where there is no order, so that a stranger cannot tell by
        the time that it takes.
        """

        def signed() -> bool:
            if found is None or found.tenant_key is None:  # of a version that resumed nothing
                return False
            live = self._keys.live(open_as(Order, found.order, None)[0].tenant)
            known = (found.tenant_key,) if live is None else live
            return any(_signed_by(wish, key) for key in known)

        if signed():
            return True
        await self._look(signed)
        return signed()

    def _check(self, wish: Wish, found: StoredStream) -> None:
        """Check the time, the rate and the number of frames; the caller is the order's tenant."""
        now = now_ms()
        if abs(wish.at - now) > FRESH_MS:
            raise untimely(
                Code.EXPIRED,
                f"a wish to resume counts for {FRESH_MS // 60_000} minutes; this one was signed at",
                wish.at,
                now,
                remedy="Set the clocks.",
            )
        self._pace(open_as(Order, found.order, None)[0].tenant, "Resume")
        if wait := self._rate.take(wish.order):
            raise CounterfoilError(
                Code.QUOTA, "this response is resumed too often", retry_after_s=wait
            )
        if wish.frames > found.frames:
            raise CounterfoilError(
                Code.CONFLICT,
                f"the response has {found.frames} frames, and not the {wish.frames} that you have",
                remedy="Keep yours: if this node signed them, they are evidence.",
            )

    def _tape(self, found: StoredStream) -> Tape:
        """Return a response that has ended, as it is stored."""
        if not found.finished:
            raise CounterfoilError(
                Code.UNAVAILABLE, "the receipt could not be written yet", retry_after_s=1.0
            )
        order, _ = open_as(Order, found.order, None)
        signer = StreamSigner(stream_context(order, found.node_nonce), self._signer)
        tape = Tape(self._store, found.request, signer, found.frames)
        final = FinalEvent(found.final_record, found.final_signature)
        tape.end(final if found.final_record else None)
        return tape


def _signed_by(wish: Wish, key: bytes) -> bool:
    try:
        verify_resumption(wish.order, wish.frames, wish.at, wish.signature, key)
    except CounterfoilError:
        return False
    return True


def _leave(readers: dict[bytes, list[object]], order: bytes, mine: object) -> None:
    left = [reader for reader in readers.get(order, ()) if reader is not mine]
    if left:
        readers[order][:] = left
    else:
        readers.pop(order, None)
