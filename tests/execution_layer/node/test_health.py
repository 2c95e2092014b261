"""A node that cannot write its store says so, accepts nothing, and recovers on its own."""

import asyncio
import re

import grpc
import pytest

from execution_layer.node import health
from execution_layer.node.inspection import node_status
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel, serves
from shared.statements.receipts import Finish
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until
from tests.full_disk import FullDisk

SICK = re.compile(
    r"the node accepts no requests: its store cannot be written: the disk is full \(incident [0-9a-f]{12}\)"
)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.02)


async def refusal(world, node):
    request = make_request(world, node)
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, request.order, request.envelope)
    return caught.value


async def until_serving(world, node, wanted):
    """Return once health checks report it."""
    async with asyncio.timeout(10):
        while True:
            if await asyncio.to_thread(serves, node.address, world.ca.ca_file) is wanted:
                return
            await asyncio.sleep(0.02)


async def told(world, node):
    """Return what a node says about itself to any caller."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        answer = await stub.GetKeyBundle(execution_pb2.GetKeyBundleRequest(), timeout=10)
    return answer.refuses


async def test_a_node_on_a_full_disk_refuses_by_name_and_recovers_on_its_own(world):
    async with world.node() as node:
        assert await told(world, node) == ""
        disk = FullDisk(node.store.journal)
        first, second = await refusal(world, node), await refusal(world, node)
        for error in (first, second):
            assert error.code is Code.UNAVAILABLE
            assert SICK.search(error.detail)
            assert str(world.folder) not in str(
                error
            )  # where the node keeps its files is nobody else's business
        assert first.metadata["incident"] == second.metadata["incident"]
        assert SICK.fullmatch(await told(world, node))
        await until_serving(world, node, False)
        assert node.load.in_flight == 0
        disk.full = False
        await until_serving(world, node, True)
        request = make_request(world, node)
        assert await ask(world, node, request.order, request.envelope)
        assert await told(world, node) == ""


async def test_a_node_whose_passes_fail_says_so_and_accepts_nothing_more(world, caplog):
    engine = FakeEngine()
    async with world.node(engine) as node:
        engine.failures = health.MOST_FAILURES - 1
        request = make_request(world, node)
        assert await ask(world, node, request.order, request.envelope)
        engine.failures = health.MOST_FAILURES
        error = await refusal(world, node)
        assert (error.code, "passes of the model fail" in error.detail) == (Code.UNAVAILABLE, True)
        assert "passes of the model fail" in await told(world, node)
        await until_serving(world, node, False)
        await asyncio.sleep(0.1)  # several looks: what can be written does not make it well
        await until_serving(world, node, False)
    assert caplog.text.count("until the node is started again") == 1


async def test_a_disk_that_fills_up_midway_leaves_a_receipt_that_is_written_when_there_is_room(
    world,
):
    engine = FakeEngine(holds_after=1)
    async with world.node(engine, wait=True) as node:
        request = make_request(world, node)
        disk = FullDisk(node.store.journal, full=False)

        async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
            call = execution_pb2_grpc.InferenceStub(channel).Generate(
                execution_pb2.GenerateRequest(order=request.order, envelope=request.envelope),
                timeout=10,
            )

            async def read():
                async for message in call:
                    if message.HasField("frame"):
                        disk.full, engine.holds_after = True, None
                        engine.generations[0]._changed.set()

            with pytest.raises(grpc.aio.AioRpcError, match=r"the response was cut off \(incident"):
                await read()
        await until(lambda: not node.load.in_flight)
        assert [item.id for item in node.store.unfinished()] == [1]
        disk.full = False
        await world.audit.wait_for_receipts(1)
        (receipt,) = world.audit.receipts()
        assert receipt.payload["finish"] == Finish.FAILED.value
        assert node.store.unfinished() == []


async def test_status_says_what_a_sick_node_says(world):
    async with world.node() as node:
        settings = world.settings()
        well = await asyncio.to_thread(node_status, settings)
        assert (well["takes_requests"], "why" in well) == (True, False)
        FullDisk(node.store.journal)
        await refusal(world, node)
        sick = await asyncio.to_thread(node_status, settings)
        assert sick["takes_requests"] is False
        assert SICK.fullmatch(sick["why"])
        node.store.journal._writer.full = False


async def test_a_node_that_is_drained_stays_so_when_its_disk_recovers(world):
    async with world.node() as node:
        disk = FullDisk(node.store.journal)
        await refusal(world, node)
        await until_serving(world, node, False)
        await node.drain()
        disk.full = False
        await until(lambda: node.store.journal.failure is None)
        assert (await refusal(world, node)).code is Code.DRAINING
        await until_serving(world, node, False)
        assert await told(world, node) == "the node is draining"
