"""The benchmark of the stack runs, and what it says can be read by programs.

Promised: `python -m benchmarks.stack --quick --json FILE` brings both sides up on a tiny model, both sides produce the
same tokens for every prompt, and the file has every field that `docs/performance.md` names. No figure is judged here:
on a shared machine a time promises nothing.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.stack.__main__ import main
from benchmarks.stack.figures import figures
from benchmarks.stack.rounds import QUICK, Pass, Round
from benchmarks.stack.sides import Answer

SPREAD = {"median", "low", "high", "rounds"}


@pytest.mark.slow
@pytest.mark.usefixtures("_threads_kept")
@pytest.mark.timeout(180)
def test_a_quick_run_gives_every_figure_and_the_same_tokens_on_both_sides(tmp_path: Path):
    file = tmp_path / "found.json"

    ended = CliRunner().invoke(main, ["--quick", "--json", str(file)], catch_exceptions=False)

    assert ended.exit_code == 0, ended.output
    assert "receipts/s" in ended.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"]) == ("stack", 1)
    assert {"processor", "cores", "python", "torch", "load_before"} <= set(found["machine"])
    assert (found["settings"]["rounds"], found["settings"]["concurrency"]) == (1, 8)
    (model,) = found["models"]
    assert model["name"] == "tiny"
    assert (model["threads"], model["max_batch"], model["frame_interval_ms"]) == (1, 16, 50)
    assert model["same_tokens"] is True
    assert model["output_tokens"] > QUICK.prompts
    rate = model["tokens_per_s"]
    for load in ("alone", "loaded"):
        for name in ("first_token_ms", "per_token_ms", "request_ms"):
            sides = model[load][name]
            assert set(sides) == {"engine", "stack", "added"}
            assert all(set(side) == SPREAD for side in sides.values())
    for spread in (*rate.values(), model["receipts_per_s"]):
        assert set(spread) == SPREAD
        assert spread["low"] == spread["high"] == spread["median"] > 0


def test_figures_are_paired_within_a_round_and_then_the_median_over_rounds():
    found = figures([_round(added_ms=added, slower=slower) for added, slower in SLOWER])

    assert found["alone"]["first_token_ms"]["added"]["rounds"] == [4.0, 5.0, 90.0]
    assert found["alone"]["first_token_ms"]["added"]["median"] == 5.0
    assert found["alone"]["per_token_ms"]["engine"]["median"] == 10.0
    assert found["tokens_per_s"]["ratio"] == {
        "median": 0.5,
        "low": 0.25,
        "high": 1.0,
        "rounds": [1.0, 0.5, 0.25],
    }
    assert found["same_tokens"] is True


def test_different_tokens_are_reported():
    one, other = Answer((1, 2), 0.1, 0.2), Answer((1, 3), 0.1, 0.2)
    same, differs = Pass([one], 1.0), Pass([other], 1.0)

    assert figures([Round([(one, one)], same, same, 1.0)])["same_tokens"] is True
    assert figures([Round([(one, one)], same, differs, 1.0)])["same_tokens"] is False
    assert figures([Round([(one, other)], same, same, 1.0)])["same_tokens"] is False


SLOWER = ((4.0, 1.0), (5.0, 2.0), (90.0, 4.0))
"""Milliseconds more to the first token, and how many times longer the stack's pass took."""


def _round(*, added_ms: float, slower: float) -> Round:
    engine = Answer((1, 2, 3), 0.1, 0.12)
    stack = Answer((1, 2, 3), 0.1 + added_ms / 1000, 0.5)
    return Round([(engine, stack)] * 3, Pass([engine], 1.0), Pass([stack], slower), 7.0)
