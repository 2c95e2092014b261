"""What the log is still to get of a client: refusals that close numbers, and audit requests, handed in in the background.

The archive is the queue: what a process does not get done, or does not live to do, the next one finds again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from shared.runtime.errors import CounterfoilError

BOUND_S: Final = 2.0
"""How long an application that ends waits for the log's answer."""

_log = logging.getLogger(__name__)


class Closing:
    """Runs `hand_in` in the background, one run at a time. Belongs to one event loop."""

    def __init__(self, hand_in: Callable[[], Awaitable[int]]) -> None:
        self._hand_in = hand_in
        self._running: asyncio.Task[None] | None = None
        self._again = False

    def wake(self) -> None:
        """There may be something to hand in."""
        self._again = True
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Give what is under way `BOUND_S` more."""
        if self._running is None:
            return
        _, late = await asyncio.wait({self._running}, timeout=BOUND_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                await self._hand_in()
            except CounterfoilError as error:  # the archive keeps it
                _log.warning(
                    "refusals or audit requests could not be handed in to the log yet: %s", error
                )
            except Exception:  # noqa: BLE001  # nobody awaits this
                _log.exception("refusals or audit requests could not be handed in to the log")
