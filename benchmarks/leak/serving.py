"""A client, a relay and a node in one process: real TLS, real sealing, the shipped model at the pace of a larger one."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.detection.requests import conversations
from benchmarks.leak.relay import Record, Relay
from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.policy import ClientPolicy
from execution_layer.engine.engine import LocalEngine
from execution_layer.wiring import node as wiring
from shared.envelope import shape
from shared.model.root import model_root
from shared.statements.request import Message
from tests.adversaries.adversary import patched
from tests.adversaries.trial import MODEL
from tests.execution_layer import world as worlds

SETTLE_S: Final = 0.03
"""How long after an answer the last records may still be on their way."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of sending an answer."""

    name: str
    padded: bool = True
    """Whether frames and the final record are padded."""
    frame_ms: int = 50
    """Tokens that arrive within this time share a frame."""
    slots_ms: int = 0
    """Time slots; 0: none."""

    def applied(self) -> AbstractContextManager[None]:
        """Have node and client of this process do it."""
        if self.padded:
            return nullcontext()
        return patched((shape, "padded_size", lambda length, _smallest: length + 1))


WAYS: Final = (  # docs/traffic-analysis.md says what each is; `padded-frames` is the default
    Way("bare-tokens", padded=False, frame_ms=0),
    Way("bare-frames", padded=False),
    Way("padded-tokens", frame_ms=0),
    Way("padded-frames"),
    Way("slots-20", slots_ms=20),
    Way("slots-50", slots_ms=50),
)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked, and of what."""

    prompts: int
    repetitions: int
    tokens: int
    """The longest answer."""
    pace_ms: float
    """The shortest step of the engine."""
    clients: int
    """How many ask at once, each over a connection of its own."""


@dataclass(slots=True)
class Seen:
    """What became of one prompt's repetitions."""

    exchanges: list[list[Record]] = field(default_factory=list)
    text_s: list[float] = field(default_factory=list)
    """From asking to the last piece of text."""
    end_s: list[float] = field(default_factory=list)
    """From asking to the checked answer."""
    tokens: list[int] = field(default_factory=list)


def prompts(count: int) -> list[str]:
    """Return different questions, in several languages, that the shipped model was trained to answer."""
    found: dict[str, None] = {}
    for turns in conversations(1):
        found.setdefault(next(turn.content for turn in turns if turn.role == "user"))
        if len(found) == count:
            return list(found)
    raise AssertionError("the stream of conversations is endless")


def paced(pace_ms: float) -> type[LocalEngine]:
    """Return the engine with steps that take at least so long."""

    class Paced(LocalEngine):
        def step(self) -> bool:
            began = time.monotonic()
            worked = super().step()
            if worked:
                time.sleep(max(0.0, began + pace_ms / 1000 - time.monotonic()))
            return worked

    return Paced


async def serve(
    way: Way, temperature: str, load: Load, folder: Path, told: Callable[[], None]
) -> list[Seen]:
    """Have every prompt answered `repetitions` times in random order; return what was seen, by prompt."""
    questions = prompts(load.prompts)
    seen = [Seen() for _ in questions]
    places = [place for place in range(load.prompts) for _ in range(load.repetitions)]
    random.Random(7).shuffle(places)
    jobs = iter(places)
    with way.applied():
        async with _stack(way, load, folder) as (client, relays):

            async def work(relay: Relay) -> None:
                client.through.set(relay.address)
                for place in jobs:
                    await _ask(client, relay, questions[place], temperature, load, seen[place])
                    told()

            await asyncio.gather(*(work(relay) for relay in relays))
    return seen


async def _ask(
    client: AsyncCounterfoilClient,
    relay: Relay,
    question: str,
    temperature: str,
    load: Load,
    seen: Seen,
) -> None:
    await asyncio.sleep(SETTLE_S)
    relay.cut()
    began, last = time.monotonic(), [0.0]

    def heard(_text: str) -> None:
        last[0] = time.monotonic() - began

    answer = await client.generate(
        [Message("user", question)],
        max_tokens=load.tokens,
        temperature=temperature,
        on_text=heard,
        timeout_s=120.0,
    )
    seen.end_s.append(time.monotonic() - began)
    await asyncio.sleep(SETTLE_S)
    seen.exchanges.append(relay.cut())
    seen.text_s.append(last[0])
    seen.tokens.append(len(answer.token_ids))


class ClientBehindRelays(AsyncCounterfoilClient):
    """A client whose tasks each reach the node through a relay, and so over a connection, of their own."""

    def __init__(self, policy: ClientPolicy, node: str) -> None:
        super().__init__(policy)
        self._node = node
        self.through: ContextVar[str] = ContextVar("through", default=node)
        """The relay of the present task."""

    def _channel(self, target: str) -> grpc.aio.Channel:
        return super()._channel(self.through.get() if target == self._node else target)


@contextlib.asynccontextmanager
async def _stack(
    way: Way, load: Load, folder: Path
) -> AsyncIterator[tuple[ClientBehindRelays, Sequence[Relay]]]:
    """Bring up a node, a client, and a relay for each request at a time."""
    small_world: Any = worlds.small_world
    async with small_world(folder) as world, contextlib.AsyncExitStack() as open_:
        root = model_root(MODEL)
        settings = world.settings(
            model=(MODEL, root), frame_interval_ms=way.frame_ms, max_batch=load.clients
        )
        with patched((wiring, "LocalEngine", paced(load.pace_ms))):
            node = wiring.build_node(settings)
        open_.callback(node.close)
        server = await open_.enter_async_context(node.running())
        assert node.registration is not None
        await node.registration.witnessed.wait()
        policy = world.policy(model_root=root, slots_ms=way.slots_ms or None)
        relays = [
            await open_.enter_async_context(Relay(server.address)) for _ in range(load.clients)
        ]
        client = await open_.enter_async_context(ClientBehindRelays(policy, server.address))
        for relay in relays:  # connections and caches are there before anything is measured
            client.through.set(relay.address)
            await client.generate(prompt="hello", max_tokens=2)
        yield client, relays


def cost(seen: Sequence[Seen]) -> dict[str, float]:
    """Return means over all answers: tokens, bytes on the wire both ways, and seconds."""

    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / len(values), 4)

    exchanges = list(itertools.chain.from_iterable(one.exchanges for one in seen))
    return {
        "tokens": mean([count for one in seen for count in one.tokens]),
        "records": mean([sum(record.down for record in exchange) for exchange in exchanges]),
        "bytes": mean([sum(record.size for record in exchange) for exchange in exchanges]),
        "text_s": mean([second for one in seen for second in one.text_s]),
        "end_s": mean([second for one in seen for second in one.end_s]),
    }
