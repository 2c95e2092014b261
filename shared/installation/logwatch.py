"""Reports deaths that a supervisor cannot see: of a Postgres process or a replay process, as logged by their parents."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from shared.installation.commands import Say

INTERVAL_S = 0.5
_DEATH = re.compile(r"(?:died|terminated) by signal \d+")


class LogWatch:
    """Reads what is appended to log files after its creation; a file may appear later."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._read = {name: _size(path) for name, path in files.items()}

    def deaths(self) -> Iterator[tuple[str, str]]:
        """Yield (name, what was logged) for each new line that reports a death."""
        for name, path in self._files.items():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as log:
                read = self._read[name]
                log.seek(read if read <= _size(path) else 0)  # a log that was renamed begins anew
                lines = log.read()
                whole = lines[: lines.rfind(b"\n") + 1]
                self._read[name] = log.tell() - len(lines) + len(whole)
                for line in whole.decode("utf-8", "replace").splitlines():
                    if _DEATH.search(line):
                        yield name, _message(line)


async def watch(files: dict[str, Path], say: Say) -> None:
    """Report what happens, until cancelled."""
    log = LogWatch(files)
    while True:
        await asyncio.sleep(INTERVAL_S)
        for name, what in log.deaths():
            say(name, what)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _message(line: str) -> str:
    """Return a line's message: a field in our own logs, the text after the level in Postgres' logs."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.partition(":  ")[2] or line
