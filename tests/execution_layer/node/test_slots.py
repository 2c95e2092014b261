"""An answer in time slots: the same number of frames of one size, whatever was generated, and nothing else is different."""

import asyncio

import pytest
import pytest_asyncio

from execution_layer.node.store import NodeStore
from shared.envelope.shape import TAG, Shape
from shared.envelope.stream import FrameOpener, StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, open_as
from shared.statements.receipts import Finish, Receipt
from shared.statements.request import RequestBody, SamplingSettings, Slots
from tests.execution_layer.asking import ask, cancel, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOTS = Slots(20, 256)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


def request_for(world, node, tokens, *, slots=SLOTS, max_ms=60_000, **settings):
    body = RequestBody(SamplingSettings(tokens, **settings), prompt="hello", slots=slots)
    return make_request(world, node, body=body, order_changes={"max_ms": max_ms})


async def answer(world, node, request, *, timeout=30.0):
    """Return (frames' sizes, frames, final record's size, final record, receipt)."""
    messages = await ask(world, node, request.order, request.envelope, timeout=timeout)
    value, nonce = request.value, messages[0].accepted.node_nonce
    context = StreamContext(value.ctx, value.kc, value.bundle, nonce, value.attempt)
    shape = Shape(request.body.slots, request.sealed.header.padded)
    opener = FrameOpener(request.sealed.keys, context, shape)
    sealed = [message.frame.ciphertext for message in messages[1:-1]]
    frames = [opener.open(ciphertext) for ciphertext in sealed]
    last = messages[-1].final_record.ciphertext
    final = opener.open_final(last)
    receipt = open_as(Receipt, final.receipt, node.ring.current().bundle.signing_key)[0]
    assert [token for frame in frames for token in frame.tokens] == list(final.tokens)
    assert "".join(frame.text for frame in frames) == final.text
    assert receipt.usage.output == len(final.tokens)
    return [len(ciphertext) for ciphertext in sealed], frames, len(last), final, receipt


async def test_answers_of_one_class_look_the_same(world):
    """One token or many: as many frames of one size, and a final record of one size."""
    shapes = []
    async with world.node(FakeEngine()) as node:
        for tokens in (1, 40):
            sizes, _, last, final, receipt = await answer(
                world, node, request_for(world, node, tokens)
            )
            assert (len(final.tokens), receipt.finish) == (tokens, Finish.LENGTH)
            shapes.append((sizes, last))
    assert shapes[0] == shapes[1]
    assert shapes[0][0] == [256 + TAG] * 16


async def test_the_engine_does_not_wait_for_slots_and_what_does_not_fit_waits(world):
    engine = FakeEngine()
    async with world.node(engine) as node:
        asking = asyncio.create_task(answer(world, node, request_for(world, node, 200)))
        await engine.submitted.wait()
        generation = engine.generations[-1]
        await until(lambda: generation.position == 200)
        assert not asking.done()
        sizes, frames, _, final, _ = await asking
    assert len(final.tokens) == 200
    assert set(sizes) == {256 + TAG}
    assert len(sizes) in {16, 32}
    assert max(len(frame.tokens) for frame in frames) < 40


async def test_an_answer_that_ends_while_a_frame_goes_to_disk_is_whole(world, monkeypatch):
    engine, ordinary = FakeEngine(holds_after=3), NodeStore.append_frame

    async def append(self, *frame, **more):
        generation = engine.generations[-1]
        if generation.position == 3:
            engine.holds_after = None
            generation.release()
            await until(lambda: generation.position == 8)
            await asyncio.sleep(0.05)  # the end of the generation has been read meanwhile
        await ordinary(self, *frame, **more)

    monkeypatch.setattr(NodeStore, "append_frame", append)
    async with world.node(engine) as node:
        _, frames, _, final, _ = await answer(world, node, request_for(world, node, 8))
    assert len(final.tokens) == 8
    assert any(frame.tokens for frame in frames[1:])


async def test_an_engine_slower_than_the_slots_leaves_some_of_them_empty_and_nothing_is_billed_for_them(
    world,
):
    async with world.node(FakeEngine(pause_s=0.1)) as node:
        sizes, frames, _, final, receipt = await answer(world, node, request_for(world, node, 4))
    assert not all(frame.tokens for frame in frames)
    assert set(sizes) == {256 + TAG}
    assert len(sizes) in {16, 32, 64}
    assert (receipt.usage.input, receipt.usage.output) == (5, 4)
    assert len(final.tokens) == 4


async def test_log_probabilities_go_along_with_their_tokens(world):
    request = lambda node: request_for(world, node, 12, slots=Slots(20, 1024), logprobs=20)  # noqa: E731
    async with world.node(FakeEngine()) as node:
        _, frames, _, _, _ = await answer(world, node, request(node))
    assert all(len(frame.logprobs or ()) == len(frame.tokens) for frame in frames)


async def test_a_cancelled_answer_ends_at_once(world):
    """In the middle of it, or while it is filled up."""
    for engine in (FakeEngine(holds_after=3), FakeEngine()):
        async with world.node(engine) as node:
            request = request_for(world, node, 6, slots=Slots(10_000, 256))
            asking = asyncio.create_task(answer(world, node, request))
            await engine.submitted.wait()
            await until(lambda: node.load.in_flight)
            entry = entry_of(request.order)
            await cancel(world, node, entry, sign_cancellation(entry, world.tenant_key))
            sizes, _, _, _, receipt = await asyncio.wait_for(asking, 8)
        assert receipt.finish in {Finish.CANCELLED, Finish.LENGTH}
        assert len(sizes) < 16


async def test_an_answer_is_filled_up_no_longer_than_its_order_permits(world):
    async with world.node(FakeEngine()) as node:
        request = request_for(world, node, 3, slots=Slots(10_000, 256), max_ms=300)
        sizes, _, _, final, receipt = await answer(world, node, request)
    assert (receipt.finish, len(final.tokens)) == (Finish.LENGTH, 3)
    assert len(sizes) < 16


async def test_a_node_that_stops_fills_nothing_up(world):
    engine = FakeEngine()
    async with world.node(engine, grace_s=0) as node:
        request = request_for(world, node, 3, slots=Slots(10_000, 256))
        asking = asyncio.create_task(answer(world, node, request))
        await engine.submitted.wait()
        await until(lambda: node.load.in_flight)
    sizes, *_ = await asyncio.wait_for(asking, 8)
    assert len(sizes) < 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_ms": None},
        {"max_ms": 20 * 2**15 + 1},
        {"logprobs": 0},
    ],
)
async def test_slots_that_cannot_be_kept_are_refused_before_acceptance(world, wrong):
    async with world.node(FakeEngine()) as node:
        request = request_for(world, node, 3, **wrong)
        with pytest.raises(CounterfoilError) as caught:
            await ask(world, node, request.order, request.envelope)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "slots" in caught.value.detail
