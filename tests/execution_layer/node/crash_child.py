"""A node as a process of its own, over a FakeEngine: the one killed in `test_crashes`, or asked to stop.

python -m tests.execution_layer.node.crash_child NODE_TOML [HOLDS_AFTER] READY_FILE
"""

import sys
from pathlib import Path

from execution_layer.node import delivery
from execution_layer.node.energy import Unmetered
from execution_layer.node.node import Node
from execution_layer.node.settings import NodeSettings
from shared.runtime.config import load
from shared.runtime.readiness import run_service, write_ready
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import fake_model


async def main(stop, config, *holds_after, ready):
    vars(delivery).update(FIRST_PAUSE_S=0.02, LONGEST_PAUSE_S=0.02)
    settings = load(NodeSettings, Path(config))
    engine = FakeEngine(pause_s=0.02, holds_after=int(holds_after[0]) if holds_after else None)
    node = Node(settings, fake_model(engine), Unmetered())
    async with node.running() as server:
        await node.registration.witnessed.wait()
        write_ready(Path(ready), {"grpc": server.address})
        await stop.wait()


if __name__ == "__main__":
    *words, ready = sys.argv[1:]
    sys.exit(run_service(lambda stop: main(stop, *words, ready=ready)))
