"""A side's process: starting, asking, ending it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Self

import benchmarks
from benchmarks.engine.sides.wire import Job, command

ROOT = Path(benchmarks.__file__).parent.parent
DEFAULT_VLLM = Path(".venv-vllm/bin/python")
WITHIN_S = 1800.0
"""A side that has not answered by then has failed."""
ALLOCATOR = "libtcmalloc_minimal.so.4"
OPENMP = "libiomp5.so"


class SideError(Exception):
    """A side cannot do what it is asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a side is started."""

    python: Path
    module: str
    environment: Mapping[str, str]


def commands(names: Sequence[str], vllm_python: Path | None) -> dict[str, Command | str]:
    """Return how each side is started, or why it cannot be. Ours runs with a node's settings, others with their best."""
    here, found = Path(sys.executable), vllm_python or DEFAULT_VLLM
    known: dict[str, Command | str] = {
        "ours": Command(here, "ours", {}),
        "relaxed": Command(here, "relaxed", {}),
        "transformers": Command(here, "transformers", _preloaded(ALLOCATOR)),
        "vllm": Command(found, "vllm", _preloaded(ALLOCATOR, OPENMP, near=found))
        if found.exists()
        else f"{found} does not exist (--vllm-python)",
    }
    return {name: known[name] for name in names}


class SideProcess:
    """One side with one model, alive until closed."""

    def __init__(self, started: Command, folder: Path, threads: int, log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [
                    str(started.python.absolute()),  # not resolved: the link is the environment
                    "-m",
                    f"benchmarks.engine.sides.{started.module}",
                    str(folder.absolute()),
                    str(threads),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **started.environment},
            )
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except SideError:
            self.close()
            raise

    def run(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Return each job's `tokens` and `times`, and `memory`; SideError when there is no answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command(jobs) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(self._last_words()) from None
        return self._answer()

    def close(self) -> None:
        """End the process, which stops when there are no more commands."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = Timer(WITHIN_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise SideError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:400] if lines else "ended without a word"


def _preloaded(*names: str, near: Path | None = None) -> dict[str, str]:
    """Return LD_PRELOAD with the libraries that exist: next to an interpreter's environment, or the system's."""
    folders = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu")]
    if near is not None:
        folders.insert(0, near.absolute().parent.parent / "lib")
    found = (next((f / name for f in folders if (f / name).exists()), None) for name in names)
    paths = ":".join(str(path) for path in found if path is not None)
    return {"LD_PRELOAD": paths} if paths else {}
