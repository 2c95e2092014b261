"""Delivery: from the spool to the log, until every receipt has its index there.
Submission is idempotent, so a lost answer costs only a repetition.
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
"""Refusals that the same bytes would get again. After any other, the receipt is retried later."""

_log = logging.getLogger(__name__)


class Intake(Protocol):
    """Accepts statements; idempotent."""

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Submit (statement, order) pairs; return one answer per pair."""


class Delivery:
    """Empties the spool whenever there is something in it, backing off while the server is unavailable."""

    def __init__(self, spool: Spool, intake: Intake) -> None:
        self._spool = spool
        self._intake = intake
        self._signal = asyncio.Event()
        self._signal.set()
        self._pause_s = FIRST_PAUSE_S

    def wake(self) -> None:
        """Signal that there is a new receipt."""
        self._signal.set()

    async def run(self) -> None:
        """Deliver forever; ends only by cancellation."""
        while True:
            await self._signal.wait()
            self._signal.clear()
            if not await self.deliver():
                await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                self._signal.set()

    async def deliver(self) -> bool:
        """Submit all pending receipts; return whether nothing is left to retry. Those that must wait hold up no others."""
        done, after = True, -1
        while batch := self._spool.pending(BATCH, after=after):
            try:
                answers = await self._intake.submit(
                    [(item.statement, item.order) for item in batch]
                )
                fault_point("node.delivery.answered")
                done = await self._settle(batch, answers) and done
            except (
                CounterfoilError
            ) as error:  # the log or our own disk; submitting again changes nothing
                _log.warning(
                    "receipts cannot be delivered yet: %s", error, extra={"pending": len(batch)}
                )
                return False
            after = batch[-1].sequence
            if done:
                self._pause_s = FIRST_PAUSE_S
        return done

    async def _settle(self, batch: Sequence[PendingReceipt], answers: Sequence[Submitted]) -> bool:
        """Record the answers; return False if one of them must be retried."""
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
                    "the audit server REFUSES a receipt permanently; it is kept, and retried at the next"
                    " start: %s: %s",
                    code.name,
                    detail,
                    extra={"node_sequence": item.sequence},
                )
            else:
                later = True
                _log.warning("a receipt is not accepted yet: %s: %s", code.name, detail)
        await self._spool.settle(delivered, rejected)
        return not later
