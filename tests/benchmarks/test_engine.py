"""The benchmark of the engine runs, and what it says can be read by programs.

Promised: `python -m benchmarks.engine --quick --json FILE` measures ours and transformers on a tiny model and states in the same
place why a side has no figures; figures, ratios and aims follow from the recorded times alone; all sides are asked for
the same, and no prompt comes twice; a soak reports what grew. No figure is judged here.
"""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.common.figures import percentile
from benchmarks.engine.__main__ import main
from benchmarks.engine.figures import aims, figures
from benchmarks.engine.plot import plot
from benchmarks.engine.processes import Command, SideError, SideProcess, commands
from benchmarks.engine.rounds import Measured, Pass
from benchmarks.engine.sides.wire import Job
from benchmarks.engine.soak import grown
from benchmarks.engine.workloads import FULL, QUICK, WORKLOADS, jobs, warming

SPREAD = {"median", "low", "high", "rounds"}
BOUNDS = {"read_bytes_per_s": 1000.0, "flop_per_s": 10_000.0}
FACTS = {"parameters": 10, "step_bytes": 20}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_quick_run_measures_ours_and_transformers_and_says_why_vllm_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where there is no .venv-vllm
    sides = ["--side", "ours", "--side", "transformers", "--side", "vllm"]
    files = ["--json", "found.json", "--plot", "found.svg"]

    ended = CliRunner().invoke(main, ["--quick", *sides, *files], catch_exceptions=False)

    assert ended.exit_code == 0, ended.output
    assert "no figures" in ended.output
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"]) == ("engine", 1)
    assert {"processor", "cores", "python", "torch", "load_before"} <= set(found["machine"])
    assert all(bound > 0 for bound in found["bounds"].values())
    (model,) = found["models"]
    assert model["name"] == "tiny"
    assert set(model["failed"]) == {"vllm"}
    assert "--vllm-python" in model["failed"]["vllm"]
    assert set(model["versions"]) == {"ours", "transformers"}
    assert tuple(model["workloads"]) == WORKLOADS
    for shown in model["workloads"].values():
        assert set(shown["sides"]) == {"ours", "transformers"}
        assert set(shown["ratios"]) == {"transformers"}
        for side in shown["sides"].values():
            assert all(set(each) == SPREAD for each in side.values())
            assert side["tokens_per_s"]["median"] > 0
            assert side["memory_mib"]["median"] > 1
    assert {aim["met"] for aim in model["aims"] if "vLLM" in aim["aim"]} == {None}
    assert Path("found.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
@pytest.mark.usefixtures("_threads_kept")
def test_a_soak_reports_ten_points_with_nothing_left_open(tmp_path: Path):
    file = tmp_path / "found.json"
    asked = ["--model", "tiny", "--soak", "40", "--threads", "1", "--json", str(file)]

    ended = CliRunner().invoke(main, asked, catch_exceptions=False)

    assert ended.exit_code == 0, ended.output
    soak = json.loads(file.read_text(encoding="utf-8"))["soak"]
    assert [point["requests"] for point in soak["points"]] == list(range(4, 41, 4))
    assert {point["open_blocks"] for point in soak["points"]} == {0}
    assert {point["sequences"] for point in soak["points"]} == {0}


def test_figures_follow_from_the_times_of_a_pass():
    asked = [Job(0.0, (8, 9), 3), Job(1.0, (8, 9, 10), 3)]
    made = Pass(asked, [[0.5, 1.0, 2.0], [2.0, 3.0, 4.0]], 3 * 2**20)
    found = Measured(FACTS, passes={("mixed", "ours"): [made], ("batch8", "ours"): [made]})

    workloads = figures("wide", found, BOUNDS)["workloads"]

    side = {name: each["median"] for name, each in workloads["mixed"]["sides"]["ours"].items()}
    assert side == {
        "tokens_per_s": 1.5,  # six tokens, the last one after four seconds
        "first_token_ms_p50": 500.0,
        "first_token_ms_p99": 1000.0,  # counted from the arrival
        "inter_token_ms_p50": 1000.0,
        "inter_token_ms_p99": 1000.0,
        "memory_mib": 3.0,
        "flop_fraction": 0.0055,  # 2 · 10 · 11 tokens in 4 s, of 10,000
    }
    batch = workloads["batch8"]["sides"]["ours"]
    assert batch["bandwidth_fraction"]["median"] == 0.015  # 20 bytes · 3 steps in 4 s, of 1000


def test_ratios_are_formed_within_a_round_and_then_the_median_over_rounds():
    found = Measured(FACTS)
    for side, ends in {"ours": (1.0, 2.0, 4.0), "vllm": (2.0, 2.0, 16.0)}.items():
        found.passes["batch64", side] = [_pass(end) for end in ends]

    ratios = figures("wide", found, BOUNDS)["workloads"]["batch64"]["ratios"]

    assert ratios == {"vllm": {"median": 2.0, "low": 1.0, "high": 4.0, "rounds": [2.0, 1.0, 4.0]}}


@pytest.mark.parametrize(("ratio", "met"), [(1.19, False), (1.2, True), (0.0, False)])
def test_an_aim_is_met_from_its_bound_on_and_unknown_where_it_was_not_measured(ratio, met):
    workloads = {"batch64": {"sides": {}, "ratios": {"vllm": {"median": ratio}}}}

    found = {aim["aim"]: aim["met"] for aim in aims("wide", workloads)}

    assert found.pop("× vLLM, 64 at once") is met
    assert set(found.values()) == {None}


def test_determinism_is_judged_by_its_worst_batch_and_bandwidth_for_the_large_model_only():
    workloads = {
        "batch1": {
            "sides": {"ours": {"bandwidth_fraction": {"median": 0.75}}},
            "ratios": {"relaxed": {"median": 0.99}},
        },
        "batch64": {"sides": {}, "ratios": {"relaxed": {"median": 0.94}}},
    }

    large = {aim["aim"]: (aim["value"], aim["met"]) for aim in aims("qwen06", workloads)}

    assert large["× without determinism, worst batch"] == (0.94, False)
    assert large["of the bandwidth bound, alone"] == (0.75, True)
    assert "of the bandwidth bound, alone" not in {aim["aim"] for aim in aims("wide", workloads)}


def test_percentiles_are_values_that_were_seen():
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (1, 50, 99)] == [1.0, 2.0, 3.0]
    assert percentile([float(value) for value in range(1, 201)], 99) == 198.0


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_round_asks_all_sides_for_the_same_and_no_prompt_comes_twice(name: str):
    assert jobs(name, FULL, 2048, 1) == jobs(name, FULL, 2048, 1)
    rounds = [jobs(name, FULL, 2048, number) for number in range(3)]
    prompts = [job.prompt for asked in rounds for job in asked]
    assert len(set(prompts)) == len(prompts)
    shapes = [[(job.at, len(job.prompt), job.new) for job in asked] for asked in rounds]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(0 <= token < 2048 for prompt in prompts for token in prompt)
    assert {job.at for job in warming(name, QUICK, 2048)} == {0.0}


def test_a_side_that_cannot_run_a_model_says_why(tmp_path: Path):
    ours = Command(Path(sys.executable), "ours", {})

    with pytest.raises(SideError, match=r"config\.json"):
        SideProcess(ours, tmp_path, 1, tmp_path / "log")


def test_a_side_that_ends_without_an_answer_is_reported_with_its_last_words(tmp_path: Path):
    nothing = Command(Path(sys.executable), "nothing", {})

    with pytest.raises(SideError, match="No module named"):
        SideProcess(nothing, tmp_path, 1, tmp_path / "log")


def test_vllm_runs_in_the_environment_that_is_given(tmp_path: Path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    library = tmp_path / "lib" / "libiomp5.so"
    library.parent.mkdir()
    library.touch()

    (started,) = commands(["vllm"], python).values()

    assert isinstance(started, Command)
    assert started.python == python
    assert str(library) in started.environment["LD_PRELOAD"].split(":")


def test_growth_is_what_is_larger_at_the_end_than_when_all_was_warm():
    level = {"rss_mib": 100.0, "open_blocks": 0.0, "sequences": 0.0, "containers": 1000.0}
    cold = dict.fromkeys(level, 0.0)

    assert grown([cold, level, level]) == []
    assert grown([cold, level, level | {"rss_mib": 120.0, "open_blocks": 1.0}]) == [
        "rss_mib",
        "open_blocks",
    ]


def test_the_plot_has_a_bar_for_each_side():
    found = Measured(FACTS, passes={("batch1", side): [_pass(1.0)] for side in ("ours", "vllm")})

    picture = plot({"models": [figures("wide", found, BOUNDS)]})

    assert picture.count("<title>") == 2
    assert "vLLM" in picture


def _pass(end: float) -> Pass:
    return Pass([Job(0.0, (8,), 2)], [[end / 2, end]], 2**20)
