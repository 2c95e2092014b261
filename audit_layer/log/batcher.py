"""Group commit: many callers, one appending thread, as few transactions as the load allows.

There is no timer. While one batch commits, submissions queue up; the next batch takes all of
them, up to the limit. A lone submitter waits for its own commit and nothing else.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from audit_layer.log.cose_receipts import Receipts
from audit_layer.log.sequencer import Hook, Result, Sequenced, Sequencer, Submission
from shared.runtime.errors import Code, CounterfoilError

DEFAULT_BATCH = 1024
DEFAULT_QUEUE = 32_768
_CONCERNS_ALL = frozenset({Code.FORK, Code.CORRUPT})
"""Failures that are no single submission's fault, besides the retryable ones."""


@dataclass(slots=True)
class _Group:
    """What one caller submitted together."""

    items: list[Submission]
    receipts: bool
    future: Future[list[Result]] = field(default_factory=Future)


class Batcher:
    """Feeds a sequencer. `close` answers everything that was accepted."""

    def __init__(
        self,
        sequencer: Sequencer,
        *,
        in_transaction: Hook | None = None,
        receipts: Receipts | None = None,
        max_batch: int = DEFAULT_BATCH,
        max_queue: int = DEFAULT_QUEUE,
    ) -> None:
        self._sequencer = sequencer
        self._hook = in_transaction
        self._receipts = receipts
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._groups: deque[_Group] = deque()
        self._queued = 0
        self._closed = False
        self._on_awaited: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    def tell(self, on_awaited: Callable[[], None] | None) -> None:
        """Have `on_awaited` called, in the appending thread, whenever something new was sequenced that somebody awaits."""
        self._on_awaited = on_awaited

    def submit(
        self, items: Sequence[Submission], *, receipts: bool = False
    ) -> Future[list[Result]]:
        """Queue submissions that belong together; the future holds one result each, once durable.

        With `receipts`, what is sequenced comes with its COSE Receipt. Immediate errors:
        INVALID_ARGUMENT above the batch limit, UNSUPPORTED where no receipts are issued, OVERLOADED
        when the queue is full, DRAINING after `close`. The future raises what `Sequencer.append`
        and `Receipts.issue` raise.
        """
        if receipts and self._receipts is None:
            raise CounterfoilError(Code.UNSUPPORTED, "this process issues no COSE Receipts")
        if len(items) > self._max_batch:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a call takes at most {self._max_batch} statements"
            )
        group = _Group(list(items), receipts)
        with self._changed:
            if self._closed:
                raise CounterfoilError(Code.DRAINING, "the log accepts no more entries")
            if self._queued + len(items) > self._max_queue:
                raise CounterfoilError(
                    Code.OVERLOADED, "the log's queue is full", retry_after_s=0.5
                )
            self._groups.append(group)
            self._queued += len(items)
            self._changed.notify()
        return group.future

    async def append(self, items: Sequence[Submission], *, receipts: bool = False) -> list[Result]:
        """Await `submit`. Cancelling the caller does not take the entries back."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(items, receipts=receipts)))

    def close(self, timeout_s: float = 30.0) -> None:
        """Accept nothing more, finish what is queued, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _take(self) -> list[_Group]:
        """Wait for work; return whole groups up to the batch limit, or nothing at the end."""
        with self._changed:
            while not self._groups and not self._closed:
                self._changed.wait()
            taken: list[_Group] = []
            count = 0
            while self._groups and count + len(self._groups[0].items) <= self._max_batch:
                taken.append(self._groups.popleft())
                count += len(taken[-1].items)
            self._queued -= count
            return taken

    def _run(self) -> None:
        while groups := self._take():
            wanted = [group for group in groups if group.future.set_running_or_notify_cancel()]
            if wanted:
                self._append(wanted)

    def _append(self, groups: Sequence[_Group]) -> None:
        """Append groups together; if that fails because of one of them, find it by bisection."""
        try:
            results = self._sequencer.append(
                [item for group in groups for item in group.items], in_transaction=self._hook
            )
        except Exception as e:  # noqa: BLE001 - whatever it is belongs to the waiting callers
            shared = isinstance(e, CounterfoilError) and (
                e.code.value.retryable or e.code in _CONCERNS_ALL
            )
            if len(groups) == 1 or shared:
                for group in groups:
                    group.future.set_exception(e)
                return
            middle = len(groups) // 2
            self._append(groups[:middle])
            self._append(groups[middle:])
            return
        self._answer(groups, results)
        self._tell(groups, results)

    def _answer(self, groups: Sequence[_Group], results: Sequence[Result]) -> None:
        """Give each group its results, with COSE Receipts where they were asked for."""
        at = 0
        own: list[list[Result]] = []
        for group in groups:
            own.append(list(results[at : at + len(group.items)]))
            at += len(group.items)
        wanting = [place for place, group in enumerate(groups) if group.receipts]
        try:
            self._add_receipts([own[place] for place in wanting])
        except Exception as e:  # noqa: BLE001 - it belongs to the waiting callers
            for place in wanting:
                groups[place].future.set_exception(e)
        for group, found in zip(groups, own, strict=True):
            if not group.future.done():
                group.future.set_result(found)

    def _tell(self, groups: Sequence[_Group], results: Sequence[Result]) -> None:
        on_awaited = self._on_awaited
        items = (item for group in groups for item in group.items)
        if on_awaited is not None and any(map(_is_new, items, results)):
            on_awaited()

    def _add_receipts(self, groups: Sequence[list[Result]]) -> None:
        """Attach COSE Receipts to what was sequenced, all under one tree head and one signature."""
        placed = [result for found in groups for result in found if isinstance(result, Sequenced)]
        if not placed:
            return
        assert self._receipts is not None
        issued = iter(self._receipts.issue(self._sequencer.head(), placed))
        for found in groups:
            found[:] = [
                next(issued) if isinstance(result, Sequenced) else result for result in found
            ]


def _is_new(item: Submission, result: Result) -> bool:
    """Whether somebody awaits this entry, and it was not in the log before."""
    return item.awaited and isinstance(result, Sequenced) and not result.duplicate
