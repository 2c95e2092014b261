"""The supervisor: order, readiness, restarts, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.runtime import supervisor as module
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.supervisor import ProcessSpec, Supervisor
from tests.shared.runtime.processes import gone, is_running, read_when_there

SERVE = 'echo up > "$0"; exec /bin/sleep 60'
"""A server for these tests: writes its ready file and stays."""


class Events(list[tuple[str, str]]):
    """What the supervisor reported, and a way to wait for more."""

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()

    def __call__(self, name: str, text: str) -> None:
        self.append((name, text))
        self._came.set()

    async def wait_for(self, name: str, part: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while sum(n == name and part in t for n, t in self) < times:
                self._came.clear()
                await self._came.wait()

    def order(self, part: str) -> list[str]:
        return [name for name, text in self if part in text]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def supervisor(events: Events) -> AsyncIterator[Supervisor]:
    async with Supervisor(events) as running:
        yield running


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.01)


def server(folder: Path, name: str = "server", **changes: Any) -> ProcessSpec:
    ready = folder / f"{name}.ready"
    spec = ProcessSpec(
        name=name,
        command=["/bin/sh", "-c", SERVE, str(ready)],
        log_file=folder / f"{name}.log",
        ready_file=ready,
        kill_after_s=5.0,
    )
    return replace(spec, **changes)


async def test_processes_start_in_dependency_order_and_stop_in_reverse(
    supervisor, events, tmp_path
):
    specs = [
        server(tmp_path, "app", after=["migration", "database"]),
        server(tmp_path, "migration", after=["database"]),
        server(tmp_path, "database"),
    ]
    await supervisor.start(specs)
    assert events.order("ready in") == ["database", "migration", "app"]
    assert supervisor.is_ready("app")
    pids = [supervisor.pid(spec.name) for spec in specs]
    assert all(is_running(pid) for pid in pids)
    await supervisor.stop()
    assert events.order("stopped") == ["app", "migration", "database"]
    assert all(gone(pid) for pid in pids)


async def test_a_killed_process_is_reported_and_restarted_with_the_same_command(
    supervisor, events, tmp_path
):
    await supervisor.start([server(tmp_path)])
    first = supervisor.pid("server")
    os.kill(first, signal.SIGKILL)
    await events.wait_for("server", "died by signal 9, restarting")
    await supervisor.wait_ready("server")
    assert supervisor.pid("server") != first


async def test_a_killed_guard_is_seen_and_nothing_of_its_process_survives(
    supervisor, events, tmp_path
):
    script = '/bin/sleep 61 & echo "$!" > "$0"; wait'
    ready = tmp_path / "server.ready"
    await supervisor.start([server(tmp_path, command=["/bin/sh", "-c", script, str(ready)])])
    pid, grandchild = supervisor.pid("server"), int(ready.read_text())
    os.kill(os.getpgid(pid), signal.SIGKILL)  # the guard leads the group
    await events.wait_for("server", "died by signal 9")
    await events.wait_for("server", "ready in", times=2)
    assert gone(pid)
    assert gone(grandchild)


async def test_a_process_that_may_not_restart_is_only_reported(supervisor, events, tmp_path):
    await supervisor.start([server(tmp_path, restart=False)])
    os.kill(supervisor.pid("server"), signal.SIGKILL)
    await events.wait_for("server", "died by signal 9")
    assert not supervisor.is_ready("server")


async def test_a_process_killed_before_it_is_ready_is_tried_again(supervisor, events, tmp_path):
    ready = tmp_path / "server.ready"
    script = f'echo >> "$0.tries"; [ $(wc -l < "$0.tries") -lt 3 ] && kill -9 $$; {SERVE}'
    await supervisor.start([server(tmp_path, command=["/bin/sh", "-c", script, str(ready)])])
    assert len(events.order("died by signal 9 before it was ready")) == 2
    assert supervisor.is_ready("server")


async def test_a_process_that_exits_before_it_is_ready_fails_the_start_and_shows_its_log(
    supervisor, tmp_path
):
    spec = server(tmp_path, command=["/bin/sh", "-c", "echo port 5 is taken; exit 3"])
    with pytest.raises(CounterfoilError) as caught:
        await supervisor.start([spec])
    assert caught.value.code is Code.UNAVAILABLE
    assert "exit code 3" in caught.value.detail
    assert "port 5 is taken" in caught.value.detail
    assert str(spec.log_file) in (caught.value.remedy or "")


async def test_a_process_that_never_gets_ready_is_stopped(supervisor, tmp_path):
    spec = server(tmp_path, command=["/bin/sleep", "60"], ready_timeout_s=0.2)
    with pytest.raises(CounterfoilError, match="not ready within"):
        await supervisor.start([spec])
    assert not spec.pid_file.exists()


async def test_a_stale_ready_file_does_not_count(supervisor, tmp_path):
    spec = server(tmp_path, command=["/bin/sleep", "60"], ready_timeout_s=0.2)
    assert spec.ready_file is not None
    spec.ready_file.write_text("from last time")
    with pytest.raises(CounterfoilError, match="not ready within"):
        await supervisor.start([spec])


async def test_ready_check_is_asked_until_it_says_yes(supervisor, tmp_path):
    answers = iter([False, False, True])

    async def check() -> bool:
        return bool(next(answers))

    await supervisor.start([server(tmp_path, ready_check=check)])
    assert next(answers, None) is None


@pytest.mark.parametrize(
    ("after", "twice"),
    [({"a": ["b"], "b": ["a"]}, False), ({"a": ["nobody"]}, False), ({"a": []}, True)],
    ids=["circle", "unknown", "duplicate"],
)
async def test_impossible_orders_are_refused_before_anything_starts(
    supervisor, events, tmp_path, after, twice
):
    specs = [server(tmp_path, name, after=names) for name, names in after.items()]
    with pytest.raises(CounterfoilError) as caught:
        await supervisor.start(specs * 2 if twice else specs)
    assert caught.value.code is Code.CONFIGURATION
    assert events == []


async def test_run_waits_for_the_end_of_a_command(supervisor, tmp_path):
    spec = server(tmp_path, "once", command=["/bin/sh", "-c", "echo done; exit 0"])
    await supervisor.run(spec)
    assert "done" in spec.log_file.read_text()


async def test_run_raises_when_the_command_fails_or_takes_too_long(supervisor, tmp_path):
    with pytest.raises(CounterfoilError, match="exit code 4"):
        await supervisor.run(server(tmp_path, "bad", command=["/bin/sh", "-c", "exit 4"]))
    with pytest.raises(CounterfoilError, match="did not end within"):
        await supervisor.run(server(tmp_path, "slow", command=["/bin/sleep", "60"]), timeout_s=0.1)


async def test_restart_on_purpose_keeps_the_name_and_changes_the_process(supervisor, tmp_path):
    await supervisor.start([server(tmp_path)])
    first = supervisor.pid("server")
    await supervisor.restart("server")
    assert supervisor.pid("server") != first
    assert gone(first)


async def test_a_process_that_was_taken_down_stays_down_until_it_is_brought_back(
    supervisor, events, tmp_path
):
    """Its own way of stopping is not asked: one that ignores the polite signal is gone at once."""
    stubborn = f"trap '' TERM; {SERVE}"
    spec = server(tmp_path)
    command = ["/bin/sh", "-c", stubborn, *spec.command[3:]]
    await supervisor.start([replace(spec, command=command, kill_after_s=60.0)])
    first = supervisor.pid("server")
    await supervisor.take_down("server")
    assert gone(first)
    assert not supervisor.is_ready("server")
    with pytest.raises(CounterfoilError) as caught:
        await supervisor.take_down("server")
    assert caught.value.code is Code.NOT_FOUND
    assert events.order("restarting") == []
    await supervisor.bring_back("server")
    assert is_running(supervisor.pid("server"))
    os.kill(supervisor.pid("server"), signal.SIGKILL)  # it is supervised as before
    await events.wait_for("server", "restarting")


async def test_environment_is_added_and_a_long_log_put_aside(supervisor, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 10)
    (tmp_path / "once.log").write_text("a line that is longer than ten bytes\n")
    command = ["/bin/sh", "-c", 'echo "$COLOUR $PATH"']
    spec = server(tmp_path, "once", command=command, env={"COLOUR": "green"})
    await supervisor.run(spec)
    assert f"green {os.environ['PATH']}" in spec.log_file.read_text()
    assert "a line that is longer" in (tmp_path / "once.log.1").read_text()


PROGRAM = """
import asyncio, signal, sys
from pathlib import Path
from shared.runtime.supervisor import ProcessSpec, Supervisor

# A shell starts what it runs in the background with SIGINT ignored, and these tests may be run so.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main(folder):
    def spec(name, after=()):
        ready = folder / f"{name}.ready"
        command = ["/bin/sh", "-c", 'echo $$ > "$0"; exec /bin/sleep 60', str(ready)]
        return ProcessSpec(name=name, command=command, log_file=folder / f"{name}.log",
                           ready_file=ready, after=after)
    async with Supervisor() as supervisor:
        await supervisor.start([spec("one"), spec("two", ["one"])])
        (folder / "all.ready").write_text("yes")
        await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_running_when_the_supervisor_goes(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        read_when_there(tmp_path / "all.ready")
        pids = [int((tmp_path / f"{name}.ready").read_text()) for name in ("one", "two")]
        guards = [os.getpgid(pid) for pid in pids]
        assert all(is_running(pid) for pid in pids)
        process.send_signal(number)
        assert process.wait(15) != 0
    assert all(gone(pid) for pid in pids + guards)
