"""The first stage of a chain: embeds, sends, and finishes what comes back, with several steps under way."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from execution_layer.engine.runner import Chosen, Finishing, LostError, Step
from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.line import Connect, Line
from shared.model.decoder import Ends
from shared.runtime.errors import Code, CounterfoilError

logger = logging.getLogger(__name__)
PATIENCE_S: Final = 60.0
STALL_S: Final = 60.0
PAUSE_S: Final = 0.2


class ChainSteps(Finishing):
    """Computes steps on a chain that it connects, and connects again when it breaks; then all keys and values are lost.

    Not for use by two threads at once, but for `wake`, which is called from any.
    """

    def __init__(
        self,
        ends: Ends,
        connect: Connect,
        depth: int,
        wake: Callable[[], None],
        *,
        patience_s: float = PATIENCE_S,
        stall_s: float = STALL_S,
        answers: Answers | None = None,
    ) -> None:
        """Keep up to `depth` steps under way. Where no chain can be had for `patience_s` seconds, all of them fail; one from
        which nothing comes for `stall_s` seconds is broken. `answers` are those of an accountable chain.
        """
        super().__init__(ends, ends.backend)
        self.depth = depth
        self._ends, self._connect, self._wake = ends, connect, wake
        self._answers = answers
        self._patience_s, self._stall_s = patience_s, stall_s
        self._heard = 0.0
        """When the chain last had nothing to do, or something came of it."""
        self._line: Line | None = None
        self._arrivals: queue.SimpleQueue[Boundary | Exception] = queue.SimpleQueue()
        self._sent = self._received = 0
        self._embedding_s: dict[int, float] = {}
        self._connecting: threading.Thread | None = None
        self._connected: Line | CounterfoilError | None = None
        """What the connecting thread has come to."""
        self._closed = False
        self._since: float | None = time.monotonic()
        """Since when there has been no chain."""

    def begin(self, step: Step) -> None:
        """Send a step's rows; if there is no chain, there will be one before `end` says that they are lost."""
        if self._line is None:
            return
        begun = time.perf_counter()
        if self._sent == self._received:
            self._heard = time.monotonic()
        states = self._ends.embed(step.spans)
        self._embedding_s[self._sent] = time.perf_counter() - begun
        rows = tuple(span.rows for span in step.spans)
        requests = tuple(part.sequence.request.request_id for part in step.parts)
        if self._answers is not None:
            for request, span in zip(requests, rows, strict=True):
                self._answers.went(request, span.count)
        self._line.send(Boundary(self._sent, rows, states, requests))
        self._sent += 1

    def end(self, step: Step) -> Chosen | None:
        """Finish the oldest step if its states have come back. UNAVAILABLE while no chain can be had."""
        if self._line is None:
            self._await_line()
            return None
        try:
            arrived: Boundary | Exception = self._arrivals.get_nowait()
        except queue.Empty:
            if time.monotonic() - self._heard < self._stall_s:
                return None
            arrived = TimeoutError(f"nothing came of a step for {self._stall_s:g} s")
        self._heard = time.monotonic()
        if (wrong := self._wrong(arrived, step)) is not None:
            logger.warning("the chain broke", extra={"error": str(wrong)})
            self._break()
            self._await_line()  # nothing else wakes the engine until there is one
            return None
        assert isinstance(arrived, Boundary)
        begun = time.perf_counter()
        hidden = self._ends.hidden(arrived.states)
        own = self._embedding_s.pop(self._received) + time.perf_counter() - begun
        self._received += 1
        return self.finish(step, hidden, own)

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
        self._closed = True
        if self._line is not None:
            self._line.close()

    def _break(self) -> None:
        assert self._line is not None
        self._line.close()
        self._line = None
        if self._answers is not None:
            self._answers.lost()
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
        self._embedding_s.clear()
        raise LostError

    def _try(self, arrivals: "queue.SimpleQueue[Boundary | Exception]") -> None:
        assert self._since is not None
        until = self._since + self._patience_s
        found: Line | CounterfoilError | None = None
        while found is None and not self._closed:
            try:
                found = self._connect(partial(self._take, arrivals))
            except Exception as error:  # noqa: BLE001  # whatever it is, there may be a chain later
                logger.warning("no chain can be connected", extra={"error": str(error)})
                if time.monotonic() > until:
                    found = CounterfoilError(Code.UNAVAILABLE, f"there is no chain: {error}")
                else:
                    time.sleep(PAUSE_S)
        if self._closed and found is not None and not isinstance(found, CounterfoilError):
            found.close()  # it came too late for `close`
            return
        self._connected = found
        self._wake()

    def _take(
        self, arrivals: "queue.SimpleQueue[Boundary | Exception]", arrived: Boundary | Exception
    ) -> None:
        """Take what a chain returns; that of an earlier chain goes to a queue that nobody reads."""
        arrivals.put(arrived)
        self._wake()
