"""The benchmark of detection runs, and its figures are counts of what was judged.

Promised: `python -m benchmarks.detection --quick --json FILE` measures everything and can be read by programs; what the
schemes are given is what the node committed to; thresholds are set on other answers than are counted; an honest answer that
replays otherwise is an alarm; a run can be continued. No speed is judged here.
"""

import json
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.detection import costs, honest, power, rare
from benchmarks.detection.__main__ import main
from benchmarks.detection.reference import SCHEMES, VERIFIERS, Sent, Verifier, chunks, scores, sent
from benchmarks.detection.requests import requests
from benchmarks.detection.table import best, interval
from benchmarks.detection.traces import Recorder
from shared.commitments.exact import ActivationHasher
from shared.model.cpu import arithmetics_for
from shared.model.native.library import kernels
from shared.statements.verdicts import Reason
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.selective import is_chosen
from tests.adversaries.trial import Trial


@pytest.fixture
def _kernels_kept():
    """Which instructions the kernels use is the whole process's."""
    yield
    kernels().choose()


def recorded(folder, arithmetic, count=3, adversary=None):
    """Requests, their answers, and the states behind each."""
    asks, recorder = list(islice(requests(5, 36), count)), Recorder()
    with recorder.watching():
        answers = Trial(folder, arithmetic=arithmetic).run(asks, adversary)
    return [
        (ask.body, tried, recorder.states(tried)) for ask, tried in zip(asks, answers, strict=True)
    ]


# --- the whole


@pytest.mark.usefixtures("_kernels_kept")
def test_a_quick_run_measures_every_part_and_says_so_to_programs_and_people(tmp_path: Path):
    file, picture = tmp_path / "found.json", tmp_path / "found.svg"
    chosen = ["--adversary", "int8", "--adversary", "cheap-decode"]
    files = ["--json", str(file), "--plot", str(picture)]

    ended = CliRunner().invoke(main, ["--quick", *chosen, *files], catch_exceptions=False)

    assert ended.exit_code == 0, ended.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"]) == ("detection", 1)
    parts = found["parts"]
    assert set(parts) == {"power", "rare", "costs", "honest"}
    assert all("processor" in part["machine"] for part in parts.values())
    for row in parts["power"]["adversaries"]:
        assert row["counterfoil"]["hits"] == row["different"] > 0
        assert row["false_alarms"] == 0
        assert {one["scheme"] for one in row["schemes"]} == set(SCHEMES)
    honestly = parts["power"]["honest"]
    assert honestly["counterfoil"]["hits"] == 0
    for match in honestly["matches"].values():
        assert honestly["tokens"] == match["of"] >= match["hits"] > 0.9 * match["of"]
    assert parts["honest"]["all"]["alarms"] == 0
    assert parts["honest"]["all"]["tokens"] >= 100
    for word in ("cheap-decode", "TOPLOC", "False alarms", "Bytes", "honest tokens"):
        assert word in ended.output
    assert picture.read_text(encoding="utf-8").startswith("<svg")


def test_rare_cheats_need_the_measured_power(tmp_path: Path):
    ended = CliRunner().invoke(main, ["--quick", "--part", "rare"])
    assert ended.exit_code == 2
    assert "needs `power`" in ended.output


# --- requests and traces


def test_requests_are_the_same_each_time_and_no_two_share_a_seed():
    some = list(islice(requests(1, 20), 60))
    assert some == list(islice(requests(1, 20), 60))
    seeds = {one.body.seed for one in (*some, *islice(requests(2, 20), 60))}
    assert len(seeds) == 120
    settings = [one.body.settings for one in some]
    assert {one.temperature_ppm == 0 for one in settings} == {True, False}
    assert any(one.stop for one in settings)
    assert any(one.top_k for one in settings)
    assert any(one.top_p_ppm < 10**6 for one in settings)
    assert [is_chosen(one.request_id) for one in some] == [True] + [False] * 59


def test_what_the_schemes_are_given_is_what_the_node_committed_to(tmp_path):
    for _, tried, states in recorded(tmp_path, "pairs-32"):
        hashes = [sha256(chunk.tobytes()).digest() for chunk in chunks(states.output)]
        assert tuple(hashes) == tried.evidence.output_blocks
        before = [sha256(chunk.tobytes()).digest() for chunk in chunks(states.prompt[:-1])]
        assert tuple(before) == tried.evidence.prompt_blocks
        assert (states.output[0] == states.prompt[-1]).all()


def test_an_answer_without_evidence_has_no_states_and_nothing_stays_patched(tmp_path):
    ordinary = (ActivationHasher.append, ActivationHasher.finish)
    for _, _, states in recorded(tmp_path, None, 1, ADVERSARIES["failed-unproved"]):
        assert states is None
    assert (ActivationHasher.append, ActivationHasher.finish) == ordinary


# --- verifiers


def test_a_verifier_in_the_nodes_own_arithmetic_sees_no_noise_and_in_another_one_it_does(tmp_path):
    verifiers = [Verifier(name) for name in VERIFIERS]
    for body, tried, states in recorded(tmp_path, "chain-1"):
        same, wider, other = (scores(sent(states), one.reference(tried, body)) for one in verifiers)
        assert same["toploc"] == same["token-difr"] == 0
        assert same["activation-difr"] < 0.01  # a fingerprint is rounded to float16
        assert other["activation-difr"] > wider["activation-difr"] > same["activation-difr"]
        assert 0 < wider["toploc"] < 1
        assert 0 < other["toploc"] < 1


def test_a_missing_proof_is_infinitely_far_and_without_tokens_there_is_nothing_to_see(tmp_path):
    ((body, tried, states),) = recorded(tmp_path, "chain-1", 1)
    reference = Verifier("bfloat16").reference(tried, body)
    assert scores(None, reference) == {
        "toploc": np.inf,
        "activation-difr": np.inf,
        "token-difr": 0.0,
    }
    assert scores(None, None) == dict.fromkeys(SCHEMES, 0.0)
    given = sent(states)
    fewer = scores(Sent(given.proofs[:1], given.fingerprints[:-1]), reference)
    assert (fewer["toploc"], fewer["activation-difr"]) == (0, np.inf)


# --- power


def scored(score, tokens=10, *, differs=True, reason=Reason.TOKENS):
    return power.Scored(
        differs,
        reason,
        tokens,
        {(scheme, name): score for scheme in SCHEMES for name in VERIFIERS},
        dict.fromkeys(VERIFIERS, tokens),
    )


def test_pooled_scores_are_means_by_tokens_of_whole_pools():
    some = [scored(1.0, 30), scored(5.0, 10), scored(7.0), scored(9.0), scored(99.0)]
    assert power.pooled(some, ("toploc", "float32"), 2) == [2.0, 8.0]
    assert power.pooled(some, ("toploc", "float32"), 8) == []


def test_a_row_counts_only_answers_that_differ_and_reports_alarms_among_the_others():
    size = power.Size(4, 4, 4, 4, (1, 2), rate=0.4)
    limits = power.Thresholds([scored(value / 10) for value in range(4)], size)
    assert {limit for (*_, pool), limit in limits.limits.items() if pool == 1} == {0.2}
    answers = [
        scored(0.9),
        scored(0.1, reason=Reason.EXACT),
        scored(0.9, differs=False, reason=Reason.EXACT),
        scored(0.0, differs=False),
    ]
    row = power.row("some", answers, limits)
    assert (row["requests"], row["different"], row["false_alarms"]) == (4, 2, 1)
    assert (row["counterfoil"]["hits"], row["counterfoil"]["of"]) == (1, 2)
    alone = [one for one in row["schemes"] if one["pool"] == 1]
    assert {(one["hits"], one["of"]) for one in alone} == {(1, 2)}
    assert {(one["hits"], one["of"]) for one in row["published"]} == {(0, 2)}


def test_audits_follow_from_the_measured_share_and_are_more_at_its_lower_end():
    half = power.effort(8, 16, 4, 10.0)
    assert half["audits"] == 4 * 5  # 1 - 0.5^5 > 0.95
    assert half["tokens"] == 200
    assert half["audits_at_most"] > half["audits"]
    assert power.effort(0, 16, 1, 10.0)["audits"] is None
    assert power.effort(0, 0, 1, 0.0) == {
        "hits": 0,
        "of": 0,
        "pool": 1,
        "audits": None,
        "audits_at_most": None,
        "tokens": None,
    }


def test_the_table_shows_a_scheme_at_its_best():
    rows = [
        {"scheme": "toploc", **power.effort(*counts, pool, 10.0)}
        for counts, pool in (((1, 100), 1), ((25, 25), 4), ((6, 6), 16))
    ]
    assert best(rows, "toploc", 0.005)["pool"] == 4
    assert best(rows[:1], "toploc", 0.005) is None  # 1 in 100 may be a false positive
    assert interval(rows[1]).startswith("100%")
    assert interval(power.share(0, 0)) == "–"


# --- rare


def test_the_logs_own_draw_finds_a_rare_cheat_as_the_geometric_law_says():
    found = rare.found_after(1.0, 150)
    assert (found["law_median"], found["law_95"]) == (69, 299)
    for within in found["within"]:
        assert within["low"] < within["law"] < within["high"]
    assert rare.found_after(0.25, 40)["median"] > found["median"]


# --- false alarms


@pytest.mark.usefixtures("_kernels_kept")
def test_every_arithmetic_dtype_and_set_of_instructions_has_its_turn():
    found = {(way.arithmetic, way.dtype, way.variant) for way in honest.ways()}
    assert {(name, dtype) for name, dtype, _ in found} == {
        (name, dtype)
        for dtype in ("bfloat16", "float16", "float32")
        for name in arithmetics_for(dtype)
    }
    assert {variant for *_, variant in found} == set(range(kernels().best + 1))


@pytest.mark.usefixtures("_kernels_kept")
def test_an_honest_answer_that_replays_otherwise_is_an_alarm(monkeypatch):
    way = replace(honest.ways()[0], variant=kernels().best)
    decoder, ordinary = honest.decoder_of(way.arithmetic, way.dtype), honest.replay
    assert honest.one_round(way, decoder, 0, 3)["alarms"] == 0

    def wrong_token(*arguments):
        found = ordinary(*arguments)
        return replace(found, chosen=(*found.chosen[:-1], found.chosen[-1] ^ 1))

    def wrong_state(*arguments):
        found = ordinary(*arguments)
        return replace(found, activations=replace(found.activations, output_blocks=(bytes(32),)))

    for wrong in (wrong_token, wrong_state):
        monkeypatch.setattr(honest, "replay", wrong)
        found = honest.one_round(way, decoder, 0, 3)
        assert found["alarms"] == found["requests"] == 3


def test_counts_are_continued_and_limits_follow_from_them(tmp_path):
    way, file = honest.Way("chain-1", "bfloat16", 1), tmp_path / "counts.json"
    one = dict.fromkeys(honest.COUNTED, 0) | {"tokens": 500, "requests": 10}
    for rounds in (1, 2):
        honest.Counts(file).add(way, one)
        again = honest.Counts(file)
        assert (again.tokens, again.rounds(way)) == (500 * rounds, rounds)
    every = honest.summary(honest.Counts(file))["all"]
    assert every["at_most_per_request"] == pytest.approx(1 - 0.05 ** (1 / 20))
    assert every["at_most_per_token"] == pytest.approx(1 - 0.05 ** (1 / 1000))


# --- costs


def test_without_commitments_the_same_tokens_come_and_nothing_is_hashed(tmp_path):
    machine = costs.Machine(costs.make("tiny", tmp_path), costs.QUICK)
    with costs.timed_commitments() as taken:
        ordinary = machine.generate(2, 1).states
    assert taken
    with costs.without_commitments():
        bare = machine.generate(2, 1).states
    assert [one.output for one in bare] == [one.output for one in ordinary]
    empty = sha256().digest()
    assert all(empty not in one.hasher.finish().output_blocks for one in ordinary)
    assert all(one.hasher.finish().output_blocks == () for one in bare)
