"""Stages as processes, and what a node and a stage make of their settings."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from execution_layer.commands.node import node as node_command
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, GenerationRequest
from execution_layer.node.settings import NodeParty
from execution_layer.node.setup import chain_of
from execution_layer.pipeline.settings import Chain, ChainStage, StageSettings
from execution_layer.pipeline.status import read_status
from execution_layer.wiring import node, stage
from execution_layer.wiring.node import MIB, engine_limits
from execution_layer.wiring.stage import build_offer, most_rows, own_layers
from shared.model.cut import Cut
from shared.model.decoder import load_decoder
from shared.model.part import FolderSource, make_part
from shared.model.root import model_root
from shared.model.weights import EMBEDDING, HEAD, NORM, FileWeights
from shared.runtime.config import load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import Party, PartyRole
from shared.runtime.tls import LocalCA
from shared.statements.request import SamplingSettings
from tests.execution_layer.engine.traffic import tokenizer
from tests.execution_layer.waiting import until
from tests.execution_layer.wiring.test_node import node_settings
from tests.shared.model import tiny
from tests.shared.runtime.test_metrics import scrape

LAYERS, TOKENS = 4, 180
NODE = "operator-a/node-a"


@pytest.fixture
def model(tmp_path):
    return tiny.write_folder(tmp_path / "model", num_hidden_layers=LAYERS)


def part(model: Path, layers: str, *, ends: bool = False) -> Path:
    """Return a part of a checkpoint, beside it."""
    first, last = map(int, layers.split(":"))
    folder = model.with_name(f"part-{first}-{last}")
    make_part(FolderSource(model), folder, Cut(first, last, ends))
    return folder


def invoke(*words: object) -> Any:
    result = CliRunner().invoke(node_command, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def stage_init(folder: Path, model: Path, layers: str, address: str = "127.0.0.1:0") -> Path:
    """Return the configuration of a stage."""
    name = f"operator-a/stage-{layers.replace(':', '-')}"
    made = invoke(
        *("stage", "init", "--folder", folder, "--name", name, "--model", model),
        *("--layers", layers, "--address", address, "--local-ca", folder.parent / "ca"),
        *("--caller", NODE, "--caller", "operator-a/stage-1-3", "--kv-memory-mib", 4),
    )
    return Path(made["config"])


def chain(*stages: tuple[str, str], ca: Path = Path(), **changes: Any) -> Chain:
    places = tuple(ChainStage(address=address, layers=layers) for address, layers in stages)
    return Chain(stages=places, ca=ca, **changes)


@contextmanager
def served(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a stage in a process of its own; yield it, and where it is called."""
    ready = config.with_name("ready.json")
    ready.unlink(missing_ok=True)
    command = ("node", "stage", "serve", "--config", str(config), "--ready-file", str(ready))
    process = subprocess.Popen([sys.executable, "-m", "shared.runtime", *command])
    try:
        while not ready.exists():
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield process, json.loads(ready.read_text(encoding="utf-8"))["party"]
    finally:
        process.kill()
        process.wait()


async def generated(engine: LocalEngine, on_token: Any = lambda _count: None) -> Finished:
    await engine.start()
    how = SamplingSettings(TOKENS, temperature_ppm=0)
    prompt = tuple(range(40, 60))
    count = 0
    async for event in engine.submit(GenerationRequest("r", "a", prompt, how, bytes(32))):
        if isinstance(event, Finished):
            await engine.stop()
            return event
        count += 1
        on_token(count)
    raise AssertionError


async def test_a_stage_killed_while_a_node_answers_comes_back_and_the_answer_is_the_same(
    tmp_path, model, monkeypatch
):
    """Nobody in the chain has more of the checkpoint than it computes with."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(node, "Node", lambda _settings, model, _energy: made.update(model=model))
    monkeypatch.setattr(node, "open_tokenizer", lambda *_a, **_k: tokenizer())
    authority = LocalCA.load_or_create(tmp_path / "ca")
    party = NodeParty(
        **dict(authority.issue_party(Party(PartyRole.NODE, NODE), folder=tmp_path / "node"))
    )
    last = part(model, "3:4")
    first, second = (
        stage_init(tmp_path / "one", part(model, "1:3"), "1:3"),
        stage_init(tmp_path / "two", last, "3:4"),
    )
    with first.open("a", encoding="utf-8") as configuration:
        configuration.write("\n[metrics]\n")
    with served(first) as (_, at), served(second) as (victim, there):
        settings = node_settings(
            chain=chain((at, "1:3"), (there, "3:4"), ca=authority.ca_file),
            party=party,
            kv_memory_mib=4,
        ).model_copy(
            update={"model": part(model, "0:1", ends=True), "spool": tmp_path / "node.sqlite"}
        )
        node.build_node(settings)

        def at_token(count: int) -> None:
            if count == 20:
                victim.send_signal(signal.SIGKILL)

        answering = asyncio.create_task(generated(made["model"].engine, at_token))
        await asyncio.to_thread(victim.wait)
        again = stage_init(tmp_path / "two", last, "3:4", there)
        with served(again):
            answer = await answering
            ready = json.loads(first.with_name("ready.json").read_text(encoding="utf-8"))
            figures = await asyncio.to_thread(scrape, ready["metrics"])
    # the chain, every one that could not be connected while the other stage was away, and the one after it
    assert figures["counterfoil_stage_uses_total", frozenset()] >= 2
    assert "metrics" not in json.loads(again.with_name("ready.json").read_text(encoding="utf-8"))
    node.build_node(node_settings(kv_memory_mib=4).model_copy(update={"model": model}))
    alone = await generated(made["model"].engine)
    assert answer.output_ids == alone.output_ids
    assert answer.activations == alone.activations
    assert len(answer.output_ids) > 20
    file = tmp_path / "node.chain.json"
    await until(lambda: file.exists() and read_status(file).tokens == len(answer.output_ids))
    status = read_status(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (status.node, status.connected_at, status.rows) == ("o/n", None, 0)  # it was let go
    assert status.connections == status.breaks + 1 >= 2
    assert [(stage.layers, stage.address) for stage in status.stages] == [
        ("0:1", None),
        ("1:3", at),
        ("3:4", there),
    ]
    assert all(stage.busy is not None for stage in status.stages)


def test_a_stage_and_a_first_stage_read_only_the_tensors_that_they_compute_with(
    tmp_path, model, monkeypatch
):
    read: list[str] = []
    ordinary = FileWeights.__getitem__

    def reading(self: FileWeights, name: str) -> Any:
        read.append(name)
        return ordinary(self, name)

    monkeypatch.setattr(FileWeights, "__getitem__", reading)
    settings = load(StageSettings, stage_init(tmp_path / "one", model, "1:3"))
    offer = build_offer(settings)
    assert {name.split(".")[2] for name in read} == {"1", "2"}
    config = load_decoder(model, backend=tiny.BACKEND).config
    read.clear()
    stage.load_ends(model, config, tiny.BACKEND, 1)
    assert {name for name in read if "layers" not in name} == {EMBEDDING, NORM, HEAD}
    assert {name.split(".")[2] for name in read if "layers" in name} == {"0"}
    assert (offer.blocks + 1) * tiny.BACKEND.block_bytes(config, layers=2) <= 4 * MIB


@pytest.mark.parametrize(("layers", "own"), [(("0:4",), 0), (("1:3", "3:4"), 1), (("3:4",), 3)])
def test_a_chain_ends_with_the_model_and_the_node_computes_what_comes_before_it(layers, own):
    config = tiny.config(num_hidden_layers=LAYERS)
    assert own_layers(chain(*(("h:1", each) for each in layers)), config) == own


@pytest.mark.parametrize("layers", [("1:2", "3:4"), ("1:3", "2:4"), ("1:3",), ("1:5",)])
def test_a_chain_with_a_gap_an_overlap_or_another_end_is_refused(layers):
    with pytest.raises(CounterfoilError) as caught:
        own_layers(
            chain(*(("h:1", each) for each in layers)), tiny.config(num_hidden_layers=LAYERS)
        )
    assert caught.value.code is Code.CONFIGURATION


def test_the_stages_of_a_chain_answer_for_themselves_or_their_node_for_all_of_them():
    named = ("farm/s1@10.0.0.2:7100=1:2", "farm/s2@[::1]:7100=2:4")
    found = chain_of(named, Path("ca.pem"))
    assert (found.accountable, found.names) == (True, ("farm/s1", "farm/s2"))
    assert [stage.address for stage in found.stages] == ["10.0.0.2:7100", "[::1]:7100"]
    own = chain_of(("10.0.0.2:7100=1:2", "10.0.0.3:7100=2:4"), Path("ca.pem"))
    assert (own.accountable, own.names) == (False, None)
    for wrong in (
        (named[0], "10.0.0.3:7100=2:4"),
        (named[0], "farm/s1@10.0.0.3:7100=2:4"),
        ("farm@10.0.0.2:7100=1:4",),
        ("farm/s1/x@10.0.0.2:7100=1:4",),
    ):
        with pytest.raises(CounterfoilError) as caught:
            chain_of(wrong, Path("ca.pem"))
        assert caught.value.code is Code.CONFIGURATION


def test_all_stages_have_as_many_blocks_as_the_one_with_most_layers_has_memory_for():
    config = tiny.config(num_hidden_layers=LAYERS)
    settings = node_settings(kv_memory_mib=4, chain=chain(("h:1", "1:4")))
    blocks = engine_limits(settings, config, tiny.BACKEND).blocks
    assert (blocks + 1) * tiny.BACKEND.block_bytes(config, layers=3) <= 4 * MIB
    assert blocks > engine_limits(node_settings(kv_memory_mib=4), config, tiny.BACKEND).blocks


def test_steps_too_large_for_a_message_are_refused_with_what_fits(model):
    config = load_decoder(model, backend=tiny.BACKEND).config
    ends, own = stage.load_ends(model, config, tiny.BACKEND, 1)
    most = most_rows(config)
    assert most * 4 * config.hidden_size < 16 * MIB
    with pytest.raises(CounterfoilError) as caught:
        stage.chain_steps(
            chain(("h:1", "1:4")),
            ends,
            own,
            None,
            most + 1,
            (b"", b""),
            None,
            None,
            8,
            lambda: None,
        )
    assert str(most) in (caught.value.remedy or "")


def test_layers_that_the_model_has_not_are_refused(tmp_path, model):
    settings = load(StageSettings, stage_init(tmp_path / "one", model, "3:5"))
    with pytest.raises(CounterfoilError, match="the model has 4") as caught:
        build_offer(settings)
    assert caught.value.code is Code.CONFIGURATION


def test_a_stage_of_a_part_offers_the_root_of_the_whole_and_no_layers_that_it_lacks(
    tmp_path, model
):
    held = part(model, "1:3")
    settings = load(StageSettings, stage_init(tmp_path / "one", held, "1:3"))
    offer = build_offer(settings)
    assert offer.model_root == model_root(model)
    assert (offer.stage.first, offer.stage.last) == (1, 3)
    more = settings.model_copy(update={"layers": "2:4"})
    with pytest.raises(CounterfoilError, match=r"lacks the tensor model\.layers\.3") as caught:
        build_offer(more)
    assert caught.value.code is Code.CONFIGURATION
    with (held / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    with pytest.raises(CounterfoilError, match="is not the one") as caught:
        build_offer(settings)
    assert caught.value.code is Code.CORRUPT


def test_a_node_without_a_chain_needs_more_than_a_part(model):
    held = part(model, "0:1", ends=True)
    with pytest.raises(CounterfoilError, match=r"lacks the tensor model\.layers\.1") as caught:
        load_decoder(held, backend=tiny.BACKEND)
    assert caught.value.code is Code.CONFIGURATION


def test_a_stage_works_for_its_own_operators_nodes_only(tmp_path, model):
    settings = load(StageSettings, stage_init(tmp_path / "one", model, "1:3"))
    other = settings.model_copy(update={"callers": (NODE, "operator-b/node-b")})
    with pytest.raises(CounterfoilError, match="operator-b/node-b") as caught:
        build_offer(other)
    assert "inverted to text" in (caught.value.remedy or "")


@pytest.mark.parametrize("layers", ["3", "4:3", "3:3", "-1:3", "a:b", "1:2:3", "1:99999"])
def test_what_is_no_range_of_layers_is_refused(tmp_path, model, layers):
    with pytest.raises(CounterfoilError, match="FIRST:LAST") as caught:
        stage_init(tmp_path / "one", model, layers)
    assert caught.value.code is Code.CONFIGURATION
