"""Custodians that are killed at every fault point, each in a process of its own, and what they answer when they are back.

`python -m … FOLDER` prints, as JSON by fault point, how the process ended, what was on disk then, and what was answered
before and afterwards, in hexadecimal.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from shared.runtime import faults
from tests.audit_layer.custodian import custody
from tests.shared.selection import world as worlds
from tests.shared.selection.world import World
from tests.vectors.samples import octets

RELEASE = ("custodian.release.before-keep", "custodian.release.after-keep")
SHARE = ("custodian.share.before-note", "custodian.share.after-note")
REPORT = ("custodian.report.before-keep", "custodian.report.after-keep")


def ask(folder: Path, world: World) -> dict[str, str]:
    """Take both steps, as far as there are two; note each answer as soon as it is there."""
    told: dict[str, str] = {}
    with custody.custodian(folder) as holder:
        answered = custody.case_answer(holder, world)
        if answered.report is not None:
            told["report"] = answered.report.hex()
        if answered.release is not None:
            told["release"] = answered.release.hex()
            (folder / "answered").write_text(json.dumps(told))
            told["share"] = custody.share(holder, world, answered.release).hex()
    (folder / "answered").write_text(json.dumps(told))
    return told


def trial(folder: Path, point: str, world: World) -> dict[str, Any]:
    """Kill a custodian at a fault point, and ask again."""
    child = os.fork()
    if child == 0:
        os.environ[faults.VARIABLE] = f"{point}:kill"
        ask(folder, world)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    before = folder / "answered"
    return {
        "signal": os.WTERMSIG(status),
        "kept": custody.kept(folder),
        "before": json.loads(before.read_text()) if before.exists() else {},
        "after": [ask(folder, world), ask(folder, world)],
    }


def main(base: Path) -> None:
    """Try every point."""
    good = World()
    told = {point: trial(base / point, point, good) for point in RELEASE + SHARE}
    lie = custody.rewrapped(custody.request(), share=octets("x"))
    vars(worlds)["sealed"] = lambda **_: lie
    unfit = World()
    told |= {point: trial(base / point, point, unfit) for point in REPORT}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
