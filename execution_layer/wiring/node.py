"""The one place where the execution layer is wired together."""

import asyncio
import logging
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.scheduler import Limits
from execution_layer.node.admission import ServedModel
from execution_layer.node.energy import Unmetered, nvml_meter
from execution_layer.node.model_files import ModelFiles
from execution_layer.node.node import Node, NodeModel
from execution_layer.node.settings import NodeSettings
from execution_layer.node.stage_node import StageNode
from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.speed import node_speed
from execution_layer.wiring.metrics import node_metrics
from execution_layer.wiring.stage import (
    Watched,
    build_stage_node,
    chain_steps,
    claimed,
    cpu_backend,
    head_chain,
    load_ends,
    own_layers,
    widest,
)
from shared.model.backend import Backend, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder, load_decoder
from shared.model.profile import numeric_profile, profile_id
from shared.model.root import model_leaves, root_of
from shared.model.unchanged import Snapshot
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.metrics_server import metrics
from shared.runtime.party import PartyRole, check_party
from shared.runtime.readiness import run_service, write_ready
from shared.text.opening import open_tokenizer
from shared.text.prompt import most_bytes, prompt_ids

MIB = 2**20
LoadDecoder = Callable[..., Decoder]
"""Called as load_decoder(folder, backend=backend)."""

_log = logging.getLogger(__name__)


def build_node(settings: NodeSettings, *, load_decoder: LoadDecoder = load_decoder) -> Node:
    """Load the model, compute its root and numeric profile, and build a node around it.

    CORRUPT if the folder changes meanwhile: the root would not be that of the weights.
    """
    before = Snapshot.of(settings.model)
    config = ModelConfig.from_folder(settings.model)
    backend = backend_of(settings, config)
    limits = engine_limits(settings, config, backend)
    tokenizer = open_tokenizer(settings.model, rows=config.vocab_size, stops=config.eos_token_ids)
    profile = dict(numeric_profile(config.dtype, backend))
    leaves = model_leaves(settings.model)
    served = ServedModel(
        root=root_of(leaves),
        numeric_profile=profile_id(profile),
        max_positions=limits.context,
        tokenise=lambda body: prompt_ids(tokenizer, body),
        most_bytes=most_bytes(tokenizer, limits.context),
        stages=len(settings.chain.stages) if settings.chain and settings.chain.accountable else 0,
    )
    answers = None
    if settings.chain is not None and settings.chain.accountable:
        answers = Answers(backend.block, config.hidden_size)
    energy = nvml_meter() if settings.gpu_energy else Unmetered()
    room = {"size": limits.block, "blocks": limits.blocks, "positions": limits.context}
    if settings.chain is None:
        decoder = load_decoder(settings.model, backend=backend)
        speed = node_speed(decoder, decoder.stage, **room)
        engine = LocalEngine(decoder, tokenizer, limits)
    else:
        assert settings.party is not None
        ends, own = load_ends(settings.model, config, backend, own_layers(settings.chain, config))
        steps = partial(
            chain_steps,
            settings.chain,
            ends,
            own,
            settings.party,
            settings.prefill_rows + settings.max_batch,
            (served.root, served.numeric_profile),
            answers,
            Watched(settings.issuer, settings.chain_status),
        )
        speed = node_speed(ends, own, **room)
        engine = LocalEngine(ends, tokenizer, limits, steps=steps)
    files = ModelFiles.of(settings.model, leaves)
    before.check()
    chain = None
    if answers is not None:
        assert settings.chain is not None
        assert settings.party is not None
        chain = head_chain(settings.chain, answers, settings.party)
    model = NodeModel(served, profile, engine, files, chain, claimed(settings, speed))
    return Node(settings, model, energy)


def backend_of(settings: NodeSettings, config: ModelConfig) -> Backend:
    """Return the backend that a node's settings ask for.

    CONFIGURATION as `CpuBackend`, and where a GPU cannot be used or is too small for what the settings ask of it.
    """
    if settings.device == "cuda":
        return _cuda_backend(settings, config)
    return cpu_backend(settings, config)


def _cuda_backend(settings: NodeSettings, config: ModelConfig) -> Backend:
    from shared.model.cuda.device import open_card  # noqa: PLC0415  # a node on the CPU needs no Triton
    from shared.model.cuda.memory import Plan, free_memory  # noqa: PLC0415  # likewise

    backend = open_card(settings.arithmetic)
    plan = Plan.of(
        config,
        settings.kv_memory_mib * MIB,
        rows=settings.prefill_rows + settings.max_batch,
        batch=settings.max_batch,
        context=settings.context(config.max_positions),
    )
    plan.check(free_memory())
    return backend


def engine_limits(settings: NodeSettings, config: ModelConfig, backend: Backend) -> Limits:
    """Return the engine's limits; CONFIGURATION if its memory cannot hold one sequence of full length."""
    context = settings.context(config.max_positions)
    needed = blocks_for(context, backend.block) + 1  # the null block needs memory too
    layers = config.layers if settings.chain is None else widest(settings.chain, config)
    size = backend.block_bytes(config, layers=layers)
    blocks = settings.kv_memory_mib * MIB // size
    if blocks < needed:
        shorter = f", or max_model_len to {(blocks - 1) * backend.block} or less."
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"kv_memory_mib = {settings.kv_memory_mib} cannot hold one sequence of {context} "
            "positions",
            remedy=f"Set kv_memory_mib to {-(-needed * size // MIB)} or more"
            + (shorter if blocks > 1 else "."),
        )
    return Limits(
        sequences=settings.max_batch,
        queue=settings.quotas.queue,
        queue_per_tenant=settings.quotas.queue_per_tenant,
        prefill_rows=settings.prefill_rows,
        blocks=blocks - 1,
        block=backend.block,
        context=context,
    )


def serve(
    settings: NodeSettings,
    *,
    ready_file: Path | None = None,
    load_decoder: LoadDecoder = load_decoder,
) -> int:
    """Serve until SIGTERM or SIGINT; SIGUSR1 drains. Returns the exit code."""

    check_party(settings.party, PartyRole.NODE, settings.issuer, "counterfoil node init")

    async def main(stop: asyncio.Event) -> None:
        node: Node | StageNode
        if settings.stage is None:
            node = build_node(settings, load_decoder=load_decoder)
        else:
            node = await asyncio.to_thread(build_stage_node, settings)
        try:
            async with node.running() as server:
                _drain_on_signal(node)
                _log.info("node is serving", extra={"address": server.address})
                with metrics(settings.metrics, partial(node_metrics, node)) as bound:
                    if ready_file is not None:
                        where = {"grpc": server.address, "party": server.party_address or ""}
                        write_ready(ready_file, {**where, **bound})
                    await stop.wait()
        finally:
            node.close()

    return run_service(main)


def _drain_on_signal(node: Node | StageNode) -> None:
    running: set[asyncio.Task[None]] = set()

    def asked() -> None:
        running.add(asyncio.create_task(node.drain()))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked)
