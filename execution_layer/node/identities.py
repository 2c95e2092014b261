"""Keeps a node's knowledge of its tenants' keys up to date with the log: from time to time, and when an order names another."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from execution_layer.node.tenants import Tenants
from shared.parties.identity_book import IdentityBook
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import MAX_STATEMENT, parse_statement
from shared.statements.identities import Holder, identity
from shared.statements.orders import Order

EVERY_S: Final = 60.0
AT_MOST_EVERY_S: Final = 1.0
"""How often orders with unknown keys have the log asked."""
BATCH: Final = 256

_log = logging.getLogger(__name__)


class Shown(Protocol):
    """What is needed from the audit server."""

    async def identities(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what the log has about identities: unchecked."""


class TenantIdentities:
    """Belongs to one event loop."""

    def __init__(self, tenants: Tenants, book: IdentityBook, shown: Shown) -> None:
        self._tenants = tenants
        self._book = book
        self._shown = shown
        self._asked = float("-inf")
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Follow the log forever; ends only by cancellation."""
        while True:
            await self._follow()
            await asyncio.sleep(EVERY_S)

    async def heed(self, order: bytes) -> None:
        """If an order is by a key that its tenant, as far as known, does not have: ask the log, at most once a second."""
        if len(order) > MAX_STATEMENT:
            return
        try:
            statement = parse_statement(order, expected=Order.TYPE)
        except CounterfoilError:
            return  # admission says why
        if not self._tenants.has_key(statement.issuer, statement.kid):
            await self.look(lambda: self._tenants.has_key(statement.issuer, statement.kid))

    async def look(self, known: Callable[[], bool]) -> None:
        """Ask the log, at most once a second, unless what is wanted is `known` by now."""
        async with self._turn:
            if not known() and time.monotonic() > self._asked + AT_MOST_EVERY_S:
                await self._follow()

    async def _follow(self) -> None:
        """Learn what the log has; that it does not answer is logged."""
        self._asked = time.monotonic()
        subjects = [identity(Holder.TENANT, name) for name in self._tenants.names()]
        try:
            for start in range(0, len(subjects), BATCH):
                found = await self._shown.identities(subjects[start : start + BATCH])
                if await asyncio.to_thread(self._book.learn, found):
                    _log.info("tenants' keys have changed")
        except CounterfoilError as error:
            _log.warning("what the log has about tenants' keys cannot be read: %s", error)
