"""Servers that start at once: a process that has everything imported, and forks a command on request.

What runs in the fork is the installed command itself (`counterfoil audit …`, `counterfoil db …`), with a
`COUNTERFOIL_FAULT` of its own; only the interpreter's start and the imports were done ahead. The nursery ends, together
with its children, when whoever started it is gone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from shared.runtime.faults import VARIABLE


class Child:
    """One forked command."""

    def __init__(self, nursery: "Nursery", pid: int, ready: Path) -> None:
        self.pid = pid
        self._nursery = nursery
        self._ready = ready
        self._status: int | None = None

    def status(self) -> int | None:
        """Return None while it runs; its exit code, or the negative number of the signal that ended it."""
        if self._status is None:
            self._status = self._nursery.ask({"poll": self.pid})
        return self._status

    def kill(self) -> None:
        """End it as a power cut would; return when it is gone."""
        if self.status() is None:
            os.kill(self.pid, signal.SIGKILL)
            while self.status() is None:
                time.sleep(0.002)

    def addresses(self) -> dict[str, str] | None:
        """Return what its ready file says; None while there is none."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, str] = json.loads(self._ready.read_text())
            return found
        return None


class Nursery:
    """The process that forks."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )

    def ask(self, question: dict[str, Any]) -> Any:
        """Ask one question and return its answer; from any thread."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(
        self, arguments: Sequence[str], *, ready: Path, log: Path, fault: str | None = None
    ) -> Child:
        """Fork `counterfoil <arguments> --ready-file <ready>`; output is appended to `log`."""
        ready.unlink(missing_ok=True)
        question = {
            "arguments": [*arguments, "--ready-file", str(ready)],
            "log": str(log),
            "fault": fault,
        }
        return Child(self, self.ask(question), ready)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    running = Nursery()
    try:
        yield running
    finally:
        running.close()


def _serve() -> None:
    """Answer questions until the asker is gone."""
    from audit_layer.commands.audit import audit
    from audit_layer.commands.database import db
    from audit_layer.commands.parties import witness
    from audit_layer.wiring import (
        audit_server,  # noqa: F401  # imported ahead
        parties,  # noqa: F401  # imported ahead
    )

    audit.add_command(witness)
    counterfoil = click.Group("counterfoil", commands=[audit, db])
    alive: set[int] = set()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        answer: int | None
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            alive -= {pid}
        else:
            answer = os.fork()
            if answer == 0:
                _become(counterfoil, question)
            alive.add(answer)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _become(command: click.Command, question: dict[str, Any]) -> None:
    """Become the command, in a fork; never returns."""
    from shared.runtime.cli import run

    code = 70
    try:
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if question["fault"]:
            os.environ[VARIABLE] = question["fault"]
        code = run(command, question["arguments"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
