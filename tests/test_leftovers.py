"""A run knows what it started, whatever its environment and whoever started it, and removes its folder."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import MEMORY, PREFIX, Run, end
from tests.shared.runtime.processes import gone, wait_until

ROOT = Path(__file__).parents[1]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
ORPHAN = """
import subprocess, sys
nothing = subprocess.DEVNULL
print(subprocess.Popen(sys.argv[1:], stdout=nothing, stderr=nothing, start_new_session=True).pid)
"""
KILLED = """
import os, signal
from tests.leftovers import Run
run = Run()
print(run.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run within the run of this test."""
    monkeypatch.setenv("TMPDIR", os.environ["TMPDIR"])
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    made = Run()
    yield made
    made.remove()
    assert not made.folder.exists()


def test_nothing_is_left_of_a_run_that_started_nothing_or_whose_processes_ended(run: Run):
    assert run.left_running() == {}
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert run.left_running() == {}


def test_a_process_is_known_by_its_environment_when_nobody_is_its_parent_any_more(run: Run):
    orphan = [sys.executable, "-c", ORPHAN, *SLEEP]
    pid = int(subprocess.run(orphan, check=True, capture_output=True).stdout)
    found = wait_until(lambda: list(run.left_running(patience_s=0)) == [pid])
    end({pid: ""})
    assert found
    assert gone(pid)
    assert run.left_running() == {}


def test_a_process_without_environment_is_known_by_the_folder_in_its_arguments(run: Run):
    with subprocess.Popen([*SLEEP, str(run.folder / "data")], env={}) as process:
        found = wait_until(lambda: list(run.left_running(patience_s=0)) == [process.pid])
        process.kill()
    assert found
    assert run.left_running() == {}


def test_the_folders_of_a_killed_run_are_removed_by_the_next_and_those_of_a_living_one_are_not(
    run: Run,
):
    killed = [sys.executable, "-c", KILLED]
    printed = subprocess.run(killed, check=False, capture_output=True, cwd=ROOT)
    forgotten = Path(printed.stdout.decode().strip())
    assert forgotten.name.startswith(PREFIX)
    Run().remove()
    assert not forgotten.exists()
    assert not MEMORY.joinpath(forgotten.name).exists()
    assert run.folder.exists()


def test_what_ends_in_time_is_not_left(run: Run):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"]):
        assert run.left_running(patience_s=30) == {}


def test_temporary_files_of_tests_and_of_what_they_start_are_in_the_folder_of_the_run(run: Run):
    print_one = "import tempfile; print(tempfile.mkdtemp())"
    printed = subprocess.run([sys.executable, "-c", print_one], check=True, capture_output=True)
    for made in (tempfile.mkdtemp(), printed.stdout.decode().strip()):
        assert Path(made).parent == run.folder
