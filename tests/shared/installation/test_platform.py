"""One `up` at a time on a folder, and a following one that says when the last one died."""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.installation import platform
from shared.installation.platform import _only_one
from shared.runtime.errors import Code, CounterfoilError


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def say(said):
    return lambda _who, what: said.append(what)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def holder_of(lock: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds a lock until its input ends, as the guards of a dead run do."""
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=[held.fileno()],
        )


async def test_a_second_one_is_refused_while_the_first_runs(tmp_path, say):
    async with _only_one(tmp_path, say):
        with pytest.raises(CounterfoilError, match="another `counterfoil up`") as raised:
            async with _only_one(tmp_path, say):
                pass
    assert raised.value.code is Code.CONFLICT
    async with _only_one(tmp_path, say):
        pass


async def test_an_orderly_end_leaves_nothing_to_say(tmp_path, say, said):
    for _ in range(2):
        async with _only_one(tmp_path, say):
            assert (tmp_path / "up.lock").read_text() == str(os.getpid())
    assert said == []


async def test_an_end_by_an_error_or_ctrl_c_is_an_orderly_end(tmp_path, say, said):
    for error in (RuntimeError, asyncio.CancelledError):
        with pytest.raises(error):
            async with _only_one(tmp_path, say):
                raise error
    async with _only_one(tmp_path, say):
        assert said == []


async def test_a_run_that_died_is_reported_by_the_next(tmp_path, say, said):
    gone = dead_process()
    (tmp_path / "up.lock").write_text(str(gone))
    async with _only_one(tmp_path, say):
        assert said == [f"the last run (process {gone}) died without stopping; resuming"]


async def test_what_is_left_of_a_dead_run_is_waited_for(tmp_path, say, said):
    (tmp_path / "up.lock").write_text(str(dead_process()))
    left = holder_of(tmp_path / "up.lock")

    def end_it(_who: str, what: str) -> None:
        said.append(what)
        if "waiting" in what:
            left.communicate()

    async with _only_one(tmp_path, end_it):
        assert "waiting for the processes of the last run to end" in said[0]
        assert "died without stopping" in said[1]


async def test_what_never_ends_is_a_conflict(tmp_path, say, monkeypatch):
    monkeypatch.setattr(platform, "LAST_RUN_S", 0.2)
    (tmp_path / "up.lock").write_text(str(dead_process()))
    with (tmp_path / "up.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CounterfoilError, match="another `counterfoil up`"):
            async with _only_one(tmp_path, say):
                pass
