"""A run of the tests leaves nothing behind: no process, and no temporary file.

The process that starts a run makes one folder in `/tmp`, and everything that the run starts has it as its TMPDIR:
test processes, the programs that tests start, and what those start in turn. So the folder holds whatever is temporary,
and its name marks every process of the run, even if the one that started it was killed. At the end no process may have
the mark, and the folder is removed; if the run itself is killed, the next run removes it. `tmp_path` is elsewhere:
pytest keeps those folders for a few runs.

If `/dev/shm` is large enough, a folder of the same name there holds the databases: copying one takes a fifth of the
time.
"""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

PREFIX: Final = "cf-run-"
PATIENCE_S: Final = 20.0
"""A guarded Postgres has 15 seconds to shut down."""
MEMORY: Final = Path("/dev/shm")
MEMORY_OF_A_PROCESS: Final = 512 * 2**20
"""What each process that runs tests may need in it."""
HELPERS: Final = (b"from multiprocessing.forkserver ", b"from multiprocessing.resource_tracker ")
"""Helpers of `multiprocessing` that live as long as the process they belong to."""


class Run:
    """The folders of one run, and the processes that have its mark."""

    def __init__(self) -> None:
        _remove_forgotten()
        self.folder, self._lock = _locked_folder()
        self.folder.chmod(0o711)  # Postgres, which runs under another account, has to pass through
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > _cores() * MEMORY_OF_A_PROCESS:
            in_memory = MEMORY / self.folder.name
            in_memory.mkdir()
            in_memory.chmod(0o711)
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder)

    def left_running(self, patience_s: float = PATIENCE_S) -> dict[int, str]:
        """Return the processes of this run that do not end in time, by pid, except this one."""
        deadline = time.monotonic() + patience_s
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def remove(self) -> None:
        """Remove the folders."""
        _remove(self.folder)
        os.close(self._lock)

    def _processes(self) -> dict[int, str]:
        mark = os.fsencode(self.folder.name)
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            command = _read(entry / "cmdline")
            if mark not in command and mark not in _read(entry / "environ"):
                continue
            if not (_is_ours(entry) and any(helper in command for helper in HELPERS)):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace")
        return found


def place_of_databases() -> Path:
    """Return the folder for this run's databases: in memory, or else the one for everything temporary."""
    folder = Path(tempfile.gettempdir())
    in_memory = MEMORY / folder.name
    return in_memory if in_memory.is_dir() else folder


def _locked_folder() -> tuple[Path, int]:
    """Make a folder with a short path, for sockets, and lock it for as long as this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # not taken for a forgotten one before it was locked
            return folder, lock
        os.close(lock)


def _remove_forgotten() -> None:
    """Remove the folders that no run has locked: their runs were killed."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:  # just removed, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    for place in (MEMORY / folder.name, folder):
        shutil.rmtree(place, ignore_errors=True)


def end(pids: dict[int, str]) -> None:
    """Kill what was left running."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _is_ours(entry: Path) -> bool:
    """Return whether this process is the parent."""
    state = _read(entry / "stat").rpartition(b")")[2].split()
    return len(state) > 1 and int(state[1]) == os.getpid()


def _read(path: Path) -> bytes:
    """Read a file in `/proc`; nothing if the process is gone or belongs to another user."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
