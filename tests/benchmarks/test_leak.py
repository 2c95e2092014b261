"""The benchmark of the leak: what the observer sees, what an attacker makes of it, and that a quick run says so to programs.

No figure is judged here, but attackers are: one that names prompts from nothing, or misses what is plain to see, would make
every figure worthless.
"""

import asyncio
import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.leak.__main__ import main
from benchmarks.leak.attackers import CLASSIFIERS, attack
from benchmarks.leak.features import sizes_of, times_of, totals_of
from benchmarks.leak.relay import HEAD, Record, Records, Relay
from benchmarks.leak.serving import WAYS, prompts
from shared.envelope import shape


def tls(*records):
    return b"".join(HEAD.pack(kind, 0x0303, size) + bytes(size) for kind, size in records)


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_records_are_found_however_a_connection_cuts_its_bytes(step):
    data, records = tls((22, 90), (23, 300), (20, 1), (23, 0), (23, 41)), Records()
    found = []
    for place in range(0, len(data), step):
        found += records.feed(data[place : place + step])
    assert found == [300, 0, 41]


async def test_the_relay_passes_everything_on_and_notes_both_directions():
    async def echo(reader, writer):
        writer.write(await reader.readexactly(105) + tls((23, 20)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Relay(f"127.0.0.1:{port}") as relay:
        host, _, own = relay.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(own))
        writer.write(tls((23, 100)))
        assert await reader.read(-1) == tls((23, 100), (23, 20))
        writer.close()
        seen = relay.cut()
        assert sorted((record.down, record.size) for record in seen) == [
            (False, 100),
            (True, 20),
            (True, 100),
        ]
        assert relay.cut() == []


def exchanges(rng, *, told_by):
    """Exchanges with 8 prompts, which differ in nothing, in the number of records, or in their rhythm."""
    found = []
    for prompt in range(8):
        repetitions = []
        for _ in range(16):
            count = 20 + (4 * prompt if told_by == "sizes" else 0)
            pause = 0.01 * (1 + prompt if told_by == "times" else 4)
            at, records = 0.0, [Record(0.0, 700, False)]
            for _ in range(count):
                at += pause * rng.uniform(0.9, 1.1)
                records.append(Record(at, 200, True))
            repetitions.append(records)
        found.append(repetitions)
    return found


@pytest.mark.parametrize("told_by", ["sizes", "times"])
def test_what_is_plain_to_see_is_seen(told_by):
    found = attack(exchanges(random.Random(1), told_by=told_by))
    assert (found.right, found.tried) == (32, 32)


def test_nothing_is_seen_where_nothing_is():
    """Choosing among attackers must not count as success: what is reported was not looked at before."""
    found = attack(exchanges(random.Random(2), told_by=None))
    assert found.tried == 32
    assert found.right < 16  # 4 by chance; 16 has a probability below 10^-6


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_learns_two_heaps(name):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40, 5)) + np.repeat([[0.0], [4.0]], 20, axis=0)
    labels = np.repeat([3, 9], 20)
    said = CLASSIFIERS[name](rows, labels)(rows + 0.1)
    assert (said == labels).all()


def test_features_have_one_length_whatever_was_seen():
    few = [Record(1.0, 500, False), Record(1.2, 100, True)]
    many = [Record(1.0 + place / 50, 100 + place, True) for place in range(200)]
    for see in (totals_of, sizes_of, times_of):
        assert len(see(few)) == len(see(many)) == len(see([])) > 3
    assert list(sizes_of(few)[:4]) == [500, 100, 1, 100]


def test_the_prompts_are_different_and_the_way_without_padding_is_put_back():
    assert len(set(prompts(50))) == 50
    before = shape.padded_size
    with WAYS[0].applied():
        assert shape.padded_size(10, 64) == 11
    assert shape.padded_size is before


@pytest.mark.slow
@pytest.mark.usefixtures("_threads_kept")
@pytest.mark.timeout(180)
def test_a_quick_run_gives_a_row_for_each_way_and_temperature(tmp_path: Path):
    file = tmp_path / "found.json"
    words = ["--quick", "--way", "slots-20", "--json", str(file)]
    ended = CliRunner().invoke(main, words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"], found["chance"]) == ("leak", 1, 1 / 3)
    rows = {(row["answers"], row["way"]): row for row in found["rows"]}
    assert set(rows) == {("greedy", "slots-20"), ("sampled", "slots-20")}
    for row in rows.values():
        assert 0 <= row["low"] <= row["right"] / row["tried"] <= row["high"] <= 1
        assert {"tokens", "records", "bytes", "text_s", "end_s"} == set(row["cost"])
    assert rows["greedy", "slots-20"]["cost"]["records"] >= 16
