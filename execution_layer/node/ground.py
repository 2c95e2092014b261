"""What any node stands on, whatever it computes: keys, tenants, store, rate card; and what it does beside its work."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from execution_layer.node.attesters import attest_of
from execution_layer.node.audit_link import AuditLink
from execution_layer.node.delivery import Delivery
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.identity import KeyRing, NodeFacts
from execution_layer.node.invoice import load_rate_card
from execution_layer.node.load import Load
from execution_layer.node.registration import Registration
from execution_layer.node.settings import NodeSettings
from execution_layer.node.spool import Spool
from execution_layer.node.store import NodeStore
from execution_layer.node.tenants import Tenants
from shared.codec.moment import now_ms
from shared.parties.identity_book import IdentityBook
from shared.parties.key_rotation import known_keys
from shared.runtime.access import Rules
from shared.runtime.grpc import RpcServer, Service, build_server
from shared.runtime.key_store import open_store
from shared.runtime.keys import load_ed25519
from shared.runtime.logs import incident
from shared.runtime.metrics import Counter
from shared.statements.keys import Layers, Offer

PURGE_EVERY_S: Final = 3600.0
LAST_DELIVERY_S: Final = 3.0
RESTART_S, LONGEST_RESTART_S = 0.5, 60.0
DAY_MS: Final = 86_400_000
FORGET_AFTER_MS: Final = DAY_MS
"""How long expired orders are remembered: a clock that is set back must not let them in again."""
Work = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


class Ground:
    """Opens keys and store; `close` it."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        operators_keys = open_store(settings.operator_key_store)
        operator_key = load_ed25519(settings.operator_key_file, operators_keys)
        operator_keys = known_keys(settings.operator_key_file, operator_key)
        _, self.card_entry, self._card_statement = load_rate_card(
            settings.rate_card_file, *operator_keys
        )
        self.ring = KeyRing(
            settings.keys,
            operator_key,
            attest_of(settings.attestation),
            earlier=operator_keys,
            reload=lambda: load_ed25519(settings.operator_key_file, operators_keys),
            store=open_store(settings.key_store),
        )
        self.book = IdentityBook(settings.keys / "identities.json", settings.audit.log.policy())
        self.tenants = Tenants(settings.tenants_file, self.book)
        self.store = NodeStore(settings.spool, self.ring.storage_key)
        self.spool = Spool(self.store.journal)
        self.load = Load(settings.quotas)
        self.signer = ReceiptSigner(self.ring.signing_key, settings.issuer)
        self._server: RpcServer | None = None

    @property
    def calls(self) -> Counter:
        """Return what was called; the server must be bound."""
        assert self._server is not None
        return self._server.calls

    async def prepare(self) -> None:
        """Store the rate card, and retry what the log has refused."""
        await self.store.remember_rate_card(self.card_entry, self._card_statement)
        if refused := await self.spool.retry_rejected():
            _log.warning("refused receipts are retried", extra={"receipts": refused})

    def server(
        self, services: Sequence[Service], rules: Rules, max_message_bytes: int
    ) -> RpcServer:
        """Bind the node's addresses."""
        settings = self.settings
        self._server = build_server(
            tls=settings.tls,
            address=settings.address,
            services=services,
            reflection=settings.reflection,
            max_message_bytes=max_message_bytes,
            traffic=settings.traffic,
            rules=None if settings.party is None else rules,
            parties=settings.party,
        )
        return self._server

    def register(
        self,
        link: AuditLink,
        *,
        model_root: bytes,
        numeric_profile: bytes,
        profile: Mapping[str, str | int],
        layers: Layers | None = None,
        stages: tuple[str, ...] | None = None,
        offer: Offer | None = None,
    ) -> Registration:
        """Make a key bundle if one is due, and return what registers it; the server must be bound."""
        assert self._server is not None
        settings, server = self.settings, self._server
        evidence = None
        if settings.party is not None:
            evidence = settings.party.endpoint or server.party_address
        facts = NodeFacts(
            operator=settings.operator,
            node=settings.node,
            endpoint=settings.endpoint or server.address,
            evidence=evidence,
            model_roots=(model_root,),
            numeric_profile=numeric_profile,
            profile=profile,
            layers=layers,
            stages=stages,
            offer=offer,
        )
        registration = Registration(self.ring, facts, link, rate_card=self._card_statement)
        registration.renew()
        return registration

    @contextlib.asynccontextmanager
    async def working(self, delivery: Delivery, *work: Work) -> AsyncIterator[None]:
        """Deliver receipts, purge, and do other work without end; on exit, deliver once more."""
        tasks = [asyncio.create_task(_forever(each)) for each in (*work, delivery.run, self._purge)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(delivery.deliver(), LAST_DELIVERY_S)

    async def set_serving(self, serving: bool) -> None:
        """Set what health checks report; a draining node accepts no requests, however healthy it is."""
        if self._server is not None:
            await self._server.set_serving(serving and not self.load.draining)

    async def drain(self) -> None:
        """Refuse new requests from now on; return once the last one in flight has its receipt."""
        self.load.drain()
        await self.set_serving(False)
        await self.load.wait_idle()
        _log.info("drained: nothing is in flight")

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    async def _purge(self) -> None:
        """From time to time, remove evidence that nobody can request any more, and the memory of expired orders."""
        retention = self.settings.retention
        while True:
            gone = await self.store.purge_evidence(
                before_ms=now_ms() - retention.days * DAY_MS, max_bytes=retention.max_bytes
            )
            if gone:
                _log.info("evidence removed", extra={"requests": gone})
            await self.store.forget_expired(before_ms=now_ms() - FORGET_AFTER_MS)
            await asyncio.sleep(PURGE_EVERY_S)


async def _forever(work: Work) -> None:
    """Run background work; an unexpected error is logged, and the work is restarted with growing delays."""
    pause_s = RESTART_S
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # one bug must not stop a node from delivering
            incident(_log, error, getattr(work, "__qualname__", "background work"))
        pause_s = RESTART_S if time.monotonic() - began > LONGEST_RESTART_S else 2 * pause_s
        await asyncio.sleep(min(pause_s, LONGEST_RESTART_S))
