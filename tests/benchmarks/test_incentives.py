"""The simulated parties do what they are said to do; honesty pays best under the policy, and worst at a tenth of its rates."""

import json
from fractions import Fraction
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.incentives.__main__ import complaints, main
from benchmarks.incentives.figures import dominant, profitable, year
from benchmarks.incentives.nodes import Nodes, audit_rate
from benchmarks.incentives.parties import Auditors, Griefers
from benchmarks.incentives.plot import plot
from benchmarks.incentives.scenario import (
    BASELINE,
    NODES,
    QUICK,
    SHARES,
    WINDOW,
    Size,
    Strategy,
    caught,
    counts,
    setting,
)
from shared.statements.verdicts import Outcome, Reason
from shared.verification.opinions import Opinion
from shared.verification.standing import KNOWN_PASSES, record_of

SMALL = Size(300, 40)


def simulated(run, size=QUICK, seed=1):
    return year(run, size, seed, lambda _done: None)


@pytest.fixture(scope="module")
def at_policy():
    return simulated(setting())


@pytest.fixture(scope="module")
def at_a_tenth():
    return simulated(setting(10))


# What comes out


def test_every_strategy_earns_less_than_honesty_under_the_policy(at_policy):
    assert dominant(at_policy), at_policy["verdict"]
    assert set(at_policy["verdict"]) == {name.value for name in BASELINE}


def test_every_strategy_earns_more_at_a_tenth_of_the_rates(at_a_tenth):
    assert profitable(at_a_tenth), at_a_tenth["verdict"]


def test_stakes_that_forget_what_is_unsettled_make_cheating_pay():
    found = simulated(setting(changes={"unsettled": "0"}))
    assert not dominant(found)
    assert found["verdict"][Strategy.BURST.value] == "more"
    assert found["verdict"][Strategy.ALWAYS.value] == "more"


def test_weaker_rates_find_later_and_cost_tenants_more(at_policy, at_a_tenth):
    for name in NODES[1:]:
        strict, weak = (run["strategies"][name] for run in (at_policy, at_a_tenth))
        assert strict["found"] >= weak["found"]
        lost = [row["paid_for_cheats"] - row["covered"] for row in (strict, weak)]
        assert lost[0] < lost[1]
    slow = at_policy["strategies"][Strategy.ONE_IN_100]["epochs_until_found"]
    assert slow > 10 * at_policy["strategies"][Strategy.ALWAYS]["epochs_until_found"]


def test_the_same_seed_gives_the_same_figures():
    first, again, other = (simulated(setting(), SMALL, seed) for seed in (1, 1, 2))
    assert json.dumps(first) == json.dumps(again)
    assert json.dumps(first) != json.dumps(other)


# The parties


def nodes(run, strategies, seed=1, shares=(0.0, 0.0)):
    amounts = {name: 30 if name in strategies else 0 for name in NODES}
    return Nodes(amounts, run, shares, np.random.default_rng(seed))


def served(run, strategies, epochs, accused=()):
    played = nodes(run, strategies)
    for now in range(epochs):
        played.epoch(now, np.array(accused if now == 0 else (), np.int64))
    played.close(epochs)
    return played


def test_every_euro_has_a_cause():
    run = setting()
    terms = run.terms
    played = served(run, NODES, 150)
    colluding = played.strategy == NODES.index(Strategy.COLLUDING)
    for at in range(len(played.strategy)):
        slash = Fraction(run.policies[played.size[at]].stake) * terms.slash
        lost = slash * (1 - terms.bounty if colluding[at] else 1)
        margin = int(played.served[at]) * (terms.price - terms.honest_cost)
        saved = int(played.cheats[at]) * (terms.honest_cost - terms.cheat_cost)
        charged = int(played.convicted[at]) + int(played.wrongly[at])
        unpaid = charged * terms.price
        expected = margin + saved - unpaid - int(played.slashes[at]) * lost
        assert played.profit[at] == pytest.approx(float(expected), abs=0.02001)
        assert played.covered[at] == pytest.approx(
            int(played.slashes[at]) * float(slash * (1 - terms.bounty))
        )


def test_an_honest_node_is_slashed_only_by_errors_and_false_challenges():
    calm = setting(changes={"alarms": "0"})
    played = served(calm, {Strategy.HONEST}, 60, accused=[3, 3, 7])
    assert played.cheats.sum() == 0
    assert list(np.flatnonzero(played.slashes)) == [3, 7]
    assert list(played.slashes[[3, 7]]) == [1, 1]
    assert list(played.framed[[3, 7]]) == [1, 1]


def test_a_name_is_slashed_once_however_many_cheats_were_under_way():
    # Every receipt is audited, and nobody is bought.
    whole = setting(changes={"floor_ppm": "1000000", "collusion": "0", "alarms": "0"})
    played = served(whole, {Strategy.ALWAYS}, 90)
    assert (played.slashes == 1).all()
    assert (played.found == WINDOW).all()
    assert (played.convicted > 100).all()
    cheated = played.cheats / np.array([80, 160, 320])[played.size]
    assert (np.round(cheated) == WINDOW).all()  # and serves honestly from then on


def test_a_burst_is_as_long_as_the_window_and_comes_after_honest_service():
    unseen = setting(10_000)
    played = served(unseen, {Strategy.BURST}, 63 + 60)
    bursts = played.cheats / np.array([100, 200, 400])[played.size]
    assert ((bursts >= WINDOW) & (bursts <= 2 * WINDOW)).all()


def test_who_comes_back_under_new_names_is_slashed_under_each():
    played = served(setting(), {Strategy.SYBIL}, 200)
    assert played.slashes.mean() > 10


@pytest.mark.parametrize("passes", [0, 1, KNOWN_PASSES - 1, KNOWN_PASSES, KNOWN_PASSES + 1])
def test_nodes_are_audited_by_the_rule_of_standing(passes):
    def passed(index):
        entry = index.to_bytes(32, "big")
        return Opinion(entry, index, entry, "carol", Outcome.PASS, Reason.EXACT, None, False)

    run = setting()
    standing = record_of(passed(index) for index in range(passes)).standing
    assert audit_rate(np.array([passes]), run)[0] == run.rate(standing)


def test_an_auditor_who_looks_misses_nothing_and_one_who_does_not_pays_for_it():
    run = setting()
    judges = Auditors(200, 200, run, np.random.default_rng(1))
    for _ in range(300):
        judges.epoch(4000, 400)
    assert judges.missed[~judges.lazy].sum() == 0
    share = judges.missed[judges.lazy].sum() / judges.audits[judges.lazy].sum()
    assert share == pytest.approx(run.planted, rel=0.05)
    assert judges.profit[judges.lazy].mean() < judges.profit[~judges.lazy].mean()


def test_false_challenges_win_as_often_as_two_of_three_auditors_are_bought():
    run = setting(changes={"alarms": "0"})
    size, slash = np.zeros(10, np.int64), np.full(10, 5.0)
    pure = Griefers(50, run, 0.0, np.random.default_rng(1))
    bought = Griefers(50, run, 1.0, np.random.default_rng(1))
    for _ in range(20):
        assert len(pure.epoch(size, slash)) == 0
        assert len(bought.epoch(size, slash)) == 50
    gain, bond = float(run.terms.false_gain), run.bonds[0]
    assert pure.profit == pytest.approx(20 * (gain - bond))
    assert bought.profit == pytest.approx(20 * (gain + 0.2 * 5))


def test_the_simulated_blindness_is_no_greater_than_the_terms_say():
    amounts = counts(10_000)
    auditors = sum(amounts[name] for name in (Strategy.DILIGENT, Strategy.LAZY, Strategy.BOUGHT))
    blind = Fraction(amounts[Strategy.LAZY] + amounts[Strategy.BOUGHT], auditors)
    terms = setting().terms
    assert blind <= terms.collusion
    assert caught(terms, float(blind)) >= float(terms.caught)
    assert caught(terms, 0.0) == float(terms.power)
    assert sum(SHARES.values()) == pytest.approx(1)
    assert sum(amounts.values()) == 10_000


# The program


def test_the_program_prints_tables_and_writes_figures_and_a_picture(tmp_path):
    file, picture = tmp_path / "i.json", tmp_path / "i.svg"
    options = ["--quick", "--json", str(file), "--plot", str(picture)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text("utf-8"))
    assert [run["divided"] for run in found["runs"]] == [1, 2, 3, 5, 10]
    assert "1 of 100" in result.output
    assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314  # our own file


def test_the_program_fails_where_honesty_is_not_dominant():
    result = CliRunner().invoke(main, ["--quick", "--divide", "10"])
    assert result.exit_code == 1
    assert "Honesty is not dominant: always," in result.output


def test_a_simulation_in_which_nothing_pays_is_a_failure_too(at_policy, at_a_tenth):
    assert complaints([at_policy, at_a_tenth]) == []
    assert "Nothing is shown" in complaints([at_policy, at_policy | {"divided": 10}])[0]


def test_a_picture_shows_both_runs(at_policy, at_a_tenth):
    drawn = plot(at_policy, at_a_tenth)
    assert "at the policy" in drawn
    assert "rates divided by 10" in drawn
    assert all(name.value in drawn for name in BASELINE)
