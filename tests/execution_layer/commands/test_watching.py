"""`counterfoil pool top`: what a person sees, what a script reads, and a file that says nothing of now."""

import json
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from execution_layer.commands import watching
from execution_layer.commands.node import node
from execution_layer.commands.pool import pool
from execution_layer.node.settings import NodeSettings
from execution_layer.pipeline.settings import Chain, ChainStage
from execution_layer.pipeline.status import STALE_MS, StageStatus, status_of
from execution_layer.pipeline.tally import Tally
from shared.runtime.cli import run
from shared.runtime.config import load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private
from tests.execution_layer.commands.test_node import prepared
from tests.execution_layer.wiring.test_node import node_settings

STAGES = [
    StageStatus(layers="0:2"),
    StageStatus(layers="2:4", name="farm/s1", address="10.0.0.2:7100"),
]
TALLY = Tally(
    since=1000.0,
    steps=20,
    tokens=12_345,
    stages_s=(1.0, 2.0),
    connections=2,
    breaks=1,
    last_break="the stage at [red]10.0.0.2:7100[/red] has gone",
    connected_at=1090.0,
    rows=48,
    under_way=12,
    depth=13,
    running=64,
    trip_s=0.203,
)


@pytest.fixture
def settings(tmp_path):
    stages = (ChainStage(address="10.0.0.2:7100", layers="2:4", name="farm/s1"),)
    return node_settings(chain=Chain(stages=stages, ca=tmp_path)).model_copy(
        update={"spool": tmp_path / "node.sqlite"}
    )


def written(settings, tally: Tally = TALLY, **changes):
    before = Tally(since=1000.0, stages_s=(0.0, 0.0))
    status = status_of("o/n", STAGES, 256, [(0.0, before), (4.0, tally)])
    status = status.model_copy(update=changes)
    write_private(settings.chain_status, status.model_dump_json(exclude_none=True).encode())
    return status


def times(count: int) -> Callable[[float], None]:
    """Return a pause that is interrupted instead of the last time."""
    left = count

    def pause(_seconds: float) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    return pause


def shown(status, now: int) -> str:
    console = Console(width=120, file=StringIO())
    console.print(watching.render(watching.facts_of(status, now)))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_person_sees_stages_what_is_under_way_and_what_comes_of_it(settings):
    status = written(settings, written_at=1_100_000)
    status = status.model_copy(update={"written_at": 1_100_000})
    text = shown(status, 1_100_500)
    assert "o/n: connected for 0:00:10, running for 0:01:40" in text
    assert "2 connections, 1 breaks; the last one: the stage at [red]10.0.0.2:7100[/red]" in text
    assert "64 sequences; 48 rows in 12 steps under way, of 13 that may be (256 at most)" in text
    assert "3086.2 tokens/s, 12,345 in all; all hops of a round: 203 ms" in text
    assert [line.split()[:4] for line in text.splitlines() if "%" in line] == [
        ["│", "head", "│", "ends"],
        ["│", "own", "│", "0:2"],
        ["│", "farm/s1", "│", "2:4"],
    ]
    assert "Written" not in text


def test_an_old_file_says_so(settings):
    status = written(settings)
    text = shown(status, status.written_at + STALE_MS + 7000)
    assert "Written 12 s ago" in text
    assert "does not run" in text


def test_a_chain_that_is_not_connected_and_not_measured_says_so(settings):
    status = written(settings, Tally(since=1000.0))
    text = shown(status, status.written_at)
    assert "not connected" in text
    assert "not measured yet" in text


def test_a_script_reads_a_line_each_time(settings, capsys):
    written(settings)
    watching.watch(settings, once=False, as_json=True, pause=times(3))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert lines[0]["stages"][1] == {
        "layers": "2:4",
        "name": "farm/s1",
        "address": "10.0.0.2:7100",
        "busy": 0.5,
    }
    assert lines[0]["stale"] is False


def test_where_nobody_watches_it_is_printed_once(settings, capsys):
    written(settings)
    watching.watch(settings, once=False, as_json=False, pause=times(1))
    assert "farm/s1" in capsys.readouterr().out


def test_on_a_terminal_it_is_drawn_again_until_it_is_interrupted(settings, capsys, monkeypatch):
    written(settings)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    watching.watch(settings, once=False, as_json=False, pause=times(3))
    assert capsys.readouterr().out.count("farm/s1") >= 3


def test_a_node_without_a_chain_has_nothing_to_watch():
    with pytest.raises(CounterfoilError, match="has no chain") as caught:
        watching.watch(node_settings(), once=True, as_json=True)
    assert caught.value.code is Code.CONFIGURATION


def test_the_command_reads_the_nodes_configuration(tmp_path, capsys):
    def shell(*words):
        return (run(node, [str(word) for word in words]),)

    stages = ("--stage", "10.0.0.2:7100=2:4", "--stages-ca", tmp_path / "ca" / "ca.pem")
    assert shell(*prepared(shell, tmp_path), *stages) == (0,)
    config = tmp_path / "node" / "node.toml"
    capsys.readouterr()
    words = ["top", "--config", str(config), "--json", "--once"]
    assert run(pool, words) != 0
    assert "has not served with its chain yet" in " ".join(capsys.readouterr().err.split())
    settings = load(NodeSettings, config)
    written(settings)
    assert run(pool, words) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 12_345
    settings.chain_status.write_text("{")
    assert run(pool, words) != 0
    assert "is not what a node writes" in " ".join(capsys.readouterr().err.split())
