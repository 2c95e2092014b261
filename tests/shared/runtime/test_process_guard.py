"""The guard: a command ends when its supervisor does, and the guard ends as the command did."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from shared.runtime import process_guard
from tests.shared.runtime.processes import gone, read_when_there

STUBBORN = (
    "import signal, sys, time, pathlib;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path(sys.argv[1]).write_text('ready');"
    "time.sleep(60)"
)

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a guard as the supervisor does: a lifeline on standard input, a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str, **options: object) -> subprocess.Popen[bytes]:
        line = process_guard.command_line(command, **options)  # type: ignore[arg-type]  # as the test says
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        with process:  # closes its pipes and reaps it
            pass


def let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def test_exit_code_is_passed_on(start):
    assert start("/bin/sh", "-c", "exit 7").wait(10) == 7


def test_death_by_signal_is_passed_on(start):
    assert start("/bin/sh", "-c", "kill -9 $$").wait(10) == -signal.SIGKILL


def test_a_command_that_cannot_start_is_said(start):
    process = start("/no/such/command")
    assert process.wait(10) == process_guard.NOT_STARTED
    assert b"/no/such/command" in process.stderr.read()


def test_end_of_lifeline_stops_the_command_with_the_stop_signal(start, tmp_path):
    process = start("/bin/sleep", "60", pid_file=tmp_path / "pid", stop_signal=signal.SIGINT)
    pid = int(read_when_there(tmp_path / "pid"))
    let_go(process)
    assert process.wait(10) == -signal.SIGINT
    assert gone(pid)


def test_signals_reach_the_command(start, tmp_path):
    script = f"trap 'echo got > {tmp_path}/got; exit 5' USR1; echo > {tmp_path}/up; while :; do sleep 0.05; done"
    process = start("/bin/sh", "-c", script)
    read_when_there(tmp_path / "up")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 5
    assert (tmp_path / "got").read_text() == "got\n"


def test_a_command_that_ignores_the_stop_signal_is_killed_after_the_grace(start, tmp_path):
    up = tmp_path / "up"
    process = start(sys.executable, "-c", STUBBORN, str(up), kill_after_s=0.2)
    read_when_there(up)
    let_go(process)
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_a_killed_guard_takes_the_command_with_it(start, tmp_path):
    process = start("/bin/sleep", "60", pid_file=tmp_path / "pid")
    pid = int(read_when_there(tmp_path / "pid"))
    process.kill()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a child subreaper")
def test_what_the_command_leaves_behind_is_killed_even_in_another_session(start, tmp_path):
    left = tmp_path / "left"
    script = (
        "import subprocess, sys, pathlib;"
        "a = subprocess.Popen(['/bin/sleep', '60']);"
        "b = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True);"
        "pathlib.Path(sys.argv[1]).write_text(f'{a.pid} {b.pid}');"
        "a.returncode = b.returncode = 0"
    )
    process = start(sys.executable, "-c", script, str(left))
    assert process.wait(10) == 0
    assert all(gone(int(pid)) for pid in left.read_text().split())


def test_the_lifeline_may_be_another_descriptor_and_survives_bytes(tmp_path):
    read_end, write_end = os.pipe()
    command = [
        sys.executable,
        process_guard.__file__,
        "--lifeline",
        str(read_end),
        "--",
        "/bin/sleep",
        "60",
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[read_end])
    os.close(read_end)
    os.write(write_end, b"hello")
    time.sleep(0.2)
    assert process.poll() is None
    os.close(write_end)
    assert process.wait(10) == -signal.SIGTERM


def test_it_runs_without_the_packages_around_it(tmp_path):
    line = process_guard.command_line(["/bin/true"])
    assert {"-I", "-S"} < set(line)
    with subprocess.Popen(line, cwd=tmp_path, stdin=subprocess.PIPE, env={}) as process:
        assert process.wait(10) == 0
