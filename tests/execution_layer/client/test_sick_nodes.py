"""Sixty requests over two healthy nodes and sick ones: every request is answered, and the sick nodes cost a few attempts."""

from collections import Counter

from execution_layer.client.archive import State
from tests.execution_layer.fakes import FakeEngine
from tests.full_disk import FullDisk

SICK_AT_MOST = 8
"""Attempts of sixty requests that a sick node may take. Its rest doubles with every failure, from one second: with all the
time that a loaded machine takes, one request a second would come to more only after four minutes."""


async def test_sixty_requests_pass_by_a_node_with_a_full_disk_and_one_that_dies_in_mid_stream(
    world,
):
    async with (
        world.node(),
        world.node(name="node-2"),
        world.node(name="node-3") as full,
        world.node(FakeEngine(dies_after=1), name="node-4"),
        world.client() as client,
    ):
        await client.nodes()
        FullDisk(full.store.journal)
        told = []
        for _ in range(60):
            await client.generate(
                prompt="hello", max_tokens=3, on_retry=lambda *facts: told.append(facts)
            )
        kept = client.archive.latest(1000)
        by_node = Counter(item.node for item in kept)
        answered = Counter(item.node for item in kept if item.state is State.ANSWERED)
        assert by_node["honest/node-3"] <= SICK_AT_MOST
        assert by_node["honest/node-4"] <= SICK_AT_MOST
        assert answered["honest/node-1"] + answered["honest/node-2"] >= 60
        assert {name for name, _ in told} == {"honest/node-3", "honest/node-4"}
        assert all("incident" in error.metadata for name, error in told if name == "honest/node-3")
