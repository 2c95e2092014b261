"""The two sides: each answers one prompt and reports when the first token and the end arrived."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.policy import ClientPolicy
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, GenerationRequest
from execution_layer.node.settings import NodeSettings
from execution_layer.wiring.node import backend_of, engine_limits
from shared.installation import processes
from shared.installation.commands import Commands
from shared.installation.install import Installer
from shared.installation.layout import WITNESS, NodePlan, Plan
from shared.installation.query import Query
from shared.model.config import ModelConfig
from shared.model.decoder import load_decoder
from shared.runtime.config import load
from shared.runtime.supervisor import Supervisor
from shared.statements.request import RequestBody
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer

NODE = "node-a"
POLL_S = 0.02
LOGGED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered prompt; seconds since it was asked."""

    tokens: tuple[int, ...]
    first_s: float
    total_s: float

    @property
    def per_token_s(self) -> float | None:
        """Time per token after the first; for the stack, the receipt's share is in it."""
        later = len(self.tokens) - 1
        return (self.total_s - self.first_s) / later if later > 0 else None


class Side(Protocol):
    """Answers prompts."""

    async def ask(self, body: RequestBody) -> Answer:
        """Answer one prompt; many may be under way."""


class EngineSide:
    """The engine alone, built as the node builds it."""

    def __init__(self, engine: LocalEngine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompts: dict[RequestBody, tuple[int, ...]] = {}

    def prepare(self, body: RequestBody) -> None:
        """Tokenise a prompt, so that this does not count in the engine's time."""
        self._prompts[body] = prompt_ids(self._tokenizer, body)

    async def ask(self, body: RequestBody) -> Answer:
        """Answer one prompt; it must have been prepared."""
        assert body.seed is not None
        begun = time.perf_counter()
        first: float | None = None
        request = GenerationRequest("bare", "acme", self._prompts[body], body.settings, body.seed)
        async for event in self._engine.submit(request):
            if isinstance(event, Finished):
                ended = time.perf_counter()
                assert first is not None
                return Answer(event.output_ids, first - begun, ended - begun)
            if first is None and event.token_ids:
                first = time.perf_counter()
        raise AssertionError("a generation ends with Finished")


class StackSide:
    """Client, node and audit server."""

    def __init__(self, client: AsyncCounterfoilClient, query: Query) -> None:
        self._client = client
        self._query = query
        self._asked = 0

    async def ask(self, body: RequestBody) -> Answer:
        """Answer one prompt, from ordering and sealing to the checked receipt."""
        self._asked += 1
        begun = time.perf_counter()
        done = await self._client.generate(
            body.messages or None, body.settings, prompt=body.prompt, seed=body.seed
        )
        total = time.perf_counter() - begun
        timings = done.timings  # its clock starts when the sealed request is sent
        assert timings.first_token_ms is not None
        sealed_s = total - timings.total_ms / 1000
        return Answer(done.token_ids, sealed_s + timings.first_token_ms / 1000, total)

    async def logged(self) -> None:
        """Wait until the log has the receipts of all requests; TimeoutError if it never does."""
        async with asyncio.timeout(LOGGED_WITHIN_S):
            while True:
                status = await self._query.get("/v1/status")
                if status["statements"].get("receipt", 0) >= self._asked:
                    return
                await asyncio.sleep(POLL_S)


@contextlib.asynccontextmanager
async def engine_side(settings: NodeSettings) -> AsyncIterator[EngineSide]:
    """Run the engine that `execution_layer.wiring.node` would build from a node's configuration."""
    config = ModelConfig.from_folder(settings.model)
    backend = backend_of(settings, config)
    decoder = load_decoder(settings.model, backend=backend)
    tokenizer = Tokenizer.from_folder(settings.model, config.eos_token_ids)
    engine = LocalEngine(decoder, tokenizer, engine_limits(settings, config, backend))
    await engine.start()
    try:
        yield EngineSide(engine, tokenizer)
    finally:
        await engine.stop()


@contextlib.asynccontextmanager
async def stack_side(plan: Plan) -> AsyncIterator[StackSide]:
    """Install a platform of one node into the plan's folder and run what a receipt passes through on its way to the log.

    The database's own user must be able to traverse the folder.
    """
    installer = Installer(plan, Commands(_silent))
    async with Supervisor(_silent) as supervisor:
        await supervisor.start([processes.postgres(plan)])
        await installer.install()
        needed = {WITNESS, processes.AUDIT, NODE}
        await supervisor.start([each for each in processes.services(plan) if each.name in needed])
        query = Query(
            installer.ports["audit-http"],
            plan.path("ca", "ca.pem"),
            plan.path("audit", "auditor.token"),
        )
        policy = ClientPolicy.load(plan.path("client", "client.toml"))
        async with AsyncCounterfoilClient(policy) as client:
            yield StackSide(client, query)


def plan_for(folder: Path, model: Path) -> Plan:
    """Return an installation of one node that serves a model."""
    return Plan(folder, (NodePlan(NODE, "operator-a"),), model)


def node_settings(plan: Plan) -> NodeSettings:
    """Return the configuration that the installed node runs with."""
    return load(NodeSettings, plan.path(NODE, "node.toml"))


def _silent(_who: str, _what: str) -> None:
    pass
