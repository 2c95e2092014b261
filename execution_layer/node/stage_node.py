"""A node that computes layers for the answers of other nodes, and accounts for them: its own orders, receipts and bill."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from execution_layer.node.audit_link import AuditLink
from execution_layer.node.delivery import Delivery
from execution_layer.node.evidence_service import EvidenceRules, EvidenceService
from execution_layer.node.ground import Ground
from execution_layer.node.health import Health, Watch
from execution_layer.node.identities import TenantIdentities
from execution_layer.node.order_checks import OrderChecks
from execution_layer.node.part_admission import PartAdmission
from execution_layer.node.part_store import PartStore
from execution_layer.node.parts import AcceptedParts
from execution_layer.node.registration import Registration
from execution_layer.node.settings import NodeSettings
from execution_layer.node.stage_service import StageInference
from execution_layer.pipeline.service import Offer, Reach, StagesService
from shared.parties.permissions import STAGE_NODE_GRPC
from shared.proto.counterfoil.execution.v1 import execution_pb2_grpc, stages_pb2_grpc
from shared.runtime.grpc import MAX_MESSAGE_BYTES, RpcServer, Service
from shared.statements import keys


@dataclass(frozen=True, slots=True)
class StageModel:
    """The layers as this process computes them."""

    offer: Offer
    profile: dict[str, str | int]
    """The components of the numeric profile."""
    claims: keys.Offer
    """What the key bundle says of their speed."""
    reach: Reach


class StageNode:
    """One such node. `running()` serves until the context exits; everything acknowledged survives a kill at any point."""

    def __init__(self, settings: NodeSettings, model: StageModel) -> None:
        self._settings = settings
        self._model = model
        self.ground = Ground(settings)
        self.ring, self.store, self.spool, self.load = (
            self.ground.ring,
            self.ground.store,
            self.ground.spool,
            self.ground.load,
        )
        self.health = Health(self.store, None)
        self.registration: Registration | None = None
        self.stages: StagesService | None = None
        """Computes for chains, once the node runs."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RpcServer]:
        """Recover, bind, register and serve; on exit, finish what is being written and deliver once more."""
        ground = self.ground
        await ground.prepare()
        async with AuditLink(self._settings.audit, self._settings.party) as link:
            delivery = Delivery(self.spool, link)
            identities = TenantIdentities(ground.tenants, ground.book, link)
            parts = self._parts(identities, delivery)
            server = ground.server(self._services(parts), STAGE_NODE_GRPC, MAX_MESSAGE_BYTES)
            registration = self._register(link)
            await parts.restore(lambda entry: self.ring.known(entry) is not None)
            watch = Watch(
                self.health,
                self.store,
                ground.signer,
                owed=set(),
                wake=delivery.wake,
                set_serving=ground.set_serving,
            )
            work = (watch.run, registration.run, identities.run, parts.run)
            async with ground.working(delivery, *work):
                try:
                    await server.start()
                    yield server
                finally:
                    self.load.drain()
                    await server.stop(0.0)  # chains have no end of their own
                    await parts.settle()

    def close(self) -> None:
        """Close the database."""
        self.ground.close()

    async def drain(self) -> None:
        """Refuse new parts from now on; return once the last one in flight has its receipt."""
        await self.ground.drain()

    def _parts(self, identities: TenantIdentities, delivery: Delivery) -> AcceptedParts:
        ground = self.ground
        checks = OrderChecks(
            self.ring,
            ground.tenants,
            rate_card=ground.card_entry,
            max_output_tokens=self._settings.quotas.max_output_tokens,
        )
        return AcceptedParts(
            PartAdmission(checks, self._model.offer.model_root),
            PartStore(self.store),
            ground.signer,
            load=self.load,
            health=self.health,
            heed=identities.heed,
            wake=delivery.wake,
        )

    def _services(self, parts: AcceptedParts) -> list[Service]:
        package = "counterfoil.execution.v1"
        self.stages = StagesService(self._model.offer, self._model.reach, parts)
        return [
            Service(
                f"{package}.Stages",
                stages_pb2_grpc.add_StagesServicer_to_server,
                self.stages,
            ),
            Service(
                f"{package}.Inference",
                execution_pb2_grpc.add_InferenceServicer_to_server,
                StageInference(self.ring, lambda: self.load.refusal() or self.health.refusal()),
            ),
            Service(
                f"{package}.Evidence",
                execution_pb2_grpc.add_EvidenceServicer_to_server,
                EvidenceService(self.store, EvidenceRules.of(self._settings.audit)),
            ),
        ]

    def _register(self, link: AuditLink) -> Registration:
        offer = self._model.offer
        self.registration = self.ground.register(
            link,
            model_root=offer.model_root,
            numeric_profile=offer.numeric_profile,
            profile=self._model.profile,
            layers=keys.Layers(offer.stage.first, offer.stage.last),
            offer=self._model.claims,
        )
        return self.registration
