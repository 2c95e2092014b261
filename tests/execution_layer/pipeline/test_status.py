"""What a head writes about its chain: rates of the latest seconds, complete or not at all, and nothing hostile is believed."""

import json
import stat
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_layer.pipeline import status as module
from execution_layer.pipeline.status import (
    MOST_BYTES,
    Reporter,
    StageStatus,
    read_status,
    status_of,
)
from execution_layer.pipeline.tally import Tally
from shared.runtime.errors import Code, CounterfoilError

STAGES = [
    StageStatus(layers="0:2"),
    StageStatus(layers="2:4", name="farm/s1", address="10.0.0.2:7100"),
]
OLD = Tally(since=1000.0, steps=10, tokens=100, ends_s=1.0, stages_s=(2.0, 5.0))
NEW = replace(
    OLD, steps=20, tokens=300, ends_s=1.5, stages_s=(2.5, 7.0), connected_at=1001.5, trip_s=0.2
)


def status(old: Tally = OLD, new: Tally = NEW):
    return status_of("acme/head", STAGES, 256, [(50.0, old), (54.0, new)])


def test_rates_are_those_of_the_latest_seconds():
    found = status()
    assert (found.tokens_per_s, found.tokens, found.head_busy) == (50.0, 300, 0.125)
    assert [stage.busy for stage in found.stages] == [0.125, 0.5]
    assert (found.trip_ms, found.since, found.connected_at) == (200.0, 1_000_000, 1_001_500)


def test_what_no_stage_says_is_absent():
    found = status(OLD, replace(NEW, stages_s=(), trip_s=None))
    assert [stage.busy for stage in found.stages] == [None, None]
    assert found.trip_ms is None


def test_stages_that_have_only_begun_to_speak_are_counted_from_nothing():
    assert [stage.busy for stage in status(replace(OLD, stages_s=())).stages] == [0.625, 1.75]


def test_what_broke_a_chain_cannot_control_a_terminal_and_is_cut():
    found = status(new=replace(NEW, last_break="\x1b[2Jgone\n" + "x" * 500))
    assert found.last_break is not None
    assert found.last_break.startswith("?[2Jgone?xx")
    assert len(found.last_break) == 200


def test_what_is_written_is_read_and_nobody_elses(tmp_path):
    came = [NEW, OLD]
    file = tmp_path / "node.chain.json"
    reporter = Reporter(
        file, came.pop, lambda history: status_of("acme/head", STAGES, 256, history)
    )
    reporter.write()
    found = read_status(file)
    assert (found.node, found.tokens, found.stages[1].name) == ("acme/head", 300, "farm/s1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_logged_once_and_stops_nothing(tmp_path, caplog):
    reporter = Reporter(
        tmp_path / "gone" / "node.chain.json",
        lambda: NEW,
        lambda history: status_of("acme/head", STAGES, 256, history),
    )
    reporter.write()
    reporter.write()
    assert [record.message for record in caplog.records] == ["the chain's status cannot be written"]


def test_it_is_written_again_and_again_and_at_last_when_the_chain_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    looked, closed, file = threading.Semaphore(0), threading.Event(), tmp_path / "node.chain.json"
    tally: list[Tally] = [replace(NEW, steps=0)]

    def look() -> Tally:
        looked.release()
        return tally[0]

    reporter = Reporter(file, look, lambda history: status_of("acme/head", STAGES, 256, history))
    thread = reporter.start(closed)
    for _ in range(3):
        assert looked.acquire(timeout=10)
    tally[0] = replace(NEW, steps=77)
    closed.set()
    thread.join(10)
    assert read_status(file).steps == 77


def test_a_node_that_has_not_served_with_its_chain_is_said(tmp_path):
    with pytest.raises(CounterfoilError, match="has not served with its chain yet") as caught:
        read_status(tmp_path / "node.chain.json")
    assert caught.value.code is Code.NOT_FOUND


GOOD = json.loads(status().model_dump_json(exclude_none=True))
HOSTILE = {
    "nothing": b"",
    "torn": json.dumps(GOOD).encode()[:200],
    "not text": b"\xff\xfe\0",
    "too long": json.dumps({**GOOD, "last_break": "x" * MOST_BYTES}).encode(),
    "deep": b"[" * 50_000,
    "another version": json.dumps({**GOOD, "version": 2}).encode(),
    "another field": json.dumps({**GOOD, "more": 1}).encode(),
    "not a number": json.dumps({**GOOD, "tokens_per_s": float("nan")}).encode(),
    "less than nothing": json.dumps({**GOOD, "rows": -1}).encode(),
    "a word for a number": json.dumps({**GOOD, "rows": "1"}).encode(),
    "a time that is none": json.dumps({**GOOD, "written_at": 10**18}).encode(),
    "no stages": json.dumps({**GOOD, "stages": []}).encode(),
    "a name that is none": json.dumps({**GOOD, "node": "\x1b[2J/x"}).encode(),
    "layers that are none": json.dumps({**GOOD, "stages": [{"layers": "all"}]}).encode(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_no_node_writes_is_refused_and_none_of_it_is_shown(tmp_path, what):
    file = tmp_path / "node.chain.json"
    file.write_bytes(HOSTILE[what])
    with pytest.raises(CounterfoilError, match="is not what a node writes") as caught:
        read_status(file)
    assert caught.value.code is Code.CORRUPT
    assert "\x1b" not in str(caught.value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.chain.json"
    file.write_bytes(data)
    with pytest.raises(CounterfoilError):
        read_status(file)


def test_a_pipe_in_its_place_blocks_nobody(tmp_path):
    import os

    os.mkfifo(tmp_path / "node.chain.json")
    begun = time.monotonic()
    with pytest.raises(CounterfoilError, match="not a regular file"):
        read_status(tmp_path / "node.chain.json")
    assert time.monotonic() - begun < 5
