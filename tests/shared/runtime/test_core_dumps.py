"""A crash leaves no image of the memory: not of what forbids it, not of the command line, not of a replay process."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from shared.installation.layout import MODEL
from tests.shared.runtime.processes import wait_until

FORBIDDING = "from shared.runtime.core_dumps import forbid_core_dumps; forbid_core_dumps();"
CRASHES = "import os; os.abort()"
TELLS = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
"""Prints PR_GET_DUMPABLE."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel about another process")


def dumps_allowed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def crashed(folder, program: str) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=dumps_allowed,  # noqa: PLW1509
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -os.WTERMSIG(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return status


def test_a_crash_dumps_nothing(tmp_path):
    status = crashed(tmp_path, FORBIDDING + CRASHES)
    assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="this machine writes no core dumps"
)
def test_the_same_crash_dumps_otherwise(tmp_path):
    assert os.WCOREDUMP(crashed(tmp_path, CRASHES))


@linux
@pytest.mark.parametrize(("before", "dumpable"), [("", "1"), (FORBIDDING, "0")])
def test_nobody_else_may_read_the_memory(before, dumpable):
    told = subprocess.run(
        [sys.executable, "-c", before + TELLS], check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == dumpable


@linux
@pytest.mark.parametrize("program", ["shared.runtime", "audit_layer.replay.child"])
def test_programs_that_hold_plaintext_or_keys_forbid_it(tmp_path, program):
    """The command line waits for a request on a pipe that never ends; the replay process for a case."""
    (tmp_path / "requests").mkdir()
    os.mkfifo(tmp_path / "prompts.jsonl")
    (tmp_path / "client.toml").touch()
    prompts = str(tmp_path / "prompts.jsonl")
    asked = ["infer", "--config", str(tmp_path / "client.toml"), "--file", prompts]
    arguments = asked if program == "shared.runtime" else [str(MODEL)]
    process = subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=dumps_allowed,  # noqa: PLW1509
    )
    try:
        assert wait_until(
            lambda: resource.prlimit(process.pid, resource.RLIMIT_CORE)[0] == 0, within_s=30
        )
    finally:
        process.kill()
        process.communicate()
