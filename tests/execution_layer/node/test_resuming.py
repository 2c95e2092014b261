"""Resuming a stream: the rest of one response, bit for bit, to nobody but the order's tenant (protocol §4.9)."""

import asyncio
import contextlib

import grpc
import pytest
import pytest_asyncio

from execution_layer.node import resuming
from shared.codec.moment import now_ms
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.runtime.keys import load_or_create_ed25519
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of
from shared.statements.receipts import Finish
from shared.statements.resumption import sign_resumption
from tests.execution_layer.asking import ask, cancel, make_request, resume
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.node.test_ends import begun, receipt_of
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


async def refused(world, node, request, frames=0, **wrong):
    with pytest.raises(CounterfoilError) as caught:
        await resume(world, node, request, frames, **wrong)
    return caught.value


async def test_a_stream_that_is_cut_goes_on_from_any_frame_and_is_the_same_ever_after(world):
    engine = FakeEngine(holds_after=3, pause_s=0.02)  # each token has a frame of its own
    async with world.node(engine, name="cut") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        async with begun(world, node, request, events=4) as (_, call):
            call.cancel()
        waiting = [asyncio.create_task(resume(world, node, request, frames)) for frames in (1, 3)]
        await asyncio.sleep(0.1)
        engine.generations[0].release()
        one, three = [await task for task in waiting]
        receipt, _ = await receipt_of(world, request)
        whole = await resume(world, node, request)
        accepted, *frames, final = whole
        assert [message.frame.index for message in frames] == list(range(1, TOKENS + 1))
        assert one == [accepted, *frames[1:], final]
        assert three == [accepted, *frames[3:], final]
        assert await resume(world, node, request, TOKENS) == [accepted, final]
        assert (receipt.finish, receipt.node_nonce) == (
            Finish.LENGTH,
            accepted.accepted.node_nonce,
        )
        assert len(world.audit.receipts()) == 1
        assert len(engine.generations) == 1


async def test_what_is_sent_again_is_what_was_sent(world):
    async with world.node(name="same") as node:
        request = make_request(world, node, max_tokens=40)
        assert await ask(world, node, request.order, request.envelope) == await resume(
            world, node, request
        )


async def test_nobody_but_the_orders_tenant_learns_whether_there_is_anything(world, tmp_path):
    async with world.node(name="strangers") as node:
        request, other = make_request(world, node), make_request(world, node)
        await ask(world, node, request.order, request.envelope)
        order, at = entry_of(request.order), now_ms()
        stranger = load_or_create_ed25519(tmp_path / "stranger.pem")
        true = sign_resumption(order, 1, at, world.tenant_key)
        wrong = {
            "unknown order": {"order": entry_of(other.order)},
            "no order": {"order": b""},
            "a stranger": {"key": stranger},
            "the node": {"key": node.ring.signing_key},
            "another place": {"frames": 0, "at": at, "signature": true},
            "another time": {"frames": 1, "at": at + 1, "signature": true},
            "a cancellation": {"signature": sign_cancellation(order, world.tenant_key)},
            "the order's own signature": {"signature": request.order[-64:]},
            "a stale wish of a stranger": {
                "at": at - 10**7,
                "signature": sign_resumption(order, 0, at - 10**7, stranger),
            },
            "none": {"signature": b""},
        }
        seen = {name: await refused(world, node, request, **how) for name, how in wrong.items()}
        assert {error.code for error in seen.values()} == {Code.NOT_FOUND}
        assert len({str(error) for error in seen.values()}) == 1
        assert len(await resume(world, node, request, 1, at=at, signature=true)) > 1


async def test_the_tenant_itself_is_told_what_is_wrong(world):
    async with world.node(name="told") as node:
        request = make_request(world, node, max_tokens=2)
        await ask(world, node, request.order, request.envelope)
        for minutes in (-6, 6):
            at = now_ms() + minutes * 60_000
            signature = sign_resumption(entry_of(request.order), 0, at, world.tenant_key)
            error = await refused(world, node, request, at=at, signature=signature)
            assert error.code is Code.EXPIRED
        assert (await refused(world, node, request, 3)).code is Code.CONFLICT
        for _ in range(int(resuming.BURST) - 1):
            await resume(world, node, request)
        error = await refused(world, node, request)
        assert (error.code, error.retry_after_s > 0) == (Code.QUOTA, True)


async def test_what_is_no_longer_kept_is_not_found_and_what_nobody_accepted_never_was(world):
    async with world.node(name="purged") as node:
        request, never = make_request(world, node), make_request(world, node, tenant="nobody")
        await ask(world, node, request.order, request.envelope)
        await until(lambda: node.spool.counts().delivered == 1)
        with pytest.raises(CounterfoilError):
            await ask(world, node, never.order, never.envelope)
        await node.store.purge_evidence(before_ms=now_ms() + 1000, max_bytes=2**30)
        for gone in (request, never):
            assert (await refused(world, node, gone)).code is Code.NOT_FOUND


async def test_a_third_reader_ends_the_oldest_and_the_first_call_is_none_of_them(world):
    engine = FakeEngine(holds_after=1)
    async with world.node(engine, name="readers") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        asked = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: engine.generations)
        readers = []
        async with contextlib.AsyncExitStack() as open_channels:
            for _ in range(3):
                channel = await open_channels.enter_async_context(
                    secure_aio_channel(node.address, world.ca.ca_file)
                )
                at = now_ms()
                order = entry_of(request.order)
                message = execution_pb2.ResumeRequest(
                    order=order, at=at, signature=sign_resumption(order, 0, at, world.tenant_key)
                )
                call = execution_pb2_grpc.InferenceStub(channel).Resume(message, timeout=20)
                readers.append(aiter(call))
                assert (await anext(readers[-1])).WhichOneof("event") == "accepted"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [_ async for _ in readers[0]]
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            engine.generations[0].release()
            for reader in readers[1:]:
                *_, last = [message async for message in reader]
                assert last.WhichOneof("event") == "final_record"
        assert (await asked)[-1].WhichOneof("event") == "final_record"


async def test_reading_prolongs_nothing_and_a_cancellation_ends_what_is_resumed(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine, name="ending") as node:
        late = make_request(world, node, max_tokens=40, order_changes={"max_ms": 500})
        async with begun(world, node, late, events=1) as (_, call):
            call.cancel()
        assert (await resume(world, node, late))[-1].WhichOneof("event") == "final_record"
        receipt, _ = await receipt_of(world, late)
        assert (receipt.finish, receipt.usage.output) == (Finish.DEADLINE, 2)

        request = make_request(world, node, max_tokens=TOKENS)
        async with begun(world, node, request, events=2) as (_, call):
            call.cancel()
        reading = asyncio.create_task(resume(world, node, request, 1))
        await asyncio.sleep(0.05)
        order = entry_of(request.order)
        await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
        assert (await reading)[-1].WhichOneof("event") == "final_record"
        receipt, _ = await receipt_of(world, request)
        assert receipt.finish is Finish.CANCELLED
