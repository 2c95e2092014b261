"""A running node: its parts, in the order in which they start, run and stop."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from execution_layer.engine.protocol import Engine
from execution_layer.node.admission import Admission, ServedModel
from execution_layer.node.attesters import attest_of
from execution_layer.node.audit_link import AuditLink
from execution_layer.node.delivery import Delivery
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.energy import EnergyMeter
from execution_layer.node.evidence_service import EvidenceRules, EvidenceService
from execution_layer.node.health import Health, Watch
from execution_layer.node.identities import TenantIdentities
from execution_layer.node.identity import KeyRing, NodeFacts
from execution_layer.node.intake import Intake
from execution_layer.node.invoice import load_rate_card
from execution_layer.node.load import Load
from execution_layer.node.model_files import ModelFiles
from execution_layer.node.recovery import continuations, finish_interrupted
from execution_layer.node.refusing import Refuser
from execution_layer.node.registration import Registration
from execution_layer.node.resuming import Resuming
from execution_layer.node.service import InferenceService
from execution_layer.node.session import SessionParts
from execution_layer.node.settings import NodeSettings
from execution_layer.node.spool import Spool
from execution_layer.node.store import NodeStore
from execution_layer.node.tenants import Tenants
from shared.codec.moment import now_ms
from shared.envelope.header import MAX_ENVELOPE
from shared.parties.identity_book import IdentityBook
from shared.parties.key_rotation import known_keys
from shared.parties.permissions import NODE_GRPC
from shared.proto.counterfoil.execution.v1 import execution_pb2_grpc
from shared.runtime.grpc import RpcServer, Service, build_server
from shared.runtime.key_store import open_store
from shared.runtime.keys import load_ed25519
from shared.runtime.logs import incident
from shared.statements.cose import MAX_STATEMENT

PURGE_EVERY_S: Final = 3600.0
LAST_DELIVERY_S: Final = 3.0
RESTART_S, LONGEST_RESTART_S = 0.5, 60.0
DAY_MS: Final = 86_400_000
FORGET_AFTER_MS: Final = DAY_MS
"""How long expired orders are remembered: a clock that is set back must not let them in again."""
MAX_REQUEST_BYTES: Final = MAX_ENVELOPE + 2 * MAX_STATEMENT
"""An envelope, its order, and the message's overhead."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeModel:
    """The model as this process runs it."""

    served: ServedModel
    profile: dict[str, str | int]
    """The components of the numeric profile."""
    engine: Engine
    files: ModelFiles | None = None
    """The tokenizer's files for clients; None if there is no folder."""


class Node:
    """One node. `running()` serves until the context exits; everything acknowledged survives a kill at any point."""

    def __init__(self, settings: NodeSettings, model: NodeModel, energy: EnergyMeter) -> None:
        self._settings = settings
        self._model = model
        operators_keys = open_store(settings.operator_key_store)
        operator_key = load_ed25519(settings.operator_key_file, operators_keys)
        operator_keys = known_keys(settings.operator_key_file, operator_key)
        self._card, card_entry, self._card_statement = load_rate_card(
            settings.rate_card_file, *operator_keys
        )
        self._card_entry = card_entry
        self.ring = KeyRing(
            settings.keys,
            operator_key,
            attest_of(settings.attestation),
            earlier=operator_keys,
            reload=lambda: load_ed25519(settings.operator_key_file, operators_keys),
            store=open_store(settings.key_store),
        )
        self._book = IdentityBook(settings.keys / "identities.json", settings.audit.log.policy())
        self._tenants = Tenants(settings.tenants_file, self._book)
        self.store = NodeStore(settings.spool, self.ring.storage_key)
        self.spool = Spool(self.store.journal)
        self.load = Load(settings.quotas)
        self._health = Health(self.store, model.engine)
        self._signer = ReceiptSigner(self.ring.signing_key, settings.issuer)
        self._admission = Admission(
            ring=self.ring,
            tenants=self._tenants,
            seen=self.store,
            model=model.served,
            rate_card=card_entry,
            quotas=settings.quotas,
        )
        self._parts = SessionParts(
            store=self.store,
            signer=self._signer,
            energy=energy,
            frame_interval_s=settings.frame_interval_ms / 1000,
            numeric_profile=model.served.numeric_profile,
        )
        self.registration: Registration | None = None
        self._server: RpcServer | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RpcServer]:
        """Recover, bind, register and serve; on exit, finish what is in flight and deliver once more."""
        await self.store.remember_rate_card(self._card_entry, self._card_statement)
        interrupted = continuations(self.store, self._model.served)
        over = {item.id for item in self.store.unfinished()} - {
            one.record.id for one in interrupted
        }
        await finish_interrupted(self.store, self._signer, only=frozenset(over))
        if refused := await self.spool.retry_rejected():
            _log.warning("refused receipts are retried", extra={"receipts": refused})
        async with AuditLink(self._settings.audit, self._settings.party) as link:
            delivery = Delivery(self.spool, link)
            intake = Intake(
                admission=self._admission,
                engine=self._model.engine,
                load=self.load,
                delivery=delivery,
                health=self._health,
                parts=self._parts,
                refuser=Refuser(
                    self.store, self._signer, self.ring, self._settings.quotas.refusals_per_tenant
                ),
            )
            identities = TenantIdentities(self._tenants, self._book, link)
            server = self._build_server(intake, identities)
            registration = Registration(
                self.ring, self._facts(server), link, rate_card=self._card_statement
            )
            registration.renew()
            self.registration = registration
            await self._model.engine.start()
            for one in interrupted:
                await intake.take_up(one)
            watch = Watch(
                self._health,
                self.store,
                self._signer,
                owed=intake.owed,
                wake=delivery.wake,
                set_serving=self._set_serving,
            )
            background = [
                asyncio.create_task(_forever(watch.run)),
                asyncio.create_task(_forever(registration.run)),
                asyncio.create_task(_forever(identities.run)),
                asyncio.create_task(_forever(delivery.run)),
                asyncio.create_task(_forever(self._purge)),
            ]
            try:
                await server.start()
                self._server = server
                yield server
            finally:
                await server.set_serving(False)
                await intake.close(self._settings.grace_s)
                await server.stop()
                await self._model.engine.stop()
                _log.info("the engine has stopped", extra=asdict(self._model.engine.stats))
                await _end(background)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(delivery.deliver(), LAST_DELIVERY_S)

    async def _set_serving(self, serving: bool) -> None:
        """Set what health checks report; a draining node accepts no requests, however healthy it is."""
        if self._server is not None:
            await self._server.set_serving(serving and not self.load.draining)

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    async def drain(self) -> None:
        """Refuse new requests from now on; return once the last one in flight has its receipt."""
        stats = self._model.engine.stats
        _log.info("draining", extra={"in_flight": self.load.in_flight, **asdict(stats)})
        self.load.drain()
        if self._server is not None:
            await self._server.set_serving(False)
        await self.load.wait_idle()
        _log.info("drained: nothing is in flight")

    def _build_server(self, intake: Intake, identities: TenantIdentities) -> RpcServer:
        package = "counterfoil.execution.v1"
        return build_server(
            tls=self._settings.tls,
            address=self._settings.address,
            services=[
                Service(
                    f"{package}.Inference",
                    execution_pb2_grpc.add_InferenceServicer_to_server,
                    InferenceService(
                        intake,
                        Resuming(
                            intake,
                            self.store,
                            self._signer,
                            intake.load.pace,
                            self._tenants,
                            identities.look,
                        ),
                        self.ring,
                        self._model.served.root,
                        self._model.files,
                        identities,
                    ),
                ),
                Service(
                    f"{package}.Evidence",
                    execution_pb2_grpc.add_EvidenceServicer_to_server,
                    EvidenceService(self.store, EvidenceRules.of(self._settings.audit)),
                ),
            ],
            reflection=self._settings.reflection,
            max_message_bytes=MAX_REQUEST_BYTES,
            traffic=self._settings.traffic,
            rules=None if self._settings.party is None else NODE_GRPC,
            parties=self._settings.party,
        )

    def _facts(self, server: RpcServer) -> NodeFacts:
        return NodeFacts(
            operator=self._settings.operator,
            node=self._settings.node,
            endpoint=self._settings.endpoint or server.address,
            evidence=None
            if self._settings.party is None
            else self._settings.party.endpoint or server.party_address,
            model_roots=(self._model.served.root,),
            numeric_profile=self._model.served.numeric_profile,
            profile=self._model.profile,
            stages=None if self._settings.chain is None else self._settings.chain.names,
        )

    async def _purge(self) -> None:
        """From time to time, remove evidence that nobody can request any more, and the memory of expired orders."""
        retention = self._settings.retention
        while True:
            gone = await self.store.purge_evidence(
                before_ms=now_ms() - retention.days * DAY_MS, max_bytes=retention.max_bytes
            )
            if gone:
                _log.info("evidence removed", extra={"requests": gone})
            await self.store.forget_expired(before_ms=now_ms() - FORGET_AFTER_MS)
            await asyncio.sleep(PURGE_EVERY_S)


async def _forever(work: Callable[[], Awaitable[None]]) -> None:
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


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
