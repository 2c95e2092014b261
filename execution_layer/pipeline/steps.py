"""The first stage of a chain: embeds, sends, and finishes what comes back, with several steps under way."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from execution_layer.engine.runner import Chosen, Finishing, LostError, Step
from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.gauge import Gauge
from execution_layer.pipeline.line import Connect, Line
from execution_layer.pipeline.tally import Tally
from shared.model.decoder import Ends
from shared.runtime.errors import Code, CounterfoilError

logger = logging.getLogger(__name__)
PATIENCE_S: Final = 60.0
STALL_S: Final = 60.0
PAUSE_S: Final = 0.2
_Arrivals = queue.SimpleQueue[tuple[float, Boundary | Exception]]
"""What has come, and when."""


class _Going(NamedTuple):
    """A step that is under way."""

    rows: int
    sent_at: float
    embedding_s: float
    begin_s: float
    """What it took until it was on its way."""


class ChainSteps(Finishing):
    """Computes steps on a chain that it connects, and connects again when it breaks; then all keys and values are lost.

    Not for use by two threads at once, but for `wake`, which is called from any.
    """

    def __init__(
        self,
        ends: Ends,
        connect: Connect,
        depth: int | Gauge,
        wake: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
        stall_s: float = STALL_S,
        answers: Answers | None = None,
    ) -> None:
        """Keep up to `depth` steps under way, or as many as it measures to be best. Where no chain can be had for `patience_s`
        seconds, all of them fail; one from which nothing comes for `stall_s` seconds is broken. `answers` are those of an
        accountable chain.
        """
        super().__init__(ends, ends.backend)
        self._gauge = depth if isinstance(depth, Gauge) else Gauge(depth)
        self._tally = Tally(since=time.time())
        self._ends, self._connect, self._wake = ends, connect, wake
        self._answers = answers
        self._patience_s, self._stall_s = patience_s, stall_s
        self._heard = 0.0
        """When the chain last had nothing to do, or something came of it."""
        self._line: Line | None = None
        self._arrivals: _Arrivals = queue.SimpleQueue()
        self._sent = self._received = 0
        self._going: deque[_Going] = deque()
        """What is under way."""
        self._connecting: threading.Thread | None = None
        self._connected: Line | CounterfoilError | None = None
        """What the connecting thread has come to."""
        self.closed = threading.Event()
        """Whether the chain was let go."""
        self._since: float | None = time.monotonic()
        """Since when there has been no chain."""

    @property
    def tally(self) -> Tally:
        """How the chain stands. May be asked by any thread."""
        return self._tally

    def depth(self, running: int, chunks: int) -> int:
        """Return how many steps may be under way."""
        depth = self._gauge.depth(running, chunks)
        if (depth, running) != (self._tally.depth, self._tally.running):
            self._note(depth=depth, running=running)
        return depth

    def begin(self, step: Step) -> None:
        """Send a step's rows; if there is no chain, there will be one before `end` says that they are lost."""
        if self._line is None:
            return
        begun = time.perf_counter()
        if self._sent == self._received:
            self._heard = time.monotonic()
        states = self._ends.embed(step.spans)
        sent_at = time.perf_counter()
        rows = tuple(span.rows for span in step.spans)
        requests = tuple(part.sequence.request.request_id for part in step.parts)
        if self._answers is not None:
            for request, span in zip(requests, rows, strict=True):
                self._answers.went(request, span.count)
        self._line.send(Boundary(self._sent, rows, states, requests))
        self._sent += 1
        done_at = time.perf_counter()
        self._going.append(_Going(step.rows, sent_at, sent_at - begun, done_at - begun))
        self._note(under_way=len(self._going), rows=self._tally.rows + step.rows)

    def end(self, step: Step) -> Chosen | None:
        """Finish the oldest step if its states have come back. UNAVAILABLE while no chain can be had."""
        if self._line is None:
            self._await_line()
            return None
        arrived: Boundary | Exception
        try:
            came_at, arrived = self._arrivals.get_nowait()
        except queue.Empty:
            if time.monotonic() - self._heard < self._stall_s:
                return None
            came_at = 0.0
            arrived = TimeoutError(f"nothing came of a step for {self._stall_s:g} s")
        self._heard = time.monotonic()
        if (wrong := self._wrong(arrived, step)) is not None:
            logger.warning("the chain broke", extra={"error": str(wrong)})
            self._break(wrong)
            self._await_line()  # nothing else wakes the engine until there is one
            return None
        assert isinstance(arrived, Boundary)
        begun = time.perf_counter()
        hidden = self._ends.hidden(arrived.states)
        going = self._going.popleft()
        own = going.embedding_s + time.perf_counter() - begun
        self._received += 1
        chosen = self.finish(step, hidden, own)
        ends_s = going.begin_s + time.perf_counter() - begun
        self._measure(going, arrived, came_at, ends_s, len(chosen))
        return chosen

    def _measure(
        self, going: _Going, arrived: Boundary, came_at: float, ends_s: float, tokens: int
    ) -> None:
        """Note a step that is over, what it took here and elsewhere, and what came of it."""
        known, tally = arrived.spent, self._tally
        if not self._gauge.came(going.rows, came_at - going.sent_at, known, ends_s):
            known = ()
        stages_s = tally.stages_s if len(tally.stages_s) == len(known) else (0.0,) * len(known)
        self._note(
            steps=tally.steps + 1,
            tokens=tally.tokens + tokens,
            ends_s=tally.ends_s + ends_s,
            stages_s=tuple(total + its.took_s for total, its in zip(stages_s, known, strict=True))
            or tally.stages_s,
            under_way=len(self._going),
            rows=tally.rows - going.rows,
            trip_s=self._gauge.trip_s,
        )

    def _note(self, **changes: Any) -> None:
        self._tally = replace(self._tally, **changes)

    def _wrong(self, arrived: Boundary | Exception, step: Step) -> Exception | None:
        """Return what is wrong with what has come back for a step, if anything."""
        if isinstance(arrived, Exception):
            return arrived
        try:
            arrived.check(self._received, self._ends.config.hidden_size, step.rows)
        except CounterfoilError as error:
            return error
        if arrived.rows != tuple(span.rows for span in step.spans):
            return CounterfoilError(Code.MALFORMED, "a chain returns other rows than it was given")
        return None

    def close(self) -> None:
        """Let go of the chain."""
        self._note(connected_at=None, rows=0, under_way=0)
        self.closed.set()
        if self._line is not None:
            self._line.close()

    def _break(self, wrong: Exception) -> None:
        assert self._line is not None
        self._line.close()
        self._line = None
        if self._answers is not None:
            self._answers.lost()
        self._going.clear()
        breaks = self._tally.breaks + 1
        self._note(breaks=breaks, last_break=str(wrong), connected_at=None, rows=0, under_way=0)
        self._since = time.monotonic()

    def _await_line(self) -> None:
        """Begin to connect, or raise what came of it: LostError once there is a chain, which knows nothing yet."""
        if self._connecting is None:
            self._arrivals = queue.SimpleQueue()
            self._connecting = threading.Thread(
                target=self._try, args=(self._arrivals,), name="chain", daemon=True
            )
            self._connecting.start()
            return
        found, self._connected = self._connected, None
        if found is None:
            return
        self._connecting = None
        if isinstance(found, CounterfoilError):
            raise found
        self._line, self._since = found, None
        self._sent = self._received = 0
        connections = self._tally.connections + 1
        self._note(connections=connections, connected_at=time.time())
        raise LostError

    def _try(self, arrivals: _Arrivals) -> None:
        assert self._since is not None
        until = self._since + self._patience_s
        found: Line | CounterfoilError | None = None
        said = ""
        while found is None and not self.closed.is_set():
            try:
                found = self._connect(partial(self._take, arrivals))
            except Exception as error:  # noqa: BLE001  # whatever it is, there may be a chain later
                if str(error) != said:  # it is tried several times a second
                    said = str(error)
                    logger.warning("no chain can be connected", extra={"error": said})
                if time.monotonic() > until:
                    found = CounterfoilError(Code.UNAVAILABLE, f"there is no chain: {error}")
                else:
                    time.sleep(PAUSE_S)
        if self.closed.is_set() and found is not None and not isinstance(found, CounterfoilError):
            found.close()  # it came too late for `close`
            return
        self._connected = found
        self._wake()

    def _take(self, arrivals: _Arrivals, arrived: Boundary | Exception) -> None:
        """Take what a chain returns; that of an earlier chain goes to a queue that nobody reads."""
        arrivals.put((time.perf_counter(), arrived))
        self._wake()
