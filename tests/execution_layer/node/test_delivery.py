"""The spool delivers everything once, whatever the audit server does meanwhile."""

import asyncio

import pytest

from execution_layer.node import delivery as module
from execution_layer.node.audit_link import Submitted
from execution_layer.node.request_records import PendingReceipt
from shared.runtime.errors import Code
from shared.statements.receipts import Receipt
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.1)


async def serve(world, node, count):
    requests = [make_request(world, node) for _ in range(count)]
    for request in requests:
        await ask(world, node, request.order, request.envelope)
    return requests


def sequences(world):
    return [Receipt.from_payload(item.payload).node_sequence for item in world.audit.receipts()]


async def test_a_node_keeps_serving_while_the_audit_server_is_away_and_delivers_once_afterwards(
    world,
):
    async with world.node() as node:
        world.audit.away = True
        requests = await serve(world, node, 5)
        await until(lambda: node.spool.counts().pending == 5)
        assert world.audit.receipts() == []
        world.audit.away = False
        await world.audit.wait_for_receipts(5)
        await until(lambda: node.spool.counts().delivered == 5)
        assert sequences(world) == [0, 1, 2, 3, 4]
        orders = [world.audit.orders[item.entry] for item in world.audit.receipts()]
        assert orders == [request.order for request in requests]


async def test_a_lost_answer_costs_a_repetition_and_nothing_else(world):
    async with world.node() as node:
        world.audit.loses_answers = 2
        await serve(world, node, 3)
        await until(lambda: node.spool.counts().delivered == 3)
        assert sequences(world) == [0, 1, 2]
        assert world.audit.submissions > 3


async def test_what_a_stopped_node_could_not_deliver_its_next_start_delivers(world):
    async with world.node() as node:
        world.audit.away = True
        await serve(world, node, 2)
    assert world.audit.receipts() == []
    world.audit.away = False
    async with world.node() as node:
        await world.audit.wait_for_receipts(2)
        await serve(world, node, 1)
        await world.audit.wait_for_receipts(3)
    assert sequences(world) == [0, 1, 2]


async def test_a_permanent_refusal_is_kept_logged_loudly_and_retried_at_the_next_start(
    world, caplog
):
    async with world.node() as node:
        world.audit.refusals["receipt"] = Code.BAD_SIGNATURE
        await serve(world, node, 1)
        await until(lambda: node.spool.counts().rejected == 1)
        assert any(r.levelname == "ERROR" and "REFUSES" in r.getMessage() for r in caplog.records)
    world.audit.refusals.clear()
    async with world.node() as node:
        await world.audit.wait_for_receipts(1)
        await until(lambda: node.spool.counts().delivered == 1)


async def test_a_passing_refusal_is_tried_again(world):
    async with world.node() as node:
        world.audit.refusals["receipt"] = Code.NOT_FOUND
        await serve(world, node, 1)
        await until(lambda: world.audit.submissions >= 4)
        assert node.spool.counts().rejected == 0
        world.audit.refusals.clear()
        await world.audit.wait_for_receipts(1)


async def test_a_node_starts_and_serves_while_the_audit_server_is_away(world):
    world.audit.away = True
    async with world.node(wait=False) as node:
        assert not node.registration.witnessed.is_set()
        await serve(world, node, 1)  # a client that still had the bundle from elsewhere
        world.audit.away = False
        await asyncio.wait_for(node.registration.witnessed.wait(), 10)
        await world.audit.wait_for_receipts(1)


async def test_only_one_process_can_use_a_spool(world):
    from shared.runtime.errors import CounterfoilError

    async with world.node():
        with pytest.raises(CounterfoilError) as caught:
            async with world.node():
                pass
    assert caught.value.code is Code.CONFLICT


class Waiting:
    """A double of spool and log: some receipts are not accepted yet, however often they are sent."""

    def __init__(self, count, later):
        self.left = [PendingReceipt(number, b"receipt", b"order") for number in range(count)]
        self.later = later
        self.sent = []

    def pending(self, limit, *, after=-1):
        return [item for item in self.left if item.sequence > after][:limit]

    async def submit(self, statements):
        self.sent.append(len(statements))
        batch = self.pending(len(statements), after=self.last)
        self.last = batch[-1].sequence
        stale = Submitted(None, (Code.STALE_KEY, "not valid when the work began"))
        return [stale if item.sequence in self.later else Submitted(1) for item in batch]

    async def settle(self, delivered, rejected):
        assert not rejected
        gone = {sequence for sequence, _ in delivered}
        self.left = [item for item in self.left if item.sequence not in gone]


async def test_receipts_that_must_wait_hold_up_no_others(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    waiting = Waiting(7, later={0, 1, 3})
    waiting.last = -1
    assert not await module.Delivery(waiting, waiting).deliver()
    assert [item.sequence for item in waiting.left] == [0, 1, 3]
    assert waiting.sent == [2, 2, 2, 1]
    waiting.last, waiting.later = -1, set()
    assert await module.Delivery(waiting, waiting).deliver()
    assert waiting.left == []
