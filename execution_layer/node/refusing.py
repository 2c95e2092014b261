"""Refusing an order of a known tenant: the reason is signed, once, and the order is never accepted afterwards (protocol §3.7).

What is wrong with the order is signed. What is wrong with the node at the moment (no room, no disk, draining) is not: the order
stands, and a node in need must not be made to write for everyone whom it turns away.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.identity import KeyRing
from execution_layer.node.store import NodeStore
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Unwritable
from shared.statements.orders import Order
from shared.statements.refusals import RefusalReason, refuse_order

_HOUR_MS: Final = 3_600_000
EXPIRED_MS: Final = _HOUR_MS
"""For this long after its expiry an order may still be refused with a signature. The node remembers it for a day longer, so that
a clock that is set back never makes it sign twice."""
AHEAD_MS: Final = 48 * _HOUR_MS
"""An order that expires later than this from now is not remembered, and so not refused with a signature."""
Reasons = Mapping[Code, RefusalReason]
"""Which errors of a step are the order's own fault, and what a refusal calls it."""

_log = logging.getLogger(__name__)


class Unfit(CounterfoilError):  # noqa: N818  # what an order is
    """An order whose tenant signed it, and that is not accepted. `reason` is None where that is not the order's fault."""

    def __init__(
        self, error: CounterfoilError, order: Order, entry: bytes, reason: RefusalReason | None
    ) -> None:
        super().__init__(
            error.code,
            error.detail,
            remedy=error.remedy,
            metadata=error.metadata,
            retry_after_s=error.retry_after_s,
        )
        self.order = order
        self.entry = entry
        self.reason = reason


@contextmanager
def judging(order: Order, entry: bytes, reasons: Reasons) -> Iterator[None]:
    """Raise what a step finds wrong as `Unfit`; a write that fails is not about the order."""
    try:
        yield
    except (Unfit, Unwritable):
        raise
    except CounterfoilError as error:
        raise Unfit(error, order, entry, reasons.get(error.code)) from error


class Refuser:
    """Signs refusals with the node's key and keeps them. Belongs to one event loop."""

    def __init__(self, store: NodeStore, signer: ReceiptSigner, ring: KeyRing, most: int) -> None:
        self._store = store
        self._signer = signer
        self._ring = ring
        self._most = most
        """How many refusals are kept for one tenant at a time; what is above that is refused without a signature."""

    async def signed(self, unfit: Unfit, now_ms: int) -> Unfit:
        """Return the error with the signed refusal of its order, if there is or may be one; it is on disk by then."""
        try:
            unfit.statement = await self._statement(unfit, now_ms)
        except Unwritable as error:
            _log.warning("a refusal could not be stored, so it goes out unsigned: %s", error.reason)
        return unfit

    async def _statement(self, unfit: Unfit, now_ms: int) -> bytes | None:
        order, entry, reason = unfit.order, unfit.entry, unfit.reason
        kept = self._store.refusal_of(entry)
        if kept is not None or reason is None or not self._is_ours(order, now_ms):
            return kept
        refusal = refuse_order(order, entry, reason, now_ms)
        return await self._store.refuse(
            refusal, self._signer.refusal, until_ms=max(order.expiry, now_ms), most=self._most
        )

    def _is_ours(self, order: Order, now_ms: int) -> bool:
        """Return whether the order names a key bundle of this node, and is one that it can remember."""
        timely = now_ms - EXPIRED_MS <= order.expiry <= now_ms + AHEAD_MS
        return timely and self._ring.known(order.bundle) is not None
