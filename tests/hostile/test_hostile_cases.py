"""Whatever client and node bring before the judge together ends in a judgement or a clean refusal, and never passes wrongly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit_layer.replay.judge import STEPS, judge
from shared.statements.verdicts import Reason
from tests.hostile.court import Seeded, Tally, doubled_node, try_case, wrongly_passed
from tests.hostile.forge import ENCODED, LAYERS, Forger
from tests.shared.model.tiny import write_folder


def tried(*arguments: object) -> dict:
    """Try cases in a process with limits of its own."""
    command = [sys.executable, "-m", "tests.hostile.court", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: dict = json.loads(done.stdout)
    return found


def test_the_honest_story_passes_and_may():
    node = doubled_node()
    case = Forger(node).honest()
    assert judge(case, node.arithmetic).reason is Reason.EXACT
    assert wrongly_passed(case, node) is None


@pytest.mark.parametrize("cases", [4_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_no_lie_behind_the_seals_crashes_the_judge_or_passes(cases: int):
    found = tried("--cases", cases, "--seed", cases)
    assert found["problems"] == []
    assert found["cases"] == cases
    reached = {step[2] for step in STEPS} - {
        Reason.WITHHELD,
        Reason.LOGPROBS,
        Reason.BOUNDARY,
    }
    assert set(found["reasons"]) >= reached | {Reason.EXACT}, "it stopped at the door"


@pytest.mark.parametrize("cases", [150, pytest.param(5_000, marks=pytest.mark.soak)])
def test_no_lie_behind_the_seals_passes_a_judge_with_a_model(tmp_path: Path, cases: int):
    folder = write_folder(tmp_path / "model")
    found = tried("--cases", cases, "--model", folder)
    assert found["problems"] == []
    assert set(found["reasons"]) >= {Reason.EXACT, Reason.STREAM, Reason.TOKENS, Reason.TEXT}


@pytest.mark.parametrize("runs", [1_000, pytest.param(150_000, marks=pytest.mark.soak)])
def test_a_fuzzer_that_watches_coverage_finds_nothing(tmp_path: Path, runs: int):
    limits = ("-timeout=10", f"-artifact_prefix={tmp_path}/")
    command = [sys.executable, "-m", "tests.hostile.fuzz", f"-runs={runs}", *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {runs} runs" in done.stderr


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_is_lied_at(layer: str):
    """Every layer's lies change the case, so none of them is tried for nothing."""
    forger, honest = Forger(doubled_node()), Forger(doubled_node()).honest()
    found = [forger.forged(Seeded(number), [layer]) for number in range(20)]
    assert sum(case != honest for case in found) > 10
    if layer in ENCODED:
        reasons = Tally()
        for number in range(40):
            try_case(OneLayer(forger, layer), Seeded(number), reasons, f"case {number}")  # type: ignore[arg-type]  # a forger
        assert reasons.problems == []


class OneLayer:
    """A forger who lies at one layer only."""

    def __init__(self, forger: Forger, layer: str) -> None:
        self.node = forger.node
        self._forger = forger
        self._layer = layer

    def lying(self, chooser):
        """Return a case with one lie."""
        return self._forger.forged(chooser, [self._layer]), (self._layer,)


class Blind:
    """An arithmetic that agrees with everything: what a judge would be that checks nothing of it."""

    def __init__(self, node) -> None:
        self._real = node.arithmetic
        self.profile = node.profile

    def __getattr__(self, name):
        return getattr(self._real, name)

    def says(self, frames, settings, prefix=(), *, ended):
        """Agree."""
        return True


def test_the_independent_look_sees_what_a_judge_overlooks():
    """The test of the test: a judge that does not check the text is found out."""
    node = doubled_node()
    forger, tally = Forger(node), Tally()
    for number in range(300):
        case, _ = forger.forged(Seeded(number), ["texts"]), ()
        if judge(case, Blind(node)).reason is Reason.EXACT and wrongly_passed(case, node):
            tally.problems.append("found")
    assert tally.problems
