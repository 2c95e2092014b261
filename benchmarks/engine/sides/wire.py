"""What a side's process and the benchmark say to each other."""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO


@dataclass(frozen=True, slots=True)
class Job:
    """One request: when it arrives (seconds from the beginning), its prompt, and how many tokens it asks for."""

    at: float
    prompt: tuple[int, ...]
    new: int


@dataclass(slots=True)
class Result:
    """A job's result: tokens, and for each the seconds from the beginning until it was ready."""

    tokens: list[int]
    times: list[float]


class Side(Protocol):
    """Generates greedily, in bf16."""

    versions: dict[str, str]
    """Versions that matter for the figures, and the settings that were chosen."""

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Answer all jobs; none is known before its time. Results are in the order of the jobs."""

    def memory(self) -> int:
        """Return the most memory that the side has used so far, in bytes."""


Make = Callable[[Path, int], Side]


def serve(make: Make, arguments: Sequence[str]) -> None:
    """Answer commands until there are no more.

    What libraries print goes to standard error; every exception is answered as an error.
    """
    commands, answers = sys.stdin, _own_output()
    folder, threads = Path(arguments[0]), int(arguments[1])
    try:
        side = make(folder, threads)
    except BaseException as error:
        _say(answers, {"error": _reason(error)})
        raise
    _say(answers, {"versions": side.versions})
    for line in commands:
        jobs = [Job(at, tuple(prompt), new) for at, prompt, new in json.loads(line)]
        gc.collect()  # an earlier pass's garbage, outside the time of this one
        try:
            results = side.run(jobs)
        except BaseException as error:
            _say(answers, {"error": _reason(error)})
            raise
        _say(
            answers,
            {
                "tokens": [each.tokens for each in results],
                "times": [each.times for each in results],
                "memory": side.memory(),
            },
        )


def command(jobs: Iterable[Job]) -> str:
    """Return the line that asks for jobs."""
    return json.dumps([[job.at, job.prompt, job.new] for job in jobs])


def peak_memory(process: str = "self") -> int:
    """Return VmHWM of a process in bytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def _own_output() -> TextIO:
    """Reserve standard output for answers; whatever else prints there goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()[:400]
