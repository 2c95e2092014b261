"""Keeps the node's key bundle in the directory: renews it in time, submits it, fetches and stores its proof."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from execution_layer.node.audit_link import Submitted
from execution_layer.node.identity import BundleKeys, KeyRing, NodeFacts
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError

PROOF_POLL_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
CHECK_S: Final = 60.0
"""How often a key bundle's expiry is checked."""

_log = logging.getLogger(__name__)


class Directory(Protocol):
    """What registration needs from the audit server."""

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Submit (statement, b"") pairs; return one answer per pair."""

    async def proof(self, entry: bytes) -> str:
        """Return an entry's tlog-proof; raise until there is one."""


class Registration:
    """One task: submits key bundles until they are witnessed."""

    def __init__(
        self, ring: KeyRing, facts: NodeFacts, directory: Directory, *, rate_card: bytes
    ) -> None:
        self._ring = ring
        self._facts = facts
        self._directory = directory
        self._rate_card = rate_card
        self.witnessed = asyncio.Event()
        """Set while the current key bundle has its proof."""

    def renew(self) -> None:
        """Make a new key bundle if one is due."""
        made = self._ring.renew(self._facts, now_ms())
        if made is not None:
            _log.info("new key bundle", extra={"bundle": made.entry.hex()})
        self._note()

    async def run(self) -> None:
        """Renew and register forever; ends only by cancellation."""
        pause_s = PROOF_POLL_S
        while True:
            self.renew()
            try:
                done = await self._register()
            except CounterfoilError as error:
                _log.warning("the key bundle cannot be registered yet: %s", error)
                done = False
            if done:
                pause_s = PROOF_POLL_S
                await asyncio.sleep(CHECK_S)
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    async def _register(self) -> bool:
        """Submit key bundles without a proof and fetch the proofs; return whether all have one."""
        waiting = self._ring.unproved()
        if not waiting:
            return True
        statements = [(self._rate_card, b""), *((keys.statement, b"") for keys in waiting)]
        for answer in await self._directory.submit(statements):
            if answer.refusal is not None:
                code, detail = answer.refusal
                raise CounterfoilError(code, detail)
        for keys in waiting:
            await self._staple(keys)
        self._note()
        return True

    async def _staple(self, keys: BundleKeys) -> None:
        proof = await self._directory.proof(keys.entry)
        self._ring.staple(keys, proof)
        _log.info("the key bundle is witnessed", extra={"bundle": keys.entry.hex()})

    def _note(self) -> None:
        if self._ring.current().proof:
            self.witnessed.set()
        else:
            self.witnessed.clear()
