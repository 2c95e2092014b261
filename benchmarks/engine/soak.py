"""Many short requests through our engine: does anything grow?"""

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.sides.ours import OursSide
from benchmarks.engine.sides.wire import Job

POINTS = 10
WAVE = 64
SLACK = {"rss_mib": 8.0, "open_blocks": 0.0, "sequences": 0.0, "containers": 200.0}
"""How much a figure may vary between the second point (when everything is warm) and the last."""


def soak(folder: Path, requests: int, threads: int, tick: Callable[[int], None]) -> dict[str, Any]:
    """Run requests in waves; return the figures at ten points, with nothing under way, and what grew."""
    side = OursSide(folder, threads)
    draw = random.Random("soak")
    points: list[dict[str, float]] = []
    done = 0
    try:
        for number in range(1, POINTS + 1):
            while done < requests * number // POINTS:
                wave = min(WAVE, requests * number // POINTS - done)
                side.run([_job(draw) for _ in range(wave)])
                done += wave
                tick(wave)
            points.append(_point(side, done))
    finally:
        side.close()
    return {
        "model": folder.name,
        "requests": requests,
        "points": points,
        "grown": grown(points),
    }


def grown(points: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the names of the figures that are larger at the end than when everything was warm."""
    return [name for name, slack in SLACK.items() if points[-1][name] > points[1][name] + slack]


def _job(draw: random.Random) -> Job:
    prompt = tuple(draw.randrange(8, 2048) for _ in range(draw.randint(4, 24)))
    return Job(0.0, prompt, draw.randint(1, 8))


def _point(side: OursSide, done: int) -> dict[str, float]:
    """Return what is alive; `containers` counts all objects of this process that hold others."""
    gc.collect()
    running, waiting, free = side.engine.load
    return {
        "requests": done,
        "rss_mib": _resident() / 2**20,
        "open_blocks": side.engine.limits.blocks - free,
        "sequences": running + waiting,
        "containers": len(gc.get_objects()),
    }


def _resident() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0
