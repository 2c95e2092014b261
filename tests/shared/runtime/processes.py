"""Waiting for processes and files in tests, with a limit instead of a fixed sleep."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def read_when_there(path: Path) -> str:
    assert wait_until(lambda: path.exists() and path.stat().st_size > 0), f"{path} never came"
    return path.read_text()


def is_running(pid: int) -> bool:
    """Return whether the process is alive; a zombie that nobody has reaped yet is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    return wait_until(lambda: not is_running(pid))
