"""The peak memory of this process, and of a server with its children, while something runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EVERY_S: Final = 0.2


@dataclass(slots=True)
class Peak:
    """Bytes: proportional set sizes, so that shared pages count once."""

    process: int = 0
    server: int = 0


@contextmanager
def watched(server: int) -> Iterator[Peak]:
    """Watch this process, and the process `server` with its children."""
    peak, stop = Peak(), threading.Event()

    def look() -> None:
        while True:
            peak.process = max(peak.process, _pss(Path("/proc/self")))
            peak.server = max(peak.server, sum(map(_pss, _family(server))))
            if stop.wait(EVERY_S):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _family(pid: int) -> list[Path]:
    children = {pid}
    for path in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it ended
            continue
        if parent in children:
            children.add(int(path.parent.name))
    return [Path("/proc") / str(child) for child in children]


def _pss(process: Path) -> int:
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # it ended
        pass
    return 0
