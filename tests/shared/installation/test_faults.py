"""Faults of the demonstration: what is done in which order, and that each fact fails when its own subject does."""

import asyncio
from types import SimpleNamespace

import pytest

from shared.installation.faults import (
    AUDIT_SERVER,
    LOST,
    QUESTIONS,
    SLOT_MS,
    Faults,
    Share,
    Struck,
    survived,
)
from shared.installation.layout import NodePlan
from shared.runtime.errors import Code, CounterfoilError

NODES = (NodePlan("node-a", "op-a"), NodePlan("node-b", "op-b"), NodePlan("node-c", "op-c", ("x",)))


class Recorded:
    """A double of a running platform: it notes what is done to it."""

    def __init__(self, tmp_path, failing=()):
        self.done = []
        self.plan = SimpleNamespace(nodes=NODES, path=tmp_path.joinpath)
        self.supervisor = SimpleNamespace(take_down=self.note("down"), bring_back=self.note("back"))
        self.commands = SimpleNamespace(say=lambda *_: None, json=self._json)
        self._failing = failing

    def note(self, what):
        async def noted(name):
            self.done.append((what, name))

        return noted

    async def _json(self, *command):
        self.done.append(
            ("command", *command[:2]) if command[0] == "node" else ("asked", command[-1])
        )
        if command[0] in self._failing:
            raise CounterfoilError(Code.UNAVAILABLE, "nobody answers")
        return {"node": "op-a/node-a", "bundle": "new", "replaces": "old", "receipt": "r"}


BURST = ["one", "two", "three", "four"]


async def struck_by(platform, refused=()):
    """Let all faults happen; `refused` requests find nobody there at first."""
    share, away = Share(), set(refused)

    async def send(prompts, *options):
        assert options == ("--node", "node-b", "--slots", SLOT_MS)
        for line, prompt in enumerate(prompts):
            if prompt in away:
                away.remove(prompt)
                yield {"line": line, "error": "UNAVAILABLE", "detail": "nobody is there"}
                continue
            platform.done.append(("answered", prompt))
            yield {"line": line, "receipt": "r"}
            await asyncio.sleep(0)

    faults = Faults(platform, share, send, BURST)
    striking = asyncio.create_task(faults.strike())
    await asyncio.sleep(0)
    assert platform.done == []  # nothing breaks before anything is under way
    share.grow(1.0)
    await striking
    return faults.struck


async def test_keys_roll_and_processes_die_one_after_the_other(tmp_path):
    platform = Recorded(tmp_path)
    struck = await struck_by(platform)
    answers = [("answered", prompt) for prompt in BURST]
    assert [what for what in platform.done if what not in answers] == [
        ("command", "node", "roll"),
        ("asked", QUESTIONS[0]),
        ("down", AUDIT_SERVER),
        *(("asked", question) for question in QUESTIONS),
        ("back", AUDIT_SERVER),
        *(("down", name) for name in LOST),
        ("down", "node-b"),
        ("back", "node-b"),
    ]
    dies = platform.done.index(("down", "node-b"))
    assert answers[0] in platform.done[:dies]
    assert answers[-1] in platform.done[dies:]
    assert struck.receipts == 1 + len(QUESTIONS) + len(BURST)


async def test_what_the_dead_node_had_not_accepted_is_sent_again(tmp_path):
    platform = Recorded(tmp_path)
    struck = await struck_by(platform, refused=["two", "three"])
    assert sorted(what for what in platform.done if what[0] == "answered") == sorted(
        ("answered", prompt) for prompt in BURST
    )
    assert struck.failed == []
    assert struck.receipts == 1 + len(QUESTIONS) + len(BURST)


async def test_the_audit_server_comes_back_though_nobody_was_answered_without_it(tmp_path):
    platform = Recorded(tmp_path, failing={"infer"})
    struck = await struck_by(platform)
    assert ("back", AUDIT_SERVER) in platform.done
    assert [dict(answer).keys() for answer in struck.unaudited] == [{"error"}] * len(QUESTIONS)
    assert struck.receipts == len(BURST)


def receipt(bundle="new", node="node-b", started=5, ended=15, finish="stop"):
    return {"bundle": bundle, "node": node, "started": started, "ended": ended, "finish": finish}


def disclosure(request="q", *custodians):
    asked = {"type": "disclosure-request", "entry": request, "issuer": "authority", "payload": {}}
    released = [
        {
            "type": "disclosure-release",
            "entry": f"{name} {request}",
            "issuer": name,
            "payload": {"request": request},
        }
        for name in custodians
    ]
    return [asked, *released]


LIVING = ("custodian-1", "custodian-2", "custodian-3")
GOOD = {
    "unaudited": [{"receipt": "r"}] * len(QUESTIONS),
    "asked": [{"receipt": "r"}],
    "receipts": [receipt(), receipt("old", "node-a")],
    "disclosures": disclosure("q", *LIVING),
}


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, None),
        ({"receipts": [receipt("old")]}, 0),
        ({"unaudited": [{"error": "nobody answers"}, *GOOD["unaudited"][1:]]}, 1),
        ({"unaudited": []}, 1),
        ({"asked": [{"error": "BROKEN", "detail": "the stream ended"}]}, 3),
        ({"disclosures": disclosure("q", *LIVING, LOST[0])}, 2),  # before they died
        ({"disclosures": disclosure("q", *LIVING[:2])}, 2),
        ({"receipts": [receipt(), receipt(finish="failed")]}, 3),
        ({"receipts": [receipt(ended=8)]}, 3),  # nothing was under way
        ({"receipts": [receipt(node="node-a")]}, 3),
    ],
)
def test_each_fact_fails_with_its_own_subject(changed, fails):
    world = GOOD | changed
    rolled = {"node": "op-a/node-a", "bundle": "new", "replaces": "old"}
    struck = Struck("node-b", killed_at=10, rolled=rolled)
    struck.asked, struck.unaudited = world["asked"], world["unaudited"]
    facts = survived(struck, world["receipts"], world["disclosures"])
    assert [place for place, fact in enumerate(facts) if not fact.holds] == (
        [] if fails is None else [fails]
    )
