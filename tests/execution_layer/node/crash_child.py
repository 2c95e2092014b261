"""A node as a process of its own, over a FakeEngine: the one killed in `test_crashes`.

python -m tests.execution_layer.node.crash_child NODE_TOML READY_FILE
"""

import asyncio
import sys
from pathlib import Path

from execution_layer.node import delivery
from execution_layer.node.energy import Unmetered
from execution_layer.node.node import Node
from execution_layer.node.settings import NodeSettings
from shared.runtime.config import load
from shared.runtime.readiness import write_ready
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import fake_model


async def main(config, ready):
    vars(delivery).update(FIRST_PAUSE_S=0.02, LONGEST_PAUSE_S=0.02)
    settings = load(NodeSettings, Path(config))
    node = Node(settings, fake_model(FakeEngine(pause_s=0.02)), Unmetered())
    async with node.running() as server:
        await node.registration.witnessed.wait()
        write_ready(Path(ready), {"grpc": server.address})
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
