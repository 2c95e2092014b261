"""How an answer ends: by its rules, its tenant's signature or its order's deadline, and by nothing else (protocol §4.7)."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from execution_layer.node import recovery, start
from execution_layer.node.intake import Intake
from execution_layer.node.recovery import finish_interrupted
from execution_layer.node.session import open_session
from execution_layer.node.start import Start
from execution_layer.node.tape import NEWEST
from shared.envelope.stream import StreamContext, stream_hash
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.runtime.keys import load_or_create_ed25519, public_bytes
from shared.statements.cancellations import sign_cancellation, verify_cancellation
from shared.statements.cose import entry_of, open_as
from shared.statements.receipts import Finish, Receipt
from shared.verification.receipt_claims import implausible, unfounded_end
from tests.execution_layer.asking import ask, cancel, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@contextlib.asynccontextmanager
async def begun(world, node, request, *, timeout=30.0, events=1):
    """Start a call, read its first events, and yield (channel, call); the channel is closed on the way out."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        call = execution_pb2_grpc.InferenceStub(channel).Generate(
            execution_pb2.GenerateRequest(order=request.order, envelope=request.envelope),
            timeout=timeout,
        )
        answers = aiter(call)
        for _ in range(events):
            await anext(answers)
        yield channel, call


async def receipt_of(world, request):
    """Wait until the audit server has the receipt that answers a request; return (receipt, entry)."""
    wanted = entry_of(request.order)

    def found():
        return next((r for r in world.audit.receipts() if r.payload["order"] == wanted), None)

    async with world.audit.changed:
        await asyncio.wait_for(world.audit.changed.wait_for(found), 20)
    receipt = Receipt.from_payload(found().payload)
    assert unfounded_end(request.value, receipt) is None
    assert implausible(request.value, receipt) is None
    return receipt, found().entry


@pytest.fixture
def opened(monkeypatch):
    """A list that gets every session."""
    sessions = []

    async def noted(*what):
        sessions.append(await open_session(*what))
        return sessions[-1]

    monkeypatch.setattr("execution_layer.node.intake.open_session", noted)
    return sessions


@dataclass
class Gate:
    """Holds one of a store's writes."""

    true: object
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, *what, **how):
        self.reached.set()
        await self.released.wait()
        return await self.true(*what, **how)


async def refused(world, node, order, signature):
    with pytest.raises(CounterfoilError) as caught:
        await cancel(world, node, order, signature)
    return caught.value


@pytest.mark.parametrize("how", ["cancelled", "closed", "late"])
async def test_a_broken_call_changes_nothing(world, opened, how):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine, name=f"broken-{how}") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        timeout = 1.0 if how == "late" else 30.0
        async with begun(world, node, request, timeout=timeout) as (channel, call):
            if how == "cancelled":
                call.cancel()
            elif how == "closed":
                await channel.close()
        assert engine.generations[0].cancelled_for is None
        engine.generations[0].release()
        receipt, entry = await receipt_of(world, request)
        assert (receipt.finish, receipt.cancel) == (Finish.LENGTH, None)
        assert receipt.usage.output == TOKENS
        assert receipt.evidence is not None
        stored = node.store.evidence_of(entry)
        assert stored.final_record
        order = request.value
        context = StreamContext(order.ctx, order.kc, order.bundle, receipt.node_nonce, 0)
        assert stream_hash(context, stored.frames) == receipt.h_final
        await until(lambda: not node.load.in_flight)
        assert len(opened[0].tape._newest) <= NEWEST  # all else is read from the store again


async def test_a_caller_that_is_gone_before_the_acceptance_is_answered_all_the_same(
    world, monkeypatch, opened
):
    async with world.node(name="early") as node:
        gate = Gate(node.store.accept)
        monkeypatch.setattr(node.store, "accept", gate)
        request = make_request(world, node, max_tokens=TOKENS)
        async with begun(world, node, request, events=0):
            await gate.reached.wait()
        gate.released.set()
        receipt, _ = await receipt_of(world, request)
        assert (receipt.finish, receipt.usage.output) == (Finish.LENGTH, TOKENS)
        assert opened[0].tape._ended


async def test_only_the_orders_deadline_ends_an_answer_and_its_receipt_still_arrives(world):
    async with world.node(FakeEngine(holds_after=2), name="deadline") as node:
        request = make_request(world, node, max_tokens=40, order_changes={"max_ms": 300})
        messages = await ask(world, node, request.order, request.envelope)
        assert messages[-1].WhichOneof("event") == "final_record"
        receipt, _ = await receipt_of(world, request)
        assert (receipt.finish, receipt.usage.output) == (Finish.DEADLINE, 2)
        assert receipt.ended - receipt.started >= 300


async def test_an_order_without_a_deadline_sets_the_engine_none(world):
    engine = FakeEngine()
    async with world.node(engine, name="endless") as node:
        before = time.monotonic()
        for changes in ({}, {"max_ms": 60_000}):
            request = make_request(world, node, order_changes=changes)
            await ask(world, node, request.order, request.envelope)
        without, bounded = (generation.request.deadline for generation in engine.generations)
        assert without is None
        assert before + 60 <= bounded <= time.monotonic() + 60


async def test_a_signed_cancellation_ends_the_answer_and_is_in_the_receipt(world, monkeypatch):
    async with world.node(FakeEngine(holds_after=3), name="signed") as node:
        gate = Gate(node.store.finish)
        monkeypatch.setattr(node.store, "finish", gate)
        request = make_request(world, node, max_tokens=TOKENS)
        order = entry_of(request.order)
        signature = sign_cancellation(order, world.tenant_key)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: node._model.engine.generations)
        await cancel(world, node, order, signature)
        await gate.reached.wait()
        await cancel(world, node, order, signature)  # again: nothing changes
        gate.released.set()
        messages = await running
        assert messages[-1].WhichOneof("event") == "final_record"
        receipt, _ = await receipt_of(world, request)
        assert (receipt.finish, receipt.cancel) == (Finish.CANCELLED, signature)
        assert receipt.evidence is not None
        verify_cancellation(receipt.order, receipt.cancel, public_bytes(world.tenant_key))
        assert (await refused(world, node, order, signature)).code is Code.NOT_FOUND


async def test_nobody_else_cancels_an_order(world, tmp_path):
    async with world.node(FakeEngine(holds_after=1), name="wrong") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        other = make_request(world, node, max_tokens=TOKENS)
        order = entry_of(request.order)
        true = sign_cancellation(order, world.tenant_key)
        stranger = load_or_create_ed25519(tmp_path / "stranger.pem")
        wrong = {
            "foreign": sign_cancellation(order, stranger),
            "the node's": sign_cancellation(order, node.ring.signing_key),
            "replayed": sign_cancellation(entry_of(other.order), world.tenant_key),
            "the order's": request.order[-64:],
            "spoilt": bytes([true[0] ^ 1]) + true[1:],
            "short": true[:-1],
            "long": true + b"\0",
            "none": b"",
        }
        async with begun(world, node, request, events=2):
            for name, signature in wrong.items():
                error = await refused(world, node, order, signature)
                assert error.code is Code.BAD_SIGNATURE, name
            for unknown in (entry_of(other.order), b"", order[:-1], order + b"\0"):
                error = await refused(world, node, unknown, true)
                assert error.code is Code.NOT_FOUND
            node._model.engine.generations[0].release()
            receipt, _ = await receipt_of(world, request)
        assert (receipt.finish, receipt.cancel) == (Finish.LENGTH, None)


async def test_an_order_is_cancelled_with_the_key_that_signed_it_though_the_tenant_has_another_now(
    world, tmp_path, monkeypatch
):
    async with world.node(FakeEngine(holds_after=1), name="rekeyed") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        order = entry_of(request.order)
        async with begun(world, node, request, events=2):
            new = load_or_create_ed25519(tmp_path / "new.pem")
            monkeypatch.setattr(node._tenants, "_keys", {"acme": public_bytes(new)}, raising=True)
            error = await refused(world, node, order, sign_cancellation(order, new))
            assert error.code is Code.BAD_SIGNATURE
            await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
            receipt, _ = await receipt_of(world, request)
        assert receipt.finish is Finish.CANCELLED


async def test_a_request_that_is_being_accepted_can_be_cancelled(world, monkeypatch):
    engine = FakeEngine(holds_after=0)
    async with world.node(engine, name="opening") as node:
        gate = Gate(node.store.accept)
        monkeypatch.setattr(node.store, "accept", gate)
        request = make_request(world, node, max_tokens=TOKENS)
        order = entry_of(request.order)
        signature = sign_cancellation(order, world.tenant_key)
        async with begun(world, node, request, events=0):
            await gate.reached.wait()
        told = asyncio.create_task(cancel(world, node, order, signature))
        await asyncio.sleep(0.05)
        assert not told.done()
        gate.released.set()
        await told
        receipt, _ = await receipt_of(world, request)
        assert (receipt.finish, receipt.usage.output) == (Finish.CANCELLED, 0)
        assert receipt.cancel == signature


async def test_a_request_that_is_refused_while_it_is_opened_was_never_in_flight(world, monkeypatch):
    async with world.node(name="refusing") as node:
        gate = Gate(_replayed)
        monkeypatch.setattr(node.store, "accept", gate)
        request = make_request(world, node)
        order = entry_of(request.order)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await gate.reached.wait()
        signature = sign_cancellation(order, world.tenant_key)
        told = asyncio.create_task(refused(world, node, order, signature))
        await asyncio.sleep(0.05)
        gate.released.set()
        assert (await told).code is Code.NOT_FOUND
        with pytest.raises(CounterfoilError, match="used before"):
            await running
        assert node.load.in_flight == 0


async def test_of_two_calls_with_one_order_the_accepted_one_can_be_cancelled(world):
    engine = FakeEngine(holds_after=1)
    async with world.node(engine, name="twice") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        order = entry_of(request.order)
        calls = [
            asyncio.create_task(ask(world, node, request.order, request.envelope)) for _ in range(4)
        ]
        await until(lambda: sum(call.done() for call in calls) == 3)
        await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
        receipt, _ = await receipt_of(world, request)
        assert receipt.finish is Finish.CANCELLED
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, list) for result in results) == 1


async def test_a_cancellation_that_races_with_the_end_never_makes_a_false_receipt(
    world, monkeypatch
):
    """Whoever wins: `cancelled` comes with the signature and without the last token, `length` without it and whole."""
    intakes = []

    class Noted(Intake):
        def __init__(self, **facts):
            super().__init__(**facts)
            intakes.append(self)

    monkeypatch.setattr("execution_layer.node.node.Intake", Noted)
    engine = FakeEngine(pause_s=0.002)
    async with world.node(engine, name="racing") as node:
        for place in range(24):
            request = make_request(world, node, max_tokens=TOKENS)
            order = entry_of(request.order)
            running = asyncio.create_task(ask(world, node, request.order, request.envelope))
            await until(lambda count=place: len(engine.generations) > count)
            await asyncio.sleep(0.001 * place)
            with contextlib.suppress(CounterfoilError):
                await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
            await running
            receipt, _ = await receipt_of(world, request)
            if receipt.finish is Finish.CANCELLED:
                assert receipt.cancel is not None
                assert receipt.usage.output < TOKENS
            else:
                assert (receipt.finish, receipt.cancel) == (Finish.LENGTH, None)
                assert receipt.usage.output == TOKENS
        await until(lambda: not node.load.in_flight)
        assert intakes[0]._by_order == {}  # nothing is remembered of what has ended


async def test_a_stop_after_the_tenants_cancellation_still_writes_that(world):
    engine = FakeEngine(holds_after=1)
    async with world.node(engine, name="stopped", grace_s=0) as node:
        request = make_request(world, node, max_tokens=40)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: node.load.in_flight)
        order = entry_of(request.order)
        await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
    await running
    receipt, _ = await receipt_of(world, request)
    assert receipt.finish is Finish.CANCELLED


async def test_a_wall_clock_that_is_set_does_not_move_the_end(world, monkeypatch):
    async with world.node(FakeEngine(pause_s=0.01), name="clock") as node:
        request = make_request(world, node, max_tokens=TOKENS)
        moment = request.value.created + 1000
        monkeypatch.setattr(start, "now_ms", lambda: moment)
        before = time.monotonic()
        await ask(world, node, request.order, request.envelope)
        took_ms = 1000 * (time.monotonic() - before)
        receipt, _ = await receipt_of(world, request)
        assert receipt.started == moment  # and from there the clock that nobody sets
        assert 50 <= receipt.ended - receipt.started <= took_ms


async def test_an_end_is_never_before_its_start():
    assert Start(5_000, time.monotonic()).ended() >= 5_000
    assert Start(5_000, time.monotonic() - 2).ended() >= 7_000


async def test_after_a_crash_the_wall_clock_counts_but_never_back_behind_the_start(
    world, monkeypatch
):
    async with world.node(name="crashed") as node:
        request = make_request(world, node)
        monkeypatch.setattr(node.store, "finish", _never)
        with pytest.raises(CounterfoilError):
            await ask(world, node, request.order, request.envelope)
        monkeypatch.undo()
        (record,) = node.store.unfinished()
        monkeypatch.setattr(recovery, "now_ms", lambda: record.accepted.started - 9)
        assert await finish_interrupted(node.store, node._signer) == 1
        query = "SELECT statement FROM receipts ORDER BY sequence DESC LIMIT 1"
        row = node.store.journal.read(lambda db: db.execute(query).fetchone())
        receipt, _ = open_as(Receipt, row["statement"], None)
        assert (receipt.finish, receipt.ended) == (Finish.FAILED, receipt.started)
        assert implausible(request.value, receipt) is None


async def _replayed(*_what, **_how):
    raise CounterfoilError(Code.REPLAYED, "it was used before")


async def _never(*_what, **_how):
    raise OSError("the disk is gone")
