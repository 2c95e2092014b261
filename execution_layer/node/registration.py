"""Keeps the node's key bundle in the directory: renews it in time, submits it, fetches and stores its proof.

Clients are told of a key bundle once it is witnessed (`KeyRing.current`), so an audit server that is away delays a roll
and fails no request. What the operator has revoked is dropped, and replaced at once.
"""

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
"""How often a key bundle's expiry is checked, and whether its operator has revoked it."""
ASKED_S: Final = 1.0
"""How often it is checked whether somebody asked for a new key bundle."""

_log = logging.getLogger(__name__)


class Directory(Protocol):
    """What registration needs from the audit server."""

    async def submit(self, statements: Sequence[tuple[bytes, bytes]]) -> list[Submitted]:
        """Submit (statement, b"") pairs; return one answer per pair."""

    async def proof(self, entry: bytes) -> str:
        """Return an entry's tlog-proof; raise until there is one."""

    async def revocations(self, model_root: bytes) -> list[bytes]:
        """Return the revocation statements of key bundles for a model that have not expired, by whomever."""


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
        """Set while the newest key bundle has its proof."""

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
                await self._register()
                done = not await self._heed_revocations()
            except CounterfoilError as error:
                _log.warning("the key bundle cannot be registered yet: %s", error)
                done = False
            if done:
                pause_s = PROOF_POLL_S
                await self._until_due()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    async def _register(self) -> None:
        """Submit key bundles without a proof and fetch the proofs; raise what kept one of them from it."""
        waiting = self._ring.unproved()
        if not waiting:
            return
        statements = [(self._rate_card, b""), *((keys.statement, b"") for keys in waiting)]
        card, *answers = await self._directory.submit(statements)
        refused = [answer.refusal for answer in (card, *answers) if answer.refusal is not None]
        for keys, answer in zip(waiting, answers, strict=True):
            if answer.refusal is None:
                await self._staple(keys)
        self._note()
        for code, detail in refused:
            raise CounterfoilError(code, detail)

    async def _heed_revocations(self) -> bool:
        """Replace the key bundles that their operator has revoked; return whether there were any."""
        listed = await self._directory.revocations(self._facts.model_roots[0])
        ended = self._ring.revoked(listed, now_ms())
        for entry in ended:
            self._ring.end(entry)
            _log.warning("a key bundle was revoked", extra={"bundle": entry.hex()})
        if ended:
            self.renew()
        return bool(ended)

    async def _until_due(self) -> None:
        """Wait for the next check, or until somebody asks for a new key bundle."""
        for _ in range(max(1, int(CHECK_S / ASKED_S))):
            if self._ring.asked():
                return
            await asyncio.sleep(min(CHECK_S, ASKED_S))

    async def _staple(self, keys: BundleKeys) -> None:
        proof = await self._directory.proof(keys.entry)
        self._ring.staple(keys, proof)
        _log.info("the key bundle is witnessed", extra={"bundle": keys.entry.hex()})

    def _note(self) -> None:
        if self._ring.newest().proof:
            self.witnessed.set()
        else:
            self.witnessed.clear()
