"""Tells a webhook of disclosures: at least once, and whatever the receiver does, the monitor goes on.

A message is kept in the transaction in which its list moves on, and dropped once it was accepted: whoever dies between the
two sends the same bytes under the same id again. Receivers drop what they have seen by that id.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from audit_layer.monitor import outbox
from audit_layer.monitor.store import MonitorStore

LOOK_S: Final = 1.0
"""How often it is looked for what is due."""
FIRST_RETRY_S: Final = 60
LONGEST_RETRY_S: Final = 6 * 3600
ONCE_S: Final = 60.0
"""How long a monitor that looks once goes on sending."""


class Sender(Protocol):
    """Takes messages."""

    async def send(self, delivery: str, body: bytes) -> str | None:
        """Send a message; return None once it was accepted, otherwise what went wrong."""
        ...


class Notifier:
    """Sends what a monitor's file holds, one message at a time."""

    def __init__(
        self,
        store: MonitorStore,
        sender: Sender,
        notice: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sender = sender
        self._notice = notice
        self._clock = clock
        self._failing = False
        self._full = False

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            if not await self.step():
                await asyncio.sleep(LOOK_S)

    async def once(self) -> None:
        """Send what is due now, until one is not accepted or the time for it is over."""
        until = time.monotonic() + ONCE_S
        while time.monotonic() < until and await self.step():
            pass

    async def step(self) -> bool:
        """Send the message that is due first; return whether it was accepted."""
        self._tell_full()
        waiting = self._store.due(int(self._clock()))
        if waiting is None:
            return False
        problem = await self._sender.send(waiting.message.delivery, waiting.message.body)
        if problem is None:
            await self._store.accepted(waiting.number)
        else:
            pause_s = min(FIRST_RETRY_S << min(waiting.attempts, 10), LONGEST_RETRY_S)
            await self._store.postpone(waiting.number, int(self._clock()) + pause_s)
        self._tell_turn(problem)
        return problem is None

    def _tell_turn(self, problem: str | None) -> None:
        if problem is not None and not self._failing:
            self._notice(
                f"the webhook accepts no message: it {problem}; they are kept and sent again"
            )
        if problem is None and self._failing:
            self._notice("the webhook accepts messages again")
        self._failing = problem is not None

    def _tell_full(self) -> None:
        full = self._store.messages_waiting() >= outbox.MAX_WAITING
        if full and not self._full:
            self._notice(
                f"{outbox.MAX_WAITING} messages wait for the webhook; further disclosures are only reported here"
            )
        self._full = full
