"""A running node: its parts, in the order in which they start, run and stop."""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Final

from execution_layer.engine.protocol import Engine
from execution_layer.node.admission import Admission, ServedModel
from execution_layer.node.audit_link import AuditLink
from execution_layer.node.chain import HeadChain
from execution_layer.node.counts import NodeCounts
from execution_layer.node.delivery import Delivery
from execution_layer.node.energy import EnergyMeter
from execution_layer.node.evidence_service import EvidenceRules, EvidenceService
from execution_layer.node.ground import Ground
from execution_layer.node.health import Health, Watch
from execution_layer.node.identities import TenantIdentities
from execution_layer.node.intake import Intake
from execution_layer.node.model_files import ModelFiles
from execution_layer.node.recovery import continuations, finish_interrupted
from execution_layer.node.refusing import Refuser
from execution_layer.node.registration import Registration
from execution_layer.node.resuming import Resuming
from execution_layer.node.service import InferenceService
from execution_layer.node.session import SessionParts
from execution_layer.node.settings import NodeSettings
from shared.envelope.header import MAX_ENVELOPE
from shared.parties.permissions import NODE_GRPC
from shared.proto.counterfoil.execution.v1 import execution_pb2_grpc
from shared.runtime.grpc import RpcServer, Service
from shared.statements.cose import MAX_STATEMENT
from shared.statements.keys import Offer

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
    chain: HeadChain | None = None
    """The stages of other operators that compute layers."""
    claims: Offer | None = None
    """What the key bundle says of its speed."""


class Node:
    """One node. `running()` serves until the context exits; everything acknowledged survives a kill at any point."""

    def __init__(self, settings: NodeSettings, model: NodeModel, energy: EnergyMeter) -> None:
        self._settings = settings
        self._model = model
        self.ground = ground = Ground(settings)
        self.engine, self.counts = model.engine, NodeCounts()
        self.ring, self.store, self.spool, self.load = (
            ground.ring,
            ground.store,
            ground.spool,
            ground.load,
        )
        self._tenants, self._signer = ground.tenants, ground.signer
        self.health = Health(self.store, model.engine)
        self._admission = Admission(
            ring=self.ring,
            tenants=self._tenants,
            seen=self.store,
            model=model.served,
            rate_card=ground.card_entry,
            quotas=settings.quotas,
        )
        self._parts = SessionParts(
            store=self.store,
            signer=self._signer,
            energy=energy,
            frame_interval_s=settings.frame_interval_ms / 1000,
            numeric_profile=model.served.numeric_profile,
            counts=self.counts,
        )
        self.registration: Registration | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RpcServer]:
        """Recover, bind, register and serve; on exit, finish what is in flight and deliver once more."""
        await self.ground.prepare()
        interrupted = continuations(self.store, self._model.served)
        over = {item.id for item in self.store.unfinished()} - {
            one.record.id for one in interrupted
        }
        await finish_interrupted(self.store, self._signer, only=frozenset(over))
        async with AuditLink(self._settings.audit, self._settings.party) as link:
            delivery = Delivery(self.spool, link)
            intake = Intake(
                admission=self._admission,
                engine=self._model.engine,
                load=self.load,
                delivery=delivery,
                health=self.health,
                parts=self._parts,
                refuser=Refuser(
                    self.store, self._signer, self.ring, self._settings.quotas.refusals_per_tenant
                ),
                chain=self._model.chain,
            )
            identities = TenantIdentities(self._tenants, self.ground.book, link)
            server = self._build_server(intake, identities)
            registration = self._register(link)
            await self._model.engine.start()
            for one in interrupted:
                await intake.take_up(one)
            watch = Watch(
                self.health,
                self.store,
                self._signer,
                owed=intake.owed,
                wake=delivery.wake,
                set_serving=self.ground.set_serving,
            )
            async with self.ground.working(delivery, watch.run, registration.run, identities.run):
                try:
                    await server.start()
                    yield server
                finally:
                    await server.set_serving(False)
                    await intake.close(self._settings.grace_s)
                    await server.stop()
                    await self._model.engine.stop()
                    if self._model.chain is not None:
                        await self._model.chain.stop()
                    _log.info("the engine has stopped", extra=asdict(self._model.engine.stats))

    def close(self) -> None:
        """Close the database."""
        self.ground.close()

    async def drain(self) -> None:
        """Refuse new requests from now on; return once the last one in flight has its receipt."""
        stats = self._model.engine.stats
        _log.info("draining", extra={"in_flight": self.load.in_flight, **asdict(stats)})
        await self.ground.drain()

    def _build_server(self, intake: Intake, identities: TenantIdentities) -> RpcServer:
        package = "counterfoil.execution.v1"
        return self.ground.server(
            [
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
            NODE_GRPC,
            MAX_REQUEST_BYTES,
        )

    def _register(self, link: AuditLink) -> Registration:
        chain = self._settings.chain
        self.registration = self.ground.register(
            link,
            model_root=self._model.served.root,
            numeric_profile=self._model.served.numeric_profile,
            profile=self._model.profile,
            stages=None if chain is None else chain.names,
            offer=self._model.claims,
        )
        return self.registration
