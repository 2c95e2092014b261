"""One `counterfoil up --demo` as a process, watched and killed from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

LIMIT_S = 300.0
"""A demonstration that takes longer has hung; on a quiet machine with two cores it takes under a minute."""


@dataclass(frozen=True)
class Victim:
    """A process, and what it was running."""

    pid: int
    command: str


@dataclass
class Demo:
    """A demonstration in a folder. `seen` holds every process that was ever found below it."""

    folder: Path
    process: subprocess.Popen[bytes]
    seen: dict[int, str] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path, *more: str) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "shared.runtime", "up", "--demo"]
        options = ["--folder", str(folder / "data"), "--json", str(folder / "report.json")]
        (folder / "report.json").unlink(missing_ok=True)
        with (folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [*command, *options, *more], stdout=output, stderr=output, start_new_session=True
            )
        return cls(folder, process)

    @property
    def report(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "report.json").read_text("utf-8"))
        return told

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text("utf-8", "replace")

    def processes(self) -> list[Victim]:
        """Return all processes of the demonstration, the supervisor first."""
        found = below(self.process.pid)
        self.seen.update({victim.pid: victim.command for victim in found})
        return found

    def until(self, text: str) -> None:
        """Wait until the output has a text."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            self.processes()
            time.sleep(0.05)

    def after(self, seconds: float) -> None:
        """Wait for a while, or until the end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            self.processes()
            time.sleep(0.05)

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + LIMIT_S
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"hung:\n{self.output[-4000:]}"
            self.processes()
            time.sleep(0.1)
        return code

    def left_running(self, patience_s: float = 40.0) -> list[str]:
        """Return which of its processes still run; none is left when the guards have had their time."""
        deadline = time.monotonic() + patience_s
        while True:
            left = [f"{pid} {what}" for pid, what in self.seen.items() if _command(pid) == what]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def kill(victim: Victim) -> None:
    """Kill a process as the kernel would for want of memory: nothing of it runs any more."""
    if _command(victim.pid) == victim.command:
        os.kill(victim.pid, signal.SIGKILL)


def below(root: int) -> list[Victim]:
    """Return a process and all that it and its children started."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            parents.setdefault(parent, []).append(int(entry.name))
    found: list[Victim] = []
    places = [root]
    while places:
        pid = places.pop(0)
        if command := _command(pid):
            found.append(Victim(pid, command))
        places.extend(parents.get(pid, []))
    return found


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _command(pid: int) -> str:
    """Return the command line; empty for a process that is gone or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
