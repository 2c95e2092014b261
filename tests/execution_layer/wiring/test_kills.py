"""Stages that are killed at random moments, over and over: no token is lost or doubled, and the states are those of one machine.

Each round kills (SIGKILL) one of the four processes that compute two places of a chain, each place having a spare, at a random
moment of answers that are under way, and starts it again while they go on. `make test-slow` kills 20 times, `make soak` 200.
"""

import asyncio
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, FinishReason, GenerationRequest
from execution_layer.node.settings import NodeParty
from execution_layer.pipeline.settings import Chain, ChainStage
from execution_layer.wiring import node
from shared.model.decoder import load_decoder
from shared.model.replay import replay
from shared.runtime.party import Party, PartyRole
from shared.runtime.tls import LocalCA
from shared.statements.request import SamplingSettings
from tests.execution_layer.engine.traffic import tokenizer
from tests.execution_layer.wiring.test_node import node_settings
from tests.execution_layer.wiring.test_stage import LAYERS, NODE, served, stage_init
from tests.shared.model import tiny

RANGES = ("1:3", "1:3", "3:4", "3:4")
AT_ONCE, TOKENS = 4, 120


class Stage:
    """A process that computes a range of layers, killed and started again at one address."""

    def __init__(self, folder: Path, model: Path, layers: str) -> None:
        self._folder, self._model, self._layers = folder, model, layers
        self._stack = ExitStack()
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = stage_init(self._folder, self._model, self._layers, self.address)
        self._process, self.address = self._stack.enter_context(served(config))

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._stack.close()


@contextmanager
def stages(folder: Path, model: Path) -> Iterator[list[Stage]]:
    made = [Stage(folder / f"{place}", model, layers) for place, layers in enumerate(RANGES)]
    try:
        for stage in made:
            stage.start()
        yield made
    finally:
        for stage in made:
            stage.close()


def asked(rng: random.Random, name: str) -> GenerationRequest:
    prompt = tuple(rng.randrange(256) for _ in range(rng.randrange(5, 80)))
    how = SamplingSettings(rng.randrange(TOKENS // 2, TOKENS), temperature_ppm=1_000_000)
    return GenerationRequest(name, "a", prompt, how, rng.randbytes(32))


async def answered(engine: LocalEngine, request: GenerationRequest) -> tuple[list[int], Finished]:
    """Return the tokens as they were streamed, and the end."""
    streamed: list[int] = []
    async for event in engine.submit(request):
        if isinstance(event, Finished):
            return streamed, event
        streamed += event.token_ids
    raise AssertionError


async def survives(folder: Path, monkeypatch: Any, caplog: Any, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    model = tiny.write_folder(folder / "model", num_hidden_layers=LAYERS)
    made: dict[str, Any] = {}
    monkeypatch.setattr(node, "Node", lambda _settings, model, _energy: made.update(model=model))
    monkeypatch.setattr(node, "open_tokenizer", lambda *_a, **_k: tokenizer())
    authority = LocalCA.load_or_create(folder / "ca")
    party = NodeParty(
        **dict(authority.issue_party(Party(PartyRole.NODE, NODE), folder=folder / "node"))
    )
    with stages(folder, model) as processes:
        at = [stage.address for stage in processes]
        places = (
            ChainStage(address=at[0], spares=(at[1],), layers="1:3"),
            ChainStage(address=at[2], spares=(at[3],), layers="3:4"),
        )
        chain = Chain(stages=places, ca=authority.ca_file, patience_s=60)
        settings = node_settings(chain=chain, party=party, kv_memory_mib=4)
        node.build_node(
            settings.model_copy(update={"model": model, "spool": folder / "node.sqlite"})
        )
        engine: LocalEngine = made["model"].engine
        await engine.start()
        alone = load_decoder(model, backend=tiny.BACKEND)
        for number in range(kills):
            requests = [asked(rng, f"{number}-{one}") for one in range(AT_ONCE)]
            answering = asyncio.gather(*(answered(engine, request) for request in requests))
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            victim = rng.choice(processes)
            await asyncio.to_thread(victim.kill)
            back = asyncio.create_task(asyncio.to_thread(victim.start))
            for request, (streamed, end) in zip(requests, await answering, strict=True):
                output = end.output_ids
                replayed = replay(alone, request.prompt_ids, output, request.settings, request.seed)
                assert tuple(streamed) == output == replayed.chosen
                assert end.activations == replayed.activations
                assert end.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
            await back
        await engine.stop()
    broken = [record for record in caplog.records if record.message == "the chain broke"]
    assert broken, "half of the processes are spares, but the others were killed"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_twenty_kills_lose_and_double_nothing(tmp_path, monkeypatch, caplog):
    await survives(tmp_path, monkeypatch, caplog, 20, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
async def test_soak_of_two_hundred_kills(tmp_path, monkeypatch, caplog, seed):
    await survives(tmp_path, monkeypatch, caplog, 20, seed=100 + seed)
