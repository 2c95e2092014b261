"""What a child does between its start and the fault that kills it."""

import asyncio
import os
from pathlib import Path

from audit_layer.log.sequencer import Sequencer
from audit_layer.storage.engine import make_engine
from shared.runtime.faults import VARIABLE
from tests.audit_layer.log.world import make_world, numbered

NAMES = ["w1.example"]


def append_and_publish(dsn: str, folder: str, first: int, end: int, fault: str) -> None:
    """Append [first, end), record what was acknowledged, publish; die at `fault` on the way."""
    os.environ[VARIABLE] = fault
    engine = make_engine(dsn)
    Sequencer(engine).append([numbered(i) for i in range(first, end)])
    (Path(folder) / "acknowledged").write_text(str(end))
    world = make_world(engine, Path(folder), names=NAMES, threshold=1)
    asyncio.run(world.publisher().publish())
