"""The metrics of nodes and stages, and where each is read. docs/operations/metrics.md lists them; a test holds it to that."""

from collections.abc import Iterator
from typing import Final

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Engine
from execution_layer.node.ground import Ground
from execution_layer.node.health import Health
from execution_layer.node.node import Node
from execution_layer.node.stage_node import StageNode
from execution_layer.pipeline.counts import StageCounts
from execution_layer.pipeline.service import StagesService
from execution_layer.pipeline.steps import ChainSteps
from execution_layer.pipeline.tally import Tally
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError
from shared.runtime.metrics import Counter, Exposition, Kind, Metric, Reading
from shared.runtime.rpc_metrics import rpc_readings

IN_FLIGHT: Final = Metric(
    "counterfoil_node_requests_in_flight",
    Kind.GAUGE,
    "Requests, or a stage's parts, that are accepted and have no receipt yet.",
)
ACCEPTING: Final = Metric(
    "counterfoil_node_accepting",
    Kind.GAUGE,
    "1 while the node neither drains nor refuses everything for a reason of its own.",
)
STORE_WRITABLE: Final = Metric(
    "counterfoil_node_store_writable",
    Kind.GAUGE,
    "1 if the last write to the node's store succeeded.",
)
COMPUTES: Final = Metric(
    "counterfoil_node_computes", Kind.GAUGE, "0 once passes of the model fail one after the other."
)
BUNDLE_EXPIRES: Final = Metric(
    "counterfoil_node_key_bundle_expires_seconds",
    Kind.GAUGE,
    "When the key bundle that clients are told of ends, in seconds since 1970.",
)
RECEIPTS: Final = Metric(
    "counterfoil_node_receipts_total",
    Kind.COUNTER,
    "Receipts that the node has signed since it exists.",
)
SPOOL: Final = Metric(
    "counterfoil_node_spool_receipts",
    Kind.GAUGE,
    "Receipts that the log has neither accepted nor refused.",
)
SPOOL_AGE: Final = Metric(
    "counterfoil_node_spool_age_seconds",
    Kind.GAUGE,
    "How long ago the oldest of them ended; 0 if there is none.",
)
REFUSED_BY_LOG: Final = Metric(
    "counterfoil_node_receipts_refused_by_log_total",
    Kind.COUNTER,
    "Receipts that the log has refused for good, since the process began.",
)
ENDED: Final = Metric(
    "counterfoil_node_requests_ended_total",
    Kind.COUNTER,
    "Requests that have got their receipt in this process, by how they ended.",
    ("finish",),
)
ENERGY: Final = Metric(
    "counterfoil_node_energy_joules_total",
    Kind.COUNTER,
    "Energy as receipts say it. What is unmeasured is not in it.",
    ("quality",),
)
QUALITIES: Final = Metric(
    "counterfoil_node_energy_receipts_total",
    Kind.COUNTER,
    "Receipts of this process by the quality of the energy that they say.",
    ("quality",),
)
NODE: Final = (
    *(IN_FLIGHT, ACCEPTING, STORE_WRITABLE, COMPUTES, BUNDLE_EXPIRES, RECEIPTS, SPOOL, SPOOL_AGE),
    *(REFUSED_BY_LOG, ENDED, ENERGY, QUALITIES),
)

SEQUENCES: Final = Metric(
    "counterfoil_engine_sequences",
    Kind.GAUGE,
    "Sequences that run, and that wait to run or to run again.",
    ("state",),
)
SEQUENCES_LIMIT: Final = Metric(
    "counterfoil_engine_sequences_limit", Kind.GAUGE, "Sequences that can run at once (max_batch)."
)
QUEUE_LIMIT: Final = Metric(
    "counterfoil_engine_queue_limit", Kind.GAUGE, "Sequences that can wait (quotas.queue)."
)
BATCH: Final = Metric(
    "counterfoil_engine_batch_sequences",
    Kind.HISTOGRAM,
    "Sequences in one step: how full batches are.",
)
KV_BLOCKS: Final = Metric(
    "counterfoil_engine_kv_blocks", Kind.GAUGE, "Blocks of memory for keys and values."
)
KV_FREE: Final = Metric(
    "counterfoil_engine_kv_blocks_free",
    Kind.GAUGE,
    "Blocks that no sequence holds, those of the prefix cache included.",
)
KV_CACHED: Final = Metric(
    "counterfoil_engine_kv_blocks_cached",
    Kind.GAUGE,
    "Blocks that the prefix cache has, held or not.",
)
TOKENS: Final = Metric(
    "counterfoil_engine_tokens_total", Kind.COUNTER, "Output tokens that were chosen."
)
PROMPT_TOKENS: Final = Metric(
    "counterfoil_engine_prompt_tokens_total",
    Kind.COUNTER,
    "Prompt positions, by where their keys and values came from: computed, or the prefix cache.",
    ("source",),
)
FIRST_TOKEN: Final = Metric(
    "counterfoil_engine_first_token_seconds",
    Kind.HISTOGRAM,
    "From a sequence's submission to its first token, the wait in the queue included.",
)
BETWEEN: Final = Metric(
    "counterfoil_engine_token_interval_seconds",
    Kind.HISTOGRAM,
    "Between two tokens of one sequence.",
)
STEPS: Final = Metric("counterfoil_engine_steps_total", Kind.COUNTER, "Steps that have ended.")
FAILED_STEPS: Final = Metric(
    "counterfoil_engine_failed_steps_total",
    Kind.COUNTER,
    "Steps that failed; their sequences ended as failed.",
)
PREEMPTIONS: Final = Metric(
    "counterfoil_engine_preemptions_total",
    Kind.COUNTER,
    "How often a sequence gave up its memory to another.",
)
ENGINE: Final = (
    *(SEQUENCES, SEQUENCES_LIMIT, QUEUE_LIMIT, BATCH, KV_BLOCKS, KV_FREE, KV_CACHED, TOKENS),
    *(PROMPT_TOKENS, FIRST_TOKEN, BETWEEN, STEPS, FAILED_STEPS, PREEMPTIONS),
)

CONNECTED: Final = Metric(
    "counterfoil_chain_connected", Kind.GAUGE, "1 while the head's chain of stages is connected."
)
CHAIN_STEPS: Final = Metric(
    "counterfoil_chain_steps_under_way", Kind.GAUGE, "Steps in the chain now."
)
CHAIN_DEPTH: Final = Metric(
    "counterfoil_chain_depth", Kind.GAUGE, "Steps that may be in the chain now."
)
CHAIN_ROWS: Final = Metric(
    "counterfoil_chain_rows_under_way", Kind.GAUGE, "Positions in those steps."
)
CHAIN_BREAKS: Final = Metric(
    "counterfoil_chain_breaks_total",
    Kind.COUNTER,
    "How often a connected chain, or one to be, broke.",
)
CHAIN_CONNECTIONS: Final = Metric(
    "counterfoil_chain_connections_total", Kind.COUNTER, "How often the chain was connected."
)
CHAIN_DONE: Final = Metric(
    "counterfoil_chain_steps_total", Kind.COUNTER, "Steps that have come back from the chain."
)
CHAIN_BUSY: Final = Metric(
    "counterfoil_chain_stage_busy_seconds_total",
    Kind.COUNTER,
    "What each stage says that it has computed, by its place in the chain.",
    ("place",),
)
CHAIN_HEAD: Final = Metric(
    "counterfoil_chain_head_busy_seconds_total",
    Kind.COUNTER,
    "What embedding, head and sampling have taken.",
)
CHAIN_TRIP: Final = Metric(
    "counterfoil_chain_trip_seconds",
    Kind.GAUGE,
    "What all hops of one round take together; missing until it is measured.",
)
CHAIN: Final = (
    *(CONNECTED, CHAIN_STEPS, CHAIN_DEPTH, CHAIN_ROWS, CHAIN_BREAKS, CHAIN_CONNECTIONS),
    *(CHAIN_DONE, CHAIN_BUSY, CHAIN_HEAD, CHAIN_TRIP),
)

STAGE_IN_USE: Final = Metric(
    "counterfoil_stage_in_use", Kind.GAUGE, "1 while a chain has the stage."
)
STAGE_USES: Final = Metric(
    "counterfoil_stage_uses_total",
    Kind.COUNTER,
    "Chains that have had the stage, one after the other.",
)
STAGE_UNDER_WAY: Final = Metric(
    "counterfoil_stage_steps_under_way", Kind.GAUGE, "Steps in the stage now."
)
STAGE_ROWS: Final = Metric(
    "counterfoil_stage_rows_total", Kind.COUNTER, "Positions that the stage has computed."
)
STAGE_WAITED: Final = Metric(
    "counterfoil_stage_step_wait_seconds",
    Kind.HISTOGRAM,
    "How long steps waited for those before them.",
)
STAGE_TOOK: Final = Metric(
    "counterfoil_stage_step_seconds", Kind.HISTOGRAM, "How long steps were computed."
)
STAGE: Final = (*(STAGE_IN_USE, STAGE_USES, STAGE_UNDER_WAY, STAGE_ROWS, STAGE_WAITED, STAGE_TOOK),)


def node_metrics(node: Node | StageNode) -> Exposition:
    """Return the metrics of a node that serves."""
    issuer = node.ground.settings.issuer
    ground, health = node.ground, node.health
    sources = {
        "the node": lambda: ground_readings(ground, health),
        "the spool": lambda: spool_readings(ground),
        "calls": lambda: rpc_readings(ground.calls),
    }
    if isinstance(node, StageNode):
        stages = node.stages
        assert stages is not None
        return Exposition(
            "stage", issuer, {**sources, "the stage": lambda: stage_readings(stages.counts)}
        )
    engine, counts = node.engine, node.counts

    def ended() -> Iterator[Reading]:
        yield from counts.receipts.readings(ENDED)
        yield from counts.energy.readings(ENERGY)
        yield from counts.qualities.readings(QUALITIES)

    return Exposition(
        "node",
        issuer,
        {**sources, "requests": ended, "the engine": lambda: engine_readings(engine)},
    )


def stage_metrics(name: str, stages: StagesService, calls: Counter) -> Exposition:
    """Return the metrics of a silent stage that serves."""
    return Exposition(
        "stage",
        name,
        {"calls": lambda: rpc_readings(calls), "the stage": lambda: stage_readings(stages.counts)},
    )


def ground_readings(ground: Ground, health: Health) -> Iterator[Reading]:
    """Yield what every node says of itself."""
    load, writable = ground.load, ground.store.journal.failure is None
    yield IN_FLIGHT(load.in_flight)
    yield STORE_WRITABLE(writable)
    yield COMPUTES(health.computes)
    yield ACCEPTING(writable and health.computes and not load.draining)
    try:
        yield BUNDLE_EXPIRES(ground.ring.current().bundle.not_after / 1000)
    except CounterfoilError:
        return  # there is none yet


def spool_readings(ground: Ground) -> Iterator[Reading]:
    """Yield how receipts fare on their way to the log."""
    backlog = ground.spool.backlog()
    yield RECEIPTS(backlog.receipts)
    yield SPOOL(backlog.pending)
    oldest = backlog.oldest_ended
    yield SPOOL_AGE(0 if oldest is None else max(0, now_ms() - oldest) / 1000)
    yield REFUSED_BY_LOG(ground.spool.refused)


def engine_readings(engine: Engine) -> Iterator[Reading]:
    """Yield what the engine is doing, and the head's chain if it has one."""
    stats = engine.stats
    yield SEQUENCES(stats.running, "running")
    yield SEQUENCES(stats.waiting, "waiting")
    yield KV_FREE(stats.free_blocks)
    yield KV_CACHED(stats.cached_blocks)
    yield PROMPT_TOKENS(stats.prefix_misses, "computed")
    yield PROMPT_TOKENS(stats.prefix_hits, "prefix cache")
    yield STEPS(stats.steps)
    yield PREEMPTIONS(stats.preemptions)
    if not isinstance(engine, LocalEngine):
        return
    limits, counts = engine.limits, engine.counts
    yield SEQUENCES_LIMIT(limits.sequences)
    yield QUEUE_LIMIT(limits.queue)
    yield KV_BLOCKS(limits.blocks)
    yield BATCH(counts.batch.counts())
    yield TOKENS(counts.tokens)
    yield FIRST_TOKEN(counts.first_token_s.counts())
    yield BETWEEN(counts.between_s.counts())
    yield FAILED_STEPS(counts.failed)
    if isinstance(engine.steps, ChainSteps):
        yield from chain_readings(engine.steps.tally)


def chain_readings(tally: Tally) -> Iterator[Reading]:
    """Yield how a head's chain stands. A stage is named by its place only: places are few."""
    yield CONNECTED(tally.connected_at is not None)
    yield CHAIN_STEPS(tally.under_way)
    yield CHAIN_DEPTH(tally.depth)
    yield CHAIN_ROWS(tally.rows)
    yield CHAIN_BREAKS(tally.breaks)
    yield CHAIN_CONNECTIONS(tally.connections)
    yield CHAIN_DONE(tally.steps)
    for place, busy_s in enumerate(tally.stages_s):
        yield CHAIN_BUSY(busy_s, str(place))
    yield CHAIN_HEAD(tally.ends_s)
    if tally.trip_s is not None:
        yield CHAIN_TRIP(tally.trip_s)


def stage_readings(counts: StageCounts) -> Iterator[Reading]:
    """Yield what a stage does."""
    yield STAGE_IN_USE(counts.using)
    yield STAGE_USES(counts.uses)
    yield STAGE_UNDER_WAY(counts.under_way)
    yield STAGE_ROWS(counts.rows)
    yield STAGE_WAITED(counts.waited_s.counts())
    yield STAGE_TOOK(counts.took_s.counts())
