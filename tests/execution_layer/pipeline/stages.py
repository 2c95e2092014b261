"""Stages that serve on loopback, and a node's chain of them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from execution_layer.pipeline.line import StageLike
from execution_layer.pipeline.remote import Ask, Place, RemoteLine
from execution_layer.pipeline.service import Offer, StagesService
from execution_layer.pipeline.steps import ChainSteps
from shared.model.decoder import Decoder, Stage
from shared.parties.permissions import STAGE_GRPC
from shared.proto.counterfoil.execution.v1 import stages_pb2_grpc
from shared.runtime.grpc import (
    RpcServer,
    Service,
    build_server,
    secure_aio_channel,
    secure_channel,
)
from shared.runtime.party import Party, PartyFiles, PartyListener, PartyRole
from shared.runtime.tls import LocalCA

NODE = "operator-a/node-a"
ROOT, PROFILE = b"\1" * 32, b"\2" * 32
ROWS = 512


@dataclass
class Pool:
    """Stages of one operator, and who calls them."""

    folder: Path
    decoder: Decoder
    blocks: int = 64

    def party(self, name: str = NODE) -> PartyFiles:
        """Return the certificate of a node or stage."""
        where = self.folder / name.replace("/", "-")
        return self.authority.issue_party(Party(PartyRole.NODE, name), folder=where)

    @property
    def authority(self) -> LocalCA:
        return LocalCA.load_or_create(self.folder / "ca")

    def offer(self, stage: StageLike) -> Offer:
        width = self.decoder.config.hidden_size
        return Offer(stage, ROOT, PROFILE, width, self.blocks, ROWS, {NODE, "operator-a/stage"})

    @asynccontextmanager
    async def stage(
        self, stage: StageLike, address: str = "127.0.0.1:0"
    ) -> AsyncIterator[RpcServer]:
        """Serve one stage."""
        party = self.party("operator-a/stage")
        reach = partial(secure_aio_channel, ca_file=self.authority.ca_file, party=party)
        server = build_server(
            tls=self.authority.issue("stage", ["127.0.0.1"]),
            address="127.0.0.1:0",
            services=[
                Service(
                    "counterfoil.execution.v1.Stages",
                    stages_pb2_grpc.add_StagesServicer_to_server,
                    StagesService(self.offer(stage), reach),
                )
            ],
            rules=STAGE_GRPC,
            parties=PartyListener(**dict(party), address=address),
        )
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0)

    def steps(
        self,
        own: Stage | None,
        places: Sequence[Place],
        depth: int,
        blocks: int,
        wake: Callable[[], None],
    ) -> ChainSteps:
        """Return what computes an engine's steps on a chain of these places."""
        ask = self.ask(blocks, depth)
        reach = partial(secure_channel, ca_file=self.authority.ca_file, party=self.party())
        return ChainSteps(
            self.decoder,
            lambda out: RemoteLine.connect(own, places, ask, reach, out),
            depth,
            wake,
        )

    def ask(self, blocks: int = 8, depth: int = 4) -> Ask:
        return Ask(ROOT, PROFILE, self.decoder.config.hidden_size, blocks, ROWS, depth)


def place(server: RpcServer, stage: Stage) -> Place:
    """Return where a stage is, as a chain has it."""
    assert server.party_address is not None
    return Place(server.party_address, stage.first, stage.last)
