"""Delivery: from the spool to the log, until every receipt has its index there.

Submitting the same receipt again is answered the same way, so a lost answer costs nothing but a repetition.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final, Protocol

from execution_layer.node.audit_link import Submitted
from execution_layer.node.request_records import PendingReceipt
from execution_layer.node.spool import Spool
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point

BATCH: Final = 64
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 15.0
PERMANENT: Final = frozenset(
    {
        Code.MALFORMED,
        Code.INVALID_ARGUMENT,
        Code.UNSUPPORTED,
        Code.BAD_SIGNATURE,
        Code.UNTRUSTED_KEY,
        Code.EQUIVOCATION,
        Code.COMMITMENT_MISMATCH,
        Code.NO_ORDER,
    }
)
"""Refusals that the same bytes would meet again. Every other one is tried again later."""

_log = logging.getLogger(__name__)


class Intake(Protocol):
    """Takes statements; idempotent."""

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Hand in (statement, order) pairs; one answer each."""


class Delivery:
    """Empties the spool whenever there is something in it, backing off while the server is away."""

    def __init__(self, spool: Spool, intake: Intake) -> None:
        self._spool = spool
        self._intake = intake
        self._signal = asyncio.Event()
        self._signal.set()
        self._pause_s = FIRST_PAUSE_S

    def wake(self) -> None:
        """Say that there is a new receipt."""
        self._signal.set()

    async def run(self) -> None:
        """Deliver for ever; ends by cancellation only."""
        while True:
            await self._signal.wait()
            self._signal.clear()
            if not await self.deliver():
                await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                self._signal.set()

    async def deliver(self) -> bool:
        """Hand in all that is pending; return whether nothing is left that has to be tried again."""
        while batch := self._spool.pending(BATCH):
            try:
                answers = await self._intake.submit(
                    [(item.statement, item.order) for item in batch]
                )
                fault_point("node.delivery.answered")
                settled = await self._settle(batch, answers)
            except (
                CounterfoilError
            ) as error:  # the log or our own disk; submitted again, nothing changes
                _log.warning(
                    "receipts cannot be delivered yet: %s", error, extra={"pending": len(batch)}
                )
                return False
            if not settled:
                return False
            self._pause_s = FIRST_PAUSE_S
        return True

    async def _settle(self, batch: Sequence[PendingReceipt], answers: Sequence[Submitted]) -> bool:
        """Record the answers; return False when one of them asks to be tried again."""
        delivered: list[tuple[int, int]] = []
        rejected: list[tuple[int, str]] = []
        later = False
        for item, answer in zip(batch, answers, strict=True):
            if answer.index is not None:
                delivered.append((item.sequence, answer.index))
                continue
            assert answer.refusal is not None
            code, detail = answer.refusal
            if code in PERMANENT:
                rejected.append((item.sequence, f"{code.name}: {detail}"))
                _log.error(
                    "the audit server REFUSES a receipt for good; it is kept, and tried again at the next"
                    " start: %s: %s",
                    code.name,
                    detail,
                    extra={"node_sequence": item.sequence},
                )
            else:
                later = True
                _log.warning("a receipt is not taken yet: %s: %s", code.name, detail)
        await self._spool.settle(delivered, rejected)
        return not later
