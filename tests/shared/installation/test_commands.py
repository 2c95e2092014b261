"""Commands that `up` runs: none outlives it, killed ones are reported and rerun, failures repeat their own words."""

import asyncio
import sys
from pathlib import Path

import pytest

from shared.installation import commands
from shared.installation.commands import Commands, started
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.runtime.processes import is_running, wait_until

PYTHON = (sys.executable, "-c")


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def run(said, monkeypatch):
    monkeypatch.setattr(commands, "DELAYS_S", (0.01, 0.01))
    made = Commands(lambda who, what: said.append((who, what)))

    async def run(program, *arguments):
        return await made.run(*arguments, program=(*PYTHON, program))

    return run


def counting(folder: Path, then: str) -> str:
    """Return a program that counts its runs in a file, and does `then` in all but the third."""
    return (
        f"import os, pathlib, sys\np = pathlib.Path({str(folder / 'runs')!r})\n"
        "n = len(p.read_text()) + 1 if p.exists() else 1\np.write_text('x' * n)\n"
        f"if n < 3:\n    {then}\nprint('done', n)"
    )


async def test_output_is_returned(run, said):
    assert await run("print('hello')") == "hello\n"
    assert said == []


async def test_a_killed_command_is_reported_and_rerun(run, said, tmp_path):
    program = counting(tmp_path, "os.kill(os.getpid(), 9)")
    assert await run(program, "db", "init", "--folder") == "done 3\n"
    assert len(said) == 2
    assert "`db init --folder …` died by signal 9; running it again" in said[0][1]


async def test_a_command_that_finds_a_part_away_is_run_again(run, said, tmp_path):
    program = counting(tmp_path, "sys.exit('the database is away') if False else sys.exit(5)")
    assert await run(program) == "done 3\n"
    assert len(said) == 2


async def test_any_other_failure_is_final_and_repeats_the_commands_words(run, said, tmp_path):
    with pytest.raises(CounterfoilError, match="wrong key") as raised:
        await run("import sys; sys.stderr.write('wrong key'); sys.exit(3)")
    assert raised.value.code is Code.UNAVAILABLE
    assert raised.value.metadata["exit_code"] == "3"
    assert said == []


async def test_a_failure_without_words_repeats_what_was_printed(run):
    with pytest.raises(CounterfoilError, match="2 tiles differ"):
        await run("import sys; print('2 tiles differ'); sys.exit(3)")


async def test_one_that_never_works_is_given_up(run, said):
    with pytest.raises(CounterfoilError, match="exit code 5"):
        await run("import sys; sys.exit(5)")
    assert len(said) == len(commands.DELAYS_S)


async def test_a_command_that_is_left_is_gone(tmp_path):
    pid = tmp_path / "pid"
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    async with started((*PYTHON, program)):
        assert await asyncio.to_thread(wait_until, lambda: pid.exists() and bool(pid.read_text()))
    assert not is_running(int(pid.read_text()))
