"""Stages in an installation: where they are, who calls them, what kills one, and a link that is long and changes nothing."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shared.installation import processes
from shared.installation.audit_view import AuditView
from shared.installation.demo import PIPELINE
from shared.installation.faults import Share
from shared.installation.layout import NodePlan, Plan, with_stages
from shared.installation.lost_stage import LostStage
from shared.installation.relay import PIECE, Relay
from tests.shared.installation.test_custodians import Recorded as Commands
from tests.shared.installation.test_custodians import installer

NODES = (NodePlan("node-a", "operator-a"), NodePlan("node-b", "operator-b"))


def test_an_installation_keeps_the_stages_that_it_began_with(tmp_path):
    first = with_stages(tmp_path, NODES, PIPELINE)
    assert [stage.layers for stage in first[1].stages] == ["2:4", "4:6"]
    assert first[0].stages == ()
    installed = Plan(tmp_path, ()).installed
    installed.write_text(json.dumps({"version": 2}), encoding="utf-8")
    assert with_stages(tmp_path, NODES, PIPELINE) == NODES
    kept = {"node-a": {"layers": ["1:6"], "trip_ms": 0}}
    installed.write_text(json.dumps({"version": 2, "stages": kept}), encoding="utf-8")
    (stage,) = with_stages(tmp_path, NODES, {})[0].stages
    assert (stage.name, stage.layers, stage.link) == ("node-a-stage-1", "1:6", None)


async def test_a_node_calls_its_stages_through_their_links_and_they_know_each_other(tmp_path):
    plan = Plan(tmp_path, with_stages(tmp_path, NODES, PIPELINE))
    setup, commands = installer(tmp_path)
    setup._plan = setup.credentials._plan = plan
    setup.ports.addresses.update(
        {f"node-b-{what}-{n}": f"{what}:{n}" for what in ("stage", "link") for n in (1, 2)}
    )
    assert setup._stage_options(plan.nodes[1]) == [
        *("--stage", "link:1=2:4"),
        *("--stage", "link:2=4:6"),
    ]
    shown = setup.credentials.party_certificates()
    await setup._stages(plan.nodes[1], setup.credentials.certificates(), shown)
    first, second = (list(asked) for asked in commands.asked)
    for asked, other in ((first, 2), (second, 1)):
        callers = [asked[n + 1] for n, word in enumerate(asked) if word == "--caller"]
        assert callers == ["operator-b/node-b", f"operator-b/node-b-stage-{other}"]
    assert first[first.index("--address") + 1] == "stage:1"
    assert isinstance(commands, Commands)


def test_each_stage_and_each_link_is_a_process(tmp_path):
    plan = Plan(tmp_path, with_stages(tmp_path, NODES, PIPELINE))
    specs = {spec.name: spec.command for spec in processes.services(plan)}
    for number in (1, 2):
        assert (
            str(tmp_path / f"node-b-stage-{number}" / "stage.toml")
            in specs[f"node-b-stage-{number}"]
        )
        link = specs[f"node-b-link-{number}"]
        assert link[link.index("--to") + 1] == f"node-b-stage-{number}"
        assert link[link.index("--delay-ms") + 1] == "50.0"


def receipt(number: int, **changes: object) -> dict[str, object]:
    return {
        "log_index": number,
        "entry": f"r{number}",
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
        plan=Plan(tmp_path, with_stages(tmp_path, NODES, PIPELINE)),
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
    assert done == [("down", "node-b-stage-2"), ("back", "node-b-stage-2")]
    return losing


def view(*receipts: dict[str, object], drawn: frozenset[int] = frozenset({0}), **more) -> AuditView:
    return AuditView(receipts, drawn, len(receipts), (), **more)


async def test_what_must_hold_of_a_stage_that_died(tmp_path):
    losing = await lost(tmp_path)
    assert [fact.holds for fact in losing.facts(view(receipt(0), receipt(1)))] == [True, True]
    assert [fact.holds for fact in losing.facts(view(receipt(0), drawn=frozenset()))] == [
        False,
        True,
    ]
    failed = view(receipt(0), receipt(1, finish="failed"))
    assert [fact.holds for fact in losing.facts(failed)] == [True, False]
    before = view(receipt(0, ended=1))  # nothing was under way when it died
    assert [fact.holds for fact in losing.facts(before)] == [True, False]
    blamed = AuditView(
        (receipt(0),),
        frozenset({0}),
        1,
        ({"receipt": "r0", "outcome": "FAIL", "reason": "activations"},),
    )
    assert [fact.holds for fact in losing.facts(blamed)] == [False, True]


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
