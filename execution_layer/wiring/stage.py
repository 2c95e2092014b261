"""Where a stage is wired together, and what a node needs of its chain."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from execution_layer.node.chain import HeadChain, StageAt
from execution_layer.node.settings import NodeSettings
from execution_layer.node.stage_node import StageModel, StageNode
from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.gauge import Gauge
from execution_layer.pipeline.line import Arrived, Line
from execution_layer.pipeline.remote import Ask, Place, RemoteLine
from execution_layer.pipeline.service import MOST_STEPS, Offer, StagesService
from execution_layer.pipeline.settings import Chain, StageSettings
from execution_layer.pipeline.speed import Speed, stage_speed
from execution_layer.pipeline.status import ChainStatus, Reporter, StageStatus, status_of
from execution_layer.pipeline.steps import ChainSteps
from execution_layer.pipeline.tally import Tally
from execution_layer.wiring.metrics import stage_metrics
from shared.model.backend import Backend
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.cut import Cut, layers_of
from shared.model.decoder import Ends, Stage
from shared.model.profile import numeric_profile, profile_id
from shared.model.root import model_leaves, root_of
from shared.model.unchanged import Snapshot
from shared.model.weights import load_weights
from shared.parties.permissions import STAGE_GRPC
from shared.proto.counterfoil.execution.v1 import stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import (
    MAX_MESSAGE_BYTES,
    Service,
    build_server,
    secure_aio_channel,
    secure_channel,
)
from shared.runtime.metrics_server import metrics
from shared.runtime.party import PartyFiles, PartyRole, check_party
from shared.runtime.readiness import run_service, write_ready
from shared.statements import keys

MIB: Final = 2**20
BESIDES: Final = 64
"""Bytes of a row besides its states, and more than enough."""
_log = logging.getLogger(__name__)


def most_rows(config: ModelConfig) -> int:
    """Return how many rows of states fit in one message."""
    return (MAX_MESSAGE_BYTES - MIB) // (4 * config.hidden_size + BESIDES)


class Computing(Protocol):
    """Settings of what computes on this machine's processors."""

    threads: int
    arithmetic: str


class Loading(Computing, Protocol):
    """Settings of what computes a range of layers."""

    model: Path
    kv_memory_mib: int


def cpu_backend(settings: Computing, config: ModelConfig) -> CpuBackend:
    """Return this machine's processors under the arithmetic that the settings name, or their own; errors as `CpuBackend`."""
    own = settings.arithmetic == "auto"
    arithmetic = own_arithmetic(config.dtype) if own else settings.arithmetic
    return CpuBackend(settings.threads, arithmetic)


def build_offer(settings: StageSettings) -> Offer:
    """Load a silent stage's layers; errors as `load_offer`, and CONFIGURATION if a caller is another operator's."""
    _check_operators(settings)
    return load_offer(settings, settings.layers, settings.callers)[0]


def load_offer(
    settings: Loading, layers: str, callers: Collection[str]
) -> tuple[Offer, dict[str, str | int]]:
    """Load the layers, compute the model's root and the numeric profile; return also its components.

    CONFIGURATION if the range is not the model's, or a part's that has no such layers, or memory holds no block. CORRUPT if the
    folder changes meanwhile, or a part holds a tensor that is not the listed one.
    """
    before = Snapshot.of(settings.model)
    config = ModelConfig.from_folder(settings.model)
    first, last = layers_of(layers)
    if last > config.layers:
        raise CounterfoilError(
            Code.CONFIGURATION, f"layers {layers}: the model has {config.layers}"
        )
    backend = cpu_backend(settings, config)
    blocks = settings.kv_memory_mib * MIB // backend.block_bytes(config, layers=last - first) - 1
    if blocks < 1:
        raise CounterfoilError(Code.CONFIGURATION, "kv_memory_mib holds no block of these layers")
    weights = load_weights(settings.model, config, Cut(first, last, ends=False))
    stage = Stage(config, weights, backend, first, last)
    root = root_of(model_leaves(settings.model))
    before.check()
    profile = dict(numeric_profile(config.dtype, backend))
    offer = Offer(
        stage=stage,
        model_root=root,
        numeric_profile=profile_id(profile),
        width=config.hidden_size,
        blocks=blocks,
        rows=most_rows(config),
        callers=frozenset(callers),
        size=backend.block,
    )
    return offer, profile


def build_stage_node(settings: NodeSettings) -> StageNode:
    """Load a stage's layers, measure their speed, and build a node around them; errors as `load_offer`."""
    work, party = settings.stage, settings.party
    assert work is not None
    assert party is not None
    offer, profile = load_offer(settings, work.layers, work.callers)
    speed = stage_speed(
        offer.stage,
        width=offer.width,
        size=offer.size,
        blocks=offer.blocks,
        positions=ModelConfig.from_folder(settings.model).max_positions,
    )
    claims = claimed(settings, speed)
    reach = partial(secure_aio_channel, ca_file=work.next_ca, party=party)
    return StageNode(settings, StageModel(offer, profile, claims, reach))


def claimed(settings: NodeSettings, speed: Speed) -> keys.Offer:
    """Return what a key bundle says of a node's speed, memory and place."""
    return keys.Offer(
        speed.decode_rows, speed.prefill_rows, settings.kv_memory_mib, settings.region
    )


def _check_operators(settings: StageSettings) -> None:
    """Whoever computes layers can tell what the text is, and clients decide by operator who may: a chain stays with one."""
    own = settings.name.partition("/")[0]
    for caller in settings.callers:
        if caller.partition("/")[0] != own:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{caller} is not a node of operator {own}",
                remedy="A stage works for nodes of its own operator: states can be inverted to text, and clients choose"
                " operators.",
            )


def serve_stage(settings: StageSettings, *, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    check_party(settings.party, PartyRole.NODE, settings.name, "counterfoil node stage init")

    async def main(stop: asyncio.Event) -> None:
        offer = await asyncio.to_thread(build_offer, settings)
        reach = partial(secure_aio_channel, ca_file=settings.next_ca, party=settings.party)
        stages = StagesService(offer, reach)
        server = build_server(
            tls=settings.tls,
            address=settings.address,
            services=[
                Service(
                    "counterfoil.execution.v1.Stages",
                    stages_pb2_grpc.add_StagesServicer_to_server,
                    stages,
                )
            ],
            traffic=settings.traffic,
            rules=STAGE_GRPC,
            parties=settings.party,
        )
        await server.start()
        _log.info("stage is serving", extra={"address": server.party_address})
        with metrics(
            settings.metrics, lambda: stage_metrics(settings.name, stages, server.calls)
        ) as bound:
            if ready_file is not None:
                where = {"grpc": server.address, "party": server.party_address or ""}
                write_ready(ready_file, {**where, **bound})
            await stop.wait()
        await server.stop(0.0)

    return run_service(main)


def own_layers(chain: Chain, config: ModelConfig) -> int:
    """Return how many layers the first stage computes itself; CONFIGURATION unless the chain continues them to the end."""
    borders = [layers_of(stage.layers) for stage in chain.stages]
    own = at = borders[0][0]
    for first, last in borders:
        if first != at:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"[chain]: a stage begins at layer {first} where {at} is due",
                remedy="Each stage begins where the one before ends; none may be missing or computed twice.",
            )
        at = last
    if at != config.layers:
        raise CounterfoilError(
            Code.CONFIGURATION, f"[chain] ends at layer {at}; the model has {config.layers}"
        )
    return own


def widest(chain: Chain, config: ModelConfig) -> int:
    """Return the layers of the stage that has most: all have as many blocks as it has memory for."""
    ranges = [layers_of(stage.layers) for stage in chain.stages]
    return max(own_layers(chain, config), *(last - first for first, last in ranges))


@dataclass(frozen=True, slots=True)
class Watched:
    """Where a head, `operator/node`, writes how its chain stands."""

    node: str
    file: Path


def chain_steps(
    chain: Chain,
    ends: Ends,
    own: Stage | None,
    party: PartyFiles,
    rows: int,
    asked: tuple[bytes, bytes],
    answers: Answers | None,
    watched: Watched | None,
    blocks: int,
    wake: Callable[[], None],
) -> ChainSteps:
    """Return what computes an engine's steps on a chain. `rows` is the most of one step, `asked` model root and numeric profile,
    `answers` are those of an accountable chain, and `watched` says where to write how it stands.

    CONFIGURATION if a step of so many rows does not fit in a message.
    """
    config = ends.config
    if rows > most_rows(config):
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{rows} rows of {config.hidden_size} numbers do not fit in a message between stages",
            remedy=f"Set prefill_rows and max_batch to {most_rows(config)} or less together.",
        )
    places = [
        Place(stage.address, *layers_of(stage.layers), spares=stage.spares)
        for stage in chain.stages
    ]
    stages = len(places) + (own is not None)
    gauge = Gauge(chain.steps or 2 * stages, most=None if chain.steps else MOST_STEPS)
    ask = Ask(
        *asked,
        width=config.hidden_size,
        blocks=blocks,
        rows=rows,
        steps=gauge.most,
        accountable=answers is not None,
    )
    reach = partial(secure_channel, ca_file=chain.ca, party=party)

    at = [place.address for place in places]

    def connect(out: Arrived) -> Line:
        codec = None if answers is None else answers.connection()
        line = RemoteLine.connect(own, places, ask, reach, out, codec)
        at[:] = line.addresses
        return line

    steps = ChainSteps(
        ends,
        connect,
        gauge,
        wake,
        patience_s=chain.patience_s,
        stall_s=chain.stall_s,
        answers=answers,
    )
    if watched is not None:

        def status(history: Sequence[tuple[float, Tally]]) -> ChainStatus:
            return status_of(watched.node, _shown(chain, own, at), gauge.most, history)

        Reporter(watched.file, lambda: steps.tally, status).start(steps.closed)
    return steps


def _shown(chain: Chain, own: Stage | None, at: Sequence[str]) -> list[StageStatus]:
    """Return a chain's stages, the head's own among them, as they are shown to whoever watches."""
    stages = [
        StageStatus(layers=stage.layers, name=stage.name, address=address)
        for stage, address in zip(chain.stages, at, strict=True)
    ]
    return stages if own is None else [StageStatus(layers=f"{own.first}:{own.last}"), *stages]


def head_chain(chain: Chain, answers: Answers, party: PartyFiles) -> HeadChain:
    """Return the stages of an accountable chain, as the node at its head calls them."""
    reach = partial(secure_aio_channel, ca_file=chain.ca, party=party)
    stages = [StageAt(stage.name or "", stage.address) for stage in chain.stages]
    return HeadChain(answers, stages, reach)


def load_ends(
    folder: Path, config: ModelConfig, backend: Backend, own: int
) -> tuple[Ends, Stage | None]:
    """Load the embedding, the head and the first `own` layers, and nothing else, of a checkpoint or of a part that has them."""
    weights = load_weights(folder, config, Cut(0, own, ends=True))
    ends = Ends(config, weights, backend)
    return ends, Stage(config, weights, backend, 0, own) if own else None
