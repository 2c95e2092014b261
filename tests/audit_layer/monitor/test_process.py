"""The command as a process: its output and exit codes, signals, and kill -9 at every persistent step."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from audit_layer.commands.monitor import monitor
from audit_layer.monitor.store import MonitorStore
from audit_layer.monitor.walk import CHUNK_BUNDLES
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.statements.cose import entry_of
from shared.translog.policy_file import PolicyFile
from tests.audit_layer.api import statements as made
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.doubles import POLICY, LyingLog, kept, some_entries

PROGRAM = (
    "import sys; from shared.runtime.cli import run; from audit_layer.commands.monitor import monitor;"
    " sys.exit(run(monitor, sys.argv[1:]))"
)
ROOT = Path(__file__).parents[3]
KEYS = [f"--log={key.vkey()}" for key in POLICY.logs]
KEYS += [f"--witness={key.vkey()}" for key in POLICY.witnesses]
MANY = 256 * CHUNK_BUNDLES + 600
BUNDLE = made.bundle("alpha")


def large() -> LyingLog:
    entries = some_entries(MANY)
    entries[7] = entry_of(BUNDLE)
    return LyingLog(entries)


async def start(scene: Scene, *more: str, fault: str | None = None) -> Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if fault:
        environment[VARIABLE] = fault
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, scene.url, *KEYS, "--threshold=2", f"--state={scene.state}",
        f"--ca={scene.ca}", "--stale-after=0", "--watch-operator=alpha", "--json", *more,
        env=environment, cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    scene.processes.append(process)
    return process


async def end(process: Process) -> tuple[int | None, list[dict[str, Any]], str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


async def test_once_ends_with_0_or_3_or_5_and_prints_one_object_per_line(scene: Scene):
    log = large()
    code, lines, err = await end(await start(scene, "--once"))
    assert (code, [line["event"] for line in lines]) == (5, ["trouble"]), err
    scene.server.show(log, 300)
    scene.server.statements("v1/public/statements", [(7, BUNDLE)])
    code, lines, err = await end(await start(scene, "--once"))
    assert (code, [line["event"] for line in lines]) == (0, ["followed", "statement"]), err
    assert (lines[0]["size"], lines[0]["added"]) == (300, 300)
    scene.server.files["checkpoint"] = LyingLog(some_entries(300, "other")).note()
    code, lines, _ = await end(await start(scene, "--once"))
    assert (code, [line["event"] for line in lines]) == (3, ["finding", "followed"])
    assert kept(lines[0]["evidence"])["kind"] == "fork"
    scene.server.show(log, 301)  # a fork is not forgiven when the log behaves again
    code, lines, _ = await end(await start(scene, "--once"))
    assert (code, [line["event"] for line in lines]) == (3, ["followed"])


async def run_with(scene: Scene, *arguments: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, scene.url, *arguments, "--once", "--stale-after=0",
        f"--state={scene.state}", f"--ca={scene.ca}",
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out, err


async def test_a_policy_file_says_whom_to_believe_and_nothing_is_assumed(
    scene: Scene, tmp_path: Path
):
    scene.server.show(large(), 300)
    file = tmp_path / "log.policy"
    file.write_text(PolicyFile.of(POLICY).encode())
    assert (await run_with(scene, f"--policy={file}"))[0] == 0
    assert scene.verified_size == 300
    for arguments in ([], KEYS, [*KEYS, "--threshold=2", f"--policy={file}"]):
        code, _, err = await run_with(scene, *arguments)
        assert code == 2
        assert b"Say whom to believe" in err


async def test_people_read_lines_that_no_stranger_controls(scene: Scene):
    scene.server.files["checkpoint"] = b"\x1b[2Jnothing\n\n[bold]"
    code, out, _ = await run_with(scene, *KEYS, "--threshold=2")
    assert code == 3
    assert b"FINDING malformed" in out
    assert b"\x1b" not in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_amid_an_answer_and_keeps_the_state(scene: Scene, number):
    log = large()
    waiting = asyncio.Event()

    def never(_: Request) -> Response:
        async def body():
            waiting.set()
            await asyncio.sleep(60)
            yield b""

        return StreamingResponse(body())

    scene.server.show(log, 300)
    process = await start(scene, "--interval=0.1")
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["size"] == 300
    scene.server.answers["tile/entries/016"] = never
    scene.server.show(log)
    await asyncio.wait_for(waiting.wait(), 30)
    begun = time.monotonic()
    process.send_signal(number)
    code, _, err = await end(process)
    assert (code, err) == (0, "")
    assert time.monotonic() - begun < 30  # the answer takes twice as long
    assert scene.verified_size == 300
    scene.server.answers.clear()
    assert (await scene.look()).findings == 0
    assert scene.verified_size == MANY


POINTS = [
    f"monitor.{when}-{what}:kill{nth}"
    for what, nth in (("progress", ""), ("verified", ""), ("verified", ":2"), ("stream", ""))
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", POINTS)
async def test_killed_anywhere_it_resumes_and_reports_everything_at_least_once(
    scene: Scene, point: str
):
    log = large()
    scene.server.show(log, 300 if point.endswith(":2") else None)
    scene.server.statements("v1/public/statements", [(7, BUNDLE)])
    process = await start(scene, "--interval=0.1", fault=point)
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    if point.endswith(":2"):
        lines.append(json.loads(await process.stdout.readline()))
        scene.server.show(log)
    code, more, _ = await end(process)
    assert code == -signal.SIGKILL
    lines += more
    scene.server.asked.clear()
    code, more, err = await end(await start(scene, "--once"))
    assert code == 0, err
    lines += more
    assert lines[-1]["event"] in {"followed", "statement"}
    assert any(line["event"] == "statement" for line in lines)
    assert scene.verified_size == MANY
    if point == "monitor.after-progress:kill":
        assert "tile/entries/000" not in scene.server.asked  # goes on where it was


@pytest.mark.parametrize("what", ["evidence", "finding"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_while_it_keeps_a_finding_it_reports_the_finding_with_whole_evidence(
    scene: Scene, what: str, when: str
):
    scene.server.show(large(), 300)
    scene.server.statements("v1/public/statements", [])
    await scene.look()
    scene.server.files["checkpoint"] = LyingLog(some_entries(300, "other")).note()
    code, lines, _ = await end(await start(scene, "--once", fault=f"monitor.{when}-{what}:kill"))
    assert (code, lines) == (-signal.SIGKILL, [])
    code, lines, _ = await end(await start(scene, "--once"))
    assert code == 3
    (finding,) = [line for line in lines if line["event"] == "finding"]
    proof = kept(finding["evidence"])
    assert proof["first"] != proof["second"]
    code, lines, _ = await end(await start(scene, "--once"))
    assert [line["event"] for line in lines] == ["followed"]


async def test_trouble_is_counted_and_slows_it_down_until_all_is_answered_again(scene: Scene):
    scene.server.answers["checkpoint"] = Response(status_code=503)
    process = await start(scene, "--interval=0.1")
    assert process.stdout is not None
    lines = [json.loads(await process.stdout.readline()) for _ in range(3)]
    assert [line["count"] for line in lines] == [1, 2, 3]
    assert [line["next_try_s"] for line in lines] == [0.2, 0.4, 0.8]
    scene.server.answers.clear()
    scene.server.show(large(), 10)
    scene.server.statements("v1/public/statements", [])
    async with asyncio.timeout(30):
        while (line := json.loads(await process.stdout.readline()))["event"] != "notice":
            pass
    assert line["text"].startswith("everything is answered again")
    process.terminate()
    assert (await end(process))[0] == 0


async def test_one_state_file_serves_one_monitor_at_a_time(scene: Scene):
    scene.state.parent.mkdir(parents=True)
    with contextlib.closing(MonitorStore(scene.state, scene.origin)):
        with pytest.raises(CounterfoilError) as refused:
            MonitorStore(scene.state, scene.origin)
        assert refused.value.code is Code.CONFLICT


def test_the_help_names_what_is_found_and_the_exit_codes():
    shown = CliRunner().invoke(monitor, ["--help"])
    assert shown.exit_code == 0
    for word in ("fork", "rollback", "exit code is 3", "--from-now", "--operator-key"):
        assert word in " ".join(shown.output.split())
