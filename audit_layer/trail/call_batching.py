"""Intake of statements for many callers at once, without a thread for each.

Admission (parsing, two signatures) is CPU work, so calls that arrive together are admitted together: one
job in a thread takes all that are waiting, up to a bound, and meanwhile the next ones gather. A lone
caller waits for its own admission and nothing else.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit_layer.trail.service import Accepted, Pending, Refused, Submission, Trail
from shared.runtime.errors import CounterfoilError

JOBS: Final = 2
"""Verifying signatures releases the interpreter lock, so a second job can use a second core."""
STATEMENTS_AT_ONCE: Final = 64
"""A job takes no further calls beyond this, so that one large call does not hold up small ones."""


@dataclass(frozen=True, slots=True)
class _Call:
    submissions: Sequence[Submission]
    receipts: bool
    pending: asyncio.Future[Pending]


class CallBatcher:
    """Feeds a trail. For one event loop."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._waiting: deque[_Call] = deque()
        self._jobs: set[asyncio.Task[None]] = set()

    async def submit(
        self, submissions: Sequence[Submission], *, receipts: bool = False
    ) -> list[Accepted | Refused]:
        """See `Trail.submit`."""
        call = _Call(submissions, receipts, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if len(self._jobs) < JOBS:
            job = asyncio.create_task(self._work(), name="admission")
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
        pending = await call.pending
        outcomes = await asyncio.shield(asyncio.wrap_future(pending.outcomes))
        if any(isinstance(outcome, CounterfoilError) for outcome in outcomes):
            return await asyncio.to_thread(
                self._trail.finish, pending, outcomes
            )  # may write a finding
        return self._trail.finish(pending, outcomes)

    async def _work(self) -> None:
        while self._waiting:
            calls = [self._waiting.popleft()]
            count = len(calls[0].submissions)
            while self._waiting and count + len(self._waiting[0].submissions) <= STATEMENTS_AT_ONCE:
                calls.append(self._waiting.popleft())
                count += len(calls[-1].submissions)
            for call, found in zip(calls, await asyncio.to_thread(self._admit, calls), strict=True):
                if (
                    call.pending.done()
                ):  # its caller has gone; what was queued is sequenced all the same
                    continue
                if isinstance(found, Pending):
                    call.pending.set_result(found)
                else:
                    call.pending.set_exception(found)

    def _admit(self, calls: Sequence[_Call]) -> list[Pending | Exception]:
        found: list[Pending | Exception] = []
        for call in calls:
            try:
                found.append(self._trail.begin(call.submissions, receipts=call.receipts))
            except Exception as e:  # noqa: BLE001 - it belongs to the waiting caller
                found.append(e)
        return found
