"""Stages in an installation: where they are, who calls them, what kills one, and a link that is long and changes nothing."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shared.installation import install, processes
from shared.installation.audit_view import AuditView
from shared.installation.cheat import Cheat
from shared.installation.demo import pipeline
from shared.installation.faults import Share
from shared.installation.layout import NodePlan, Plan, as_installed
from shared.installation.lost_stage import LostStage
from shared.installation.relay import PIECE, Relay
from tests.shared.installation.test_custodians import installer

NODES = (NodePlan("node-a", "operator-a"), NodePlan("node-b", "operator-b"))
CHAIN = pipeline(Cheat(("cheat.py", "int8"), "serves the weights rounded to 8 bits"))


def test_an_installation_keeps_the_nodes_that_it_began_with(tmp_path):
    wanted = (*NODES, *CHAIN)
    assert as_installed(tmp_path, wanted) == wanted
    installed = Plan(tmp_path, ()).installed
    installed.write_text(json.dumps({"version": 2}), encoding="utf-8")
    assert as_installed(tmp_path, wanted) == NODES  # of a version without chains
    kept = [install._kept(node) for node in wanted]
    installed.write_text(json.dumps({"version": 2, "nodes": kept}), encoding="utf-8")
    assert as_installed(tmp_path, wanted) == wanted
    honest = Plan(tmp_path, as_installed(tmp_path, (*NODES, NodePlan("node-c", "operator-c"))))
    assert [node.name for node in honest.nodes] == [node.name for node in wanted]
    assert [(stage.part, stage.wrapper) for stage in honest.chain(NODES[1])] == [
        *(("2:3", ()), ("3:4", ()), ("4:5", ()), ("5:6", ()))
    ]
    assert honest.chain(NODES[0]) == ()


def test_the_chain_has_four_stages_of_two_operators_one_of_them_dishonest(tmp_path):
    plan = Plan(tmp_path, (*NODES, *CHAIN))
    assert {name: len(nodes) for name, nodes in plan.operators.items()} == {
        "operator-a": 1,
        "operator-b": 3,
        "operator-d": 2,
    }
    assert [stage.name for stage in CHAIN if stage.wrapper] == ["stage-2"]


def test_a_head_calls_its_stages_through_their_links_and_they_know_who_calls(tmp_path):
    plan = Plan(tmp_path, (*NODES, *CHAIN))
    setup, _ = installer(tmp_path)
    setup._plan = plan
    setup.ports.addresses.update({f"stage-{n}-link": f"link:{n}" for n in (1, 2, 3, 4)})
    assert setup._stage_options(plan.nodes[0]) == []
    assert setup._stage_options(plan.nodes[1]) == [
        *("--stage", "operator-b/stage-1@link:1=2:3"),
        *("--stage", "operator-d/stage-2@link:2=3:4"),
        *("--stage", "operator-b/stage-3@link:3=4:5"),
        *("--stage", "operator-d/stage-4@link:4=5:6"),
    ]
    second = setup._stage_options(CHAIN[1])
    assert second[:2] == ["--layers", "3:4"]
    assert [second[n + 1] for n, word in enumerate(second) if word == "--caller"] == [
        "operator-b/node-b",
        "operator-b/stage-1",
        "operator-b/stage-3",
        "operator-d/stage-4",
    ]


def test_each_stage_and_each_link_is_a_process(tmp_path):
    plan = Plan(tmp_path, (*NODES, *CHAIN))
    specs = {spec.name: spec.command for spec in processes.services(plan)}
    for stage in CHAIN:
        assert str(tmp_path / stage.name / "node.toml") in specs[stage.name]
        assert ("cheat.py" in specs[stage.name]) == (stage.name == "stage-2")
        link = specs[f"{stage.name}-link"]
        assert link[link.index("--to") + 1] == f"{stage.name}-parties"
        assert link[link.index("--delay-ms") + 1] == "30.0"


def receipt(index: int, **changes: object) -> dict[str, object]:
    return {
        "log_index": index,
        "entry": f"r{index}",
        "node": "node-b",
        "started": 0,
        "ended": 2**60,
        "finish": "stop",
        **changes,
    }


async def lost(tmp_path) -> LostStage:
    """Kill a stage of a platform that only notes it."""
    done: list[tuple[str, str]] = []

    def noting(what: str):
        async def note(name: str) -> None:
            done.append((what, name))

        return note

    platform: Any = SimpleNamespace(
        plan=Plan(tmp_path, (*NODES, *CHAIN)),
        commands=SimpleNamespace(say=lambda *_: None),
        supervisor=SimpleNamespace(take_down=noting("down"), bring_back=noting("back")),
    )
    share = Share()
    losing = LostStage(platform, share)
    striking = asyncio.create_task(losing.strike())
    await asyncio.sleep(0)
    assert done == []  # nothing breaks before anything is answered
    share.grow(1.0)
    await striking
    assert done == [("down", "stage-4"), ("back", "stage-4")]
    return losing


def view(*receipts: dict[str, object], drawn: frozenset[int] = frozenset({0}), **more) -> AuditView:
    return AuditView(receipts, drawn, len(receipts), (), **more)


def parts(*numbers: int) -> list[dict[str, object]]:
    """Return the stages' receipts of these answers."""
    return [
        receipt(10 * number + place, node=f"stage-{place}")
        for number in numbers
        for place in (1, 2, 3, 4)
    ]


async def test_what_must_hold_of_a_stage_that_died(tmp_path):
    losing = await lost(tmp_path)
    whole = view(receipt(0), receipt(1), *parts(0, 1))
    assert [fact.holds for fact in losing.facts(whole)] == [True, True]
    lacking = view(receipt(0), receipt(1), *parts(0, 1)[1:])
    assert [fact.holds for fact in losing.facts(lacking)] == [False, True]
    failed = view(receipt(0), receipt(1, finish="failed"), *parts(0))
    assert [fact.holds for fact in losing.facts(failed)] == [True, False]
    before = view(receipt(0, ended=1), *parts(0))  # nothing was under way when it died
    assert [fact.holds for fact in losing.facts(before)] == [True, False]
    assert [fact.holds for fact in losing.facts(view())] == [False, False]


def test_of_a_convicted_chain_no_receipt_is_payable():
    answered = {"tenant": "acme", "number": 1, "attempt": 0}
    mine = receipt(0, **answered), receipt(1, node="stage-1", **answered)
    other = receipt(2, **{**answered, "number": 2}), receipt(3, node="node-a", **answered)
    seen = view(*mine, *other, confirmed=frozenset({"r1"}))
    assert seen.unpaid(frozenset({"node-b", "stage-1"})) == list(mine)
    assert seen.unpaid(frozenset()) == []


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def through_a_link(handler: Handler | None, sent: bytes, seconds: float) -> bytes:
    """Return what comes back through a link to a server, or to nobody."""
    handled: list[Any] = []

    async def keeping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.append(asyncio.current_task())
        assert handler is not None
        await handler(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(keeping, "127.0.0.1", 0) as target:
        host, port = target.sockets[0].getsockname()
        if handler is None:
            target.close()
            await target.wait_closed()
        relay = Relay(host, port, seconds)

        async def relaying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handled.append(asyncio.current_task())
            await relay.connected(reader, writer)

        async with await asyncio.start_server(relaying, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            writer.write_eof()
            came = await reader.read(-1)
            writer.close()
            await writer.wait_closed()
            await asyncio.gather(*handled)
    return came


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(PIECE):
        writer.write(data)
    writer.write(b" over")


async def test_a_link_holds_everything_in_both_directions_and_changes_nothing():
    begun, data = time.monotonic(), bytes(range(256)) * 1000
    assert await through_a_link(echo, data, 0.05) == data + b" over"
    assert time.monotonic() - begun >= 0.1


async def leave(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


@pytest.mark.parametrize("handler", [leave, None])
async def test_a_link_ends_what_one_side_has_left_or_never_took(handler):
    assert await through_a_link(handler, b"x", 0.0) == b""
