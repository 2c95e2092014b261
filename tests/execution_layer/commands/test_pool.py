"""`counterfoil pool plan`: chains from the directory's offers, and a reason where there is none."""

import asyncio
import json
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest

from execution_layer.client.offered import corrected, cost_of, parts_of
from execution_layer.client.reading import fetched_folder
from execution_layer.client.round_trips import given, measured
from execution_layer.commands.pool import pool
from execution_layer.pipeline.settings import Chain
from shared.runtime.cli import run
from shared.runtime.config import checked
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import Layers, Offer
from shared.statements.receipts import EnergyQuality, Usage
from tests.execution_layer.chains import ChainNode, chain_of
from tests.execution_layer.world import MODEL_ROOT

FAST, SLOW = Offer(1000, 10_000, 512, "eu-west"), Offer(10, 100, 512, "us-east")
OWN = Offer(100, 1000, 512, "eu-west")


class Shell:
    """Runs `counterfoil pool plan` as one client, in a thread: the world's servers are in this one's loop."""

    def __init__(self, world, capsys, **changes):
        world.policy(**changes)
        self.config = str(world.folder / "client" / "client.toml")
        self._capsys = capsys
        self.layers = "24"

    async def plan(self, *arguments):
        known = () if "--layers" in arguments or not self.layers else ("--layers", self.layers)

        def main():
            return run(pool, ["plan", "--config", self.config, *known, *arguments])

        code = await asyncio.to_thread(main)
        out, err = self._capsys.readouterr()
        return code, out, " ".join(err.split())

    async def facts(self, *arguments):
        code, out, err = await self.plan("--json", *arguments)
        assert code == 0, err
        return json.loads(out)


def at(ms, *names):
    """Return the options that put nodes at a distance, so that nothing is measured."""
    return [word for name in names for word in ("--rtt", f"{name}={ms}")]


NAMES = ("honest/head", "farm/s1", "coop/s2")


@pytest.fixture
async def offered(world):
    """The chain of CUT, with offers: 0:8 at the head, 8:16 and 16:24 at stages, and a slow and a cheap way besides."""
    s1 = {"offer": FAST, "evidence": "10.0.0.2:7100"}
    async with chain_of(world, head_facts={"offer": OWN}, s1=s1, s2={"offer": SLOW}):
        yield world


async def test_the_plan_is_told_with_times_readers_price_and_the_heads_configuration(
    offered, capsys
):
    shell = Shell(offered, capsys)
    facts = await shell.facts(*at(50, *NAMES))
    (plan,) = facts["plans"]
    assert [place["node"] for place in plan["places"]] == list(NAMES)
    assert [place["layers"] for place in plan["places"]] == ["0:8", "8:16", "16:24"]
    assert plan["trip_ms"] == pytest.approx(3 * 50)
    assert plan["token_ms"] == pytest.approx(10 + 1 + 100 + 3 * 50)
    assert plan["slowest"] == "coop/s2"
    assert plan["readers"] == ["honest", "farm", "coop"]
    assert (plan["price"], plan["currency"]) == ("2.70", "EUR")  # 0.30 + 0.60 at each of three
    assert plan["set_up"] is True
    assert facts["layers"] == 24
    table = tomllib.loads(facts["chain"])["chain"]
    chain = checked(Chain, {**table, "ca": "/stages-ca.pem"}, "the plan")
    assert [(stage.name, stage.layers, stage.address) for stage in chain.stages] == [
        ("farm/s1", "8:16", "10.0.0.2:7100"),
        ("coop/s2", "16:24", "127.0.0.1:9"),
    ]
    code, out, _ = await shell.plan(*at(50, *NAMES))
    assert code == 0
    told = " ".join(out.split())
    for words in (
        "can be inverted to text",
        "[[chain.stages]]",
        "coop/s2",
    ):
        assert words in told


async def test_a_node_that_is_faster_or_nearer_or_cheaper_is_found(offered, capsys):
    ChainNode(offered, "coop", "twin", layers=Layers(16, 24), offer=FAST)
    shell = Shell(offered, capsys)
    facts = await shell.facts(*at(50, *NAMES, "coop/twin"))
    assert [plan["places"][2]["node"] for plan in facts["plans"]] == ["coop/twin", "coop/s2"]
    assert [plan["set_up"] for plan in facts["plans"]] == [False, True]
    far = ["--rtt", "coop/twin=900"]
    facts = await shell.facts(*at(50, *NAMES), *far, "--plans", "1")
    assert facts["plans"][0]["places"][2]["node"] == "coop/s2"
    between = ["--rtt", "farm/s1,coop/twin=0", "--rtt", "honest/head,coop/twin=0"]
    facts = await shell.facts(*at(50, *NAMES), *far, *between)
    assert facts["plans"][0]["places"][2]["node"] == "coop/twin"


async def test_operators_and_regions_are_pinned_and_forbidden(offered, capsys):
    ChainNode(offered, "farm", "all", layers=Layers(8, 24), offer=SLOW)
    shell = Shell(offered, capsys)
    names = (*NAMES, "farm/all")
    facts = await shell.facts(*at(1, *names), "--prefer", "operators")
    assert facts["plans"][0]["readers"] == ["honest", "farm"]
    for options in (
        ["--forbid-operator", "coop"],
        ["--operator", "honest", "--operator", "farm"],
        ["--most-operators", "2"],
    ):
        facts = await shell.facts(*at(1, *names), *options)
        assert [plan["readers"] for plan in facts["plans"]] == [["honest", "farm"]]
    code, _, err = await shell.plan(*at(1, *names), "--region", "eu-west")
    assert code != 0
    assert "no stage goes on from layer 16 of 24" in err
    assert "does not use coop/s2: it is in us-east" in err
    code, _, err = await shell.plan("--operator", "nobody")
    assert "does not pin operator nobody" in err


async def test_gaps_ends_and_limits_that_nothing_meets_are_said(offered, capsys):
    shell = Shell(offered, capsys)
    for options, said in (
        (["--layers", "32"], "no stage goes on from layer 24 of 32"),
        (["--at-most-ms", "20"], "the fastest needs 411.0 ms: honest/head → farm/s1 → coop/s2"),
        (["--most-operators", "1"], "every chain has more than 1 operators"),
        (["--model", "ab" * 32], "has no key bundle that the policy accepts"),
        (["--model", "shipped"], "the model root"),
        (["--rtt", "farm=3"], "'farm=3' is not a round trip"),
    ):
        code, out, err = await shell.plan(*at(100, *NAMES), *options)
        assert code != 0
        assert out == ""
        assert said in err, (said, err)


async def test_the_models_configuration_decides_where_a_chain_ends(offered, capsys):
    shell = Shell(offered, capsys)
    shell.layers = None
    code, _, err = await shell.plan(*at(1, *NAMES))
    assert code != 0
    assert "not known here how many layers the model has (the last one offered is layer 23)" in err
    folder = fetched_folder(offered.policy(), MODEL_ROOT)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 24}')
    assert len((await shell.facts(*at(1, *NAMES)))["plans"][0]["places"]) == 3
    (folder / "config.json").write_text('{"num_hidden_layers": 16}')
    facts = await shell.facts(*at(1, *NAMES))
    assert len(facts["plans"][0]["places"]) == 2
    assert facts["left_out"] == ["coop/s2: its layers 16:24 are not the model's, which has 16"]


async def test_prices_that_are_not_known_are_not_called_cheap(offered, capsys):
    offered.audit.cards_shown = []
    shell = Shell(offered, capsys)
    facts = await shell.facts(*at(1, *NAMES))
    assert facts["plans"][0]["price"] is None
    code, _, err = await shell.plan(*at(1, *NAMES), "--prefer", "cost")
    assert code != 0
    assert "all prices are known" in err


async def test_round_trips_are_measured_and_who_does_not_answer_is_left_out(offered, capsys):
    shell = Shell(offered, capsys)  # the head answers; the stages' endpoints are nobody's
    code, _, err = await shell.plan()
    assert code != 0
    assert "farm/s1 does not answer" in err
    found = await measured({"audit": offered.audit_target, "nobody": "127.0.0.1:9", "odd": "x"})
    assert set(found) == {"audit"}
    assert found["audit"] > 0


async def test_nodes_that_do_not_say_how_fast_they_are_make_no_plan(world):
    async with chain_of(world, s1={"offer": None}, s2={"offer": Offer(0, 0, 1)}):
        async with world.client() as client:
            nodes, refused = await client.offers()
        found = parts_of(nodes, world.policy(), {}, MODEL_ROOT, 24, 1)
    assert refused == []
    assert found.parts == []
    assert len(found.left_out) == 3
    assert all("does not say how fast it is" in reason for reason in found.left_out)


async def test_a_node_that_is_slower_than_it_says_loses_its_rank(world, capsys):
    """The double's stages sign 1 ms for every answer, whose 4 + 5 positions their offers promise in far less."""
    boast = Offer(10**6, 10**6, 512)
    async with chain_of(world, head_facts={"offer": OWN}, s1={"offer": boast}, s2={"offer": FAST}):
        twin = Offer(100_000, 100_000, 512)
        ChainNode(world, "farm", "twin", layers=Layers(8, 16), offer=twin)
        shell = Shell(world, capsys)
        names = (*NAMES, "farm/twin")
        facts = await shell.facts(*at(0, *names))
        assert facts["slower"] == []
        assert [plan["places"][1]["node"] for plan in facts["plans"]] == ["farm/s1", "farm/twin"]
        async with world.client() as client:
            for _ in range(3):
                await client.generate(prompt="hello", max_tokens=5)
        facts = await shell.facts(*at(0, *names))
        assert facts["slower"] == [
            "farm/s1 takes 111.1 times as long as it offers, by its last 3 receipts"
        ]
        assert [plan["places"][1]["node"] for plan in facts["plans"]] == ["farm/twin", "farm/s1"]


def test_few_receipts_and_shares_of_busy_steps_correct_nothing():
    cost = cost_of(Offer(10, 100, 1))
    slow = Usage(5, 0, 11, EnergyQuality.UNMEASURED, compute_ms=10_000)
    assert corrected(cost, [slow, slow]) == (cost, 1.0)
    assert corrected(cost, [replace(slow, compute_ms=10)] * 9) == (cost, 1.0)
    assert corrected(cost, [replace(slow, compute_ms=None)] * 9) == (cost, 1.0)
    assert corrected(cost, [replace(slow, output=0)] * 9) == (cost, 1.0)
    worse, times = corrected(cost, [slow] * 3)
    assert worse.of(1) == pytest.approx(times * cost.of(1))
    assert times > 5


def test_an_offer_is_exact_for_one_row_and_for_many():
    cost = cost_of(Offer(10, 100, 1))
    assert cost.of(1) == pytest.approx(1 / 10)
    assert cost.of(1000) == pytest.approx(10 + 0.09)
    assert cost_of(Offer(100, 10, 1)).of(1) == pytest.approx(1 / 100)  # chunks are never slower


@pytest.mark.parametrize(
    "text", ["", "a/b", "a/b=", "a/b=x", "a/b=-1", "a/b=nan", "a/b,a/b=1", "a/b,c/d,e/f=1"]
)
def test_round_trips_that_are_none_are_refused(text):
    with pytest.raises(CounterfoilError) as caught:
        given([text])
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_help_and_planning_need_no_torch():
    program = (
        "import sys, execution_layer.commands.pool, execution_layer.commands.planning, shared.model.root;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
