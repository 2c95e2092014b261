"""Whether a node can store and compute what it accepts.

A node that cannot write its store refuses requests until it can. One whose passes of the model fail, each with another batch, has
lost what computes them, as when a GPU falls off its bus; it refuses requests until it is started again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from execution_layer.engine.protocol import Engine
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.recovery import finish_interrupted
from execution_layer.node.store import NodeStore
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Unwritable
from shared.runtime.logs import incident

LOOK_EVERY_S: Final = 1.0
MOST_FAILURES: Final = 3
"""Passes that fail one after the other. A single one may be due to what was in it."""

_log = logging.getLogger(__name__)


class Health:
    """Knows whether the last write to the store and the last passes of the model succeeded. Belongs to one event loop."""

    def __init__(self, store: NodeStore, engine: Engine | None) -> None:
        """Without an engine, only the store counts: a stage's failed passes end its chains, and their heads see it."""
        self._store, self._engine = store, engine
        self._incident: str | None = None

    @property
    def computes(self) -> bool:
        """Whether the last passes of the model did not all fail."""
        return self._engine is None or self._engine.stats.failures < MOST_FAILURES

    def refusal(self) -> CounterfoilError | None:
        """Return why requests are refused; None if they are accepted. It does not reveal where the node keeps its files."""
        if not self.computes:
            return CounterfoilError(
                Code.UNAVAILABLE,
                "the node accepts no requests: its passes of the model fail",
                remedy="Use another node.",
            )
        failure = self._store.journal.failure
        if failure is None:
            self._incident = None
            return None
        if self._incident is None:  # the first caller; the log has it under this number
            self._incident = incident(_log, failure, "the node's store").metadata["incident"]
        return CounterfoilError(
            Code.UNAVAILABLE,
            f"the node accepts no requests: its store cannot be written: {failure.reason} (incident {self._incident})",
            remedy="Use another node.",
            metadata={"incident": self._incident},
            retry_after_s=LOOK_EVERY_S,
        )

    def told(self, error: Unwritable) -> CounterfoilError:
        """Return what a caller may know about a failed write."""
        return self.refusal() or CounterfoilError(
            Code.UNAVAILABLE, f"the node's store could not be written: {error.reason}"
        )


class Watch:
    """Updates health checks, retries the store until it can be written, and then writes the receipts that are owed."""

    def __init__(
        self,
        health: Health,
        store: NodeStore,
        signer: ReceiptSigner,
        *,
        owed: set[int],
        wake: Callable[[], None],
        set_serving: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._health = health
        self._store = store
        self._signer = signer
        self._owed = owed
        """Accepted requests whose receipt could not be written; no session may be running for one when it is added."""
        self._wake = wake
        """Signals that there is a receipt to deliver."""
        self._set_serving = set_serving
        self._sick = False

    async def run(self) -> None:
        """Check from time to time; ends only by cancellation."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Check the store's state once, and act on it."""
        if self._health.refusal() is not None:
            if not self._sick:
                self._sick = True
                await self._set_serving(False)
                if not self._health.computes:
                    _log.error(
                        "passes of the model fail; no requests are accepted until the node is started again"
                    )
            try:
                await self._store.journal.probe()
            except Unwritable:
                return
        if self._owed:
            await finish_interrupted(self._store, self._signer, only=frozenset(self._owed))
            self._owed.clear()
            self._wake()
        if self._sick and self._health.computes:
            self._sick = False
            _log.warning("the node's store can be written again; requests are accepted")
            await self._set_serving(True)
