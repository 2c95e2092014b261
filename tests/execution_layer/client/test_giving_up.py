"""What a client that gives up owes and says: a signed cancellation if it can send one, the whole answer if it cannot."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from functools import partial

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_layer.client import cancelling
from execution_layer.client.archive import State
from execution_layer.client.attempt import _max_ms
from execution_layer.node import session
from execution_layer.node.intake import Intake
from execution_layer.node.service import InferenceService
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation, verify_cancellation
from shared.statements.cose import entry_of, open_as, read_as
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import MAX_WAIT_MS, Order
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Finish, Receipt
from shared.verification.rating import rated
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until

TOKENS = 6


async def answered(world, count=1):
    """Wait for the log's receipt; return it and its order, as an auditor reads them."""
    await world.audit.wait_for_receipts(count)
    item = world.audit.receipts()[-1]
    order, _ = open_as(Order, world.audit.orders[item.entry], public_bytes(world.tenant_key))
    return Receipt.from_payload(item.payload), order


def paid(world, receipt, order):
    """Return how many tokens of each kind the log's rating pays for, or the reason why it pays nothing."""
    card = read_as(RateCard, (world.folder / "honest" / "card.cose").read_bytes())
    lines, reason = rated(receipt, card, "honest", order)
    return reason or {line.kind.value: line.quantity for line in lines}


async def begun(client, **options):
    """Start a call and wait for its first word."""
    word = asyncio.Event()
    call = asyncio.create_task(
        client.generate(prompt="hello", max_tokens=TOKENS, on_text=lambda _: word.set(), **options)
    )
    await word.wait()
    return call


async def infer(world):
    """Start `counterfoil infer` as a process; return it once its first words are out."""
    world.policy()
    config = world.folder / "client" / "client.toml"
    arguments = ["infer", "--config", str(config), "--max-tokens", str(TOKENS), "hello"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.runtime", *arguments),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # as in a terminal: a shell's background jobs, this suite among them, may ignore interrupts
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    await asyncio.wait_for(process.stdout.readexactly(1), 60)
    return process


@given(st.floats(0, 1e9))
def test_an_order_leaves_a_twentieth_of_the_calls_time_for_its_receipt(timeout_s):
    longest = _max_ms(timeout_s)
    assert 1 <= longest <= MAX_WAIT_MS
    assert longest in {1, MAX_WAIT_MS} or 0 <= 950 * timeout_s - longest < 1.001


async def test_every_order_has_a_deadline_within_the_calls(world):
    async with world.node(), world.client() as client:
        await client.generate(prompt="hello", max_tokens=2, timeout_s=20)
        await client.generate(prompt="hello", max_tokens=2, timeout_s=10**9)
        last, first = (
            open_as(Order, item.order_statement, None)[0] for item in client.archive.latest(2)
        )
        assert 18_000 < first.max_ms <= 19_000
        assert last.max_ms == MAX_WAIT_MS


async def test_who_gives_up_signs_that_and_pays_for_what_was_delivered(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine), world.client() as client:
        call = await begun(client)
        await until(lambda: engine.generations[0].position == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        receipt, order = await answered(world)
        assert (receipt.finish, receipt.usage.output) == (Finish.CANCELLED, 2)
        verify_cancellation(receipt.order, receipt.cancel, public_bytes(world.tenant_key))
        assert paid(world, receipt, order) == {"input": receipt.usage.input, "output": 2}
        unsigned = replace(receipt, cancel=None)
        assert "did not sign" in paid(world, unsigned, order)


async def test_who_gives_up_before_the_acceptance_cancels_it_too(world, monkeypatch):
    async with world.node(FakeEngine(holds_after=0)) as node, world.client() as client:
        await client.nodes()
        reached, released, true = asyncio.Event(), asyncio.Event(), node.store.accept

        async def accept(*what, **how):
            reached.set()
            await released.wait()
            return await true(*what, **how)

        monkeypatch.setattr(node.store, "accept", accept)
        call = asyncio.create_task(client.generate(prompt="hello", max_tokens=TOKENS))
        await reached.wait()
        call.cancel()
        asyncio.get_running_loop().call_later(0.2, released.set)
        with pytest.raises(asyncio.CancelledError):
            await call
        receipt, order = await answered(world)
        assert (receipt.finish, receipt.usage.output) == (Finish.CANCELLED, 0)
        assert paid(world, receipt, order) == "nothing was delivered"


@pytest.mark.parametrize(("accepted", "heard"), [(False, True), (True, False)])
async def test_a_node_that_may_not_know_the_order_yet_is_told_again(
    world, monkeypatch, accepted, heard
):
    """After the acceptance, an order that is not in flight has ended: there is nobody to tell."""
    engine, told, true = FakeEngine(holds_after=0), [], Intake.cancel

    async def cancel(self, order, signature):
        told.append(order)
        if len(told) == 1:
            raise CounterfoilError(Code.NOT_FOUND, "no such order is in flight here")
        await true(self, order, signature)

    monkeypatch.setattr(Intake, "cancel", cancel)
    async with world.node(engine) as node, world.client() as client:
        request = make_request(world, node)
        order, running = entry_of(request.order), ask(world, node, request.order, request.envelope)
        answer = asyncio.create_task(running)
        await until(lambda: engine.generations)
        signature = sign_cancellation(order, world.tenant_key)
        channel = client._channel(node.address)
        await cancelling.cancel_order(channel, order, signature, accepted=accepted)
        assert len(told) == 1 + heard
        engine.generations[0].release()
        await answer
        receipt, _ = await answered(world)
        assert (receipt.finish is Finish.CANCELLED) is heard


async def test_an_application_that_fails_on_its_text_has_its_own_error_and_cancels(world):
    def fails(_text):
        raise ZeroDivisionError("the application's own")

    async with world.node(FakeEngine(holds_after=2)), world.client() as client:
        with pytest.raises(ZeroDivisionError, match="the application's own"):
            await client.generate(prompt="hello", max_tokens=TOKENS, on_text=fails)
        receipt, _ = await answered(world)
        assert receipt.finish is Finish.CANCELLED


@pytest.mark.parametrize("trouble", ["refuses", "hangs", "breaks"])
async def test_a_node_that_does_not_hear_of_it_hides_no_exception_and_holds_nobody_long(
    world, monkeypatch, caplog, trouble
):
    async def Cancel(_self, _request, _context):  # the method's wire name
        if trouble == "hangs":
            await asyncio.sleep(60)
        raise CounterfoilError(Code.OVERLOADED, "no")

    monkeypatch.setattr(InferenceService, "Cancel", Cancel)
    monkeypatch.setattr(cancelling, "BOUND_S", 0.5)
    if trouble == "breaks":
        monkeypatch.setattr(cancelling, "_send", None)
    engine = FakeEngine(holds_after=2)
    async with world.node(engine), world.client() as client:
        call = await begun(client)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await call
        (kept,) = client.archive.latest(1)
        assert (kept.state, kept.problem) == (State.BROKEN, "cancelled by the caller")
        assert [item.levelname for item in caplog.records if item.name == cancelling.__name__] in (
            ["WARNING"],
            ["ERROR"],
        )
        engine.generations[0].release()
        receipt, _ = await answered(world)
        assert receipt.finish is Finish.LENGTH  # nobody told the node otherwise


class DeafEngine(FakeEngine):
    """A double of an engine whose node forgets the order's deadline: it stalls until it is cancelled or released."""

    def submit(self, request):
        return super().submit(replace(request, deadline=None))


@pytest.fixture
def told(monkeypatch):
    """The orders for which the node was sent a cancellation."""
    orders, true = [], Intake.cancel

    async def cancel(self, order, signature):
        orders.append(order)
        await true(self, order, signature)

    monkeypatch.setattr(Intake, "cancel", cancel)
    return orders


async def gives_up(client, **options):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{"prompt": "hello", "max_tokens": TOKENS, **options})
    return caught.value


async def test_a_node_that_stalls_is_cancelled_when_the_calls_time_is_over(world, told):
    async with world.node(DeafEngine(holds_after=2)) as node, world.client() as client:
        await client.nodes()
        error = await gives_up(client, timeout_s=1.0)
        assert error.code is Code.DEADLINE
        assert "was not complete within" in error.detail
        (kept,) = client.archive.latest(5)
        assert kept.state is State.BROKEN
        receipt, order = await answered(world)
        assert (receipt.finish, receipt.usage.output) == (Finish.CANCELLED, 2)
        verify_cancellation(receipt.order, receipt.cancel, public_bytes(world.tenant_key))
        assert paid(world, receipt, order) == {"input": receipt.usage.input, "output": 2}
        assert told == [kept.order_entry]
        await until(lambda: not node.load.in_flight)


async def test_a_node_that_does_not_accept_in_time_is_cancelled_while_another_answers(
    world, told, monkeypatch
):
    async with (
        world.node(FakeEngine(holds_after=0)) as silent,
        world.node(name="node-2"),
        world.client(accept_timeout_s=1.0) as client,
    ):
        await client.nodes()
        released, true = asyncio.Event(), silent.store.accept

        async def accept(*what, **how):
            await released.wait()
            return await true(*what, **how)

        monkeypatch.setattr(silent.store, "accept", accept)
        answer = await client.generate(prompt="hello", max_tokens=TOKENS)
        assert (answer.node, answer.finish) == ("honest/node-2", Finish.LENGTH)
        await until(lambda: told)
        released.set()
        await world.audit.wait_for_receipts(2)
        found = {item.payload["attempt"]: item.payload for item in world.audit.receipts()}
        assert found[0]["finish"] == Finish.CANCELLED
        assert found[0]["usage"]["output"] == 0
        assert found[1]["finish"] == Finish.LENGTH
        assert told == [found[0]["order"]]


async def test_a_stream_that_cannot_be_believed_is_cancelled_where_reading_stops(world, told):
    engine = DeafEngine(holds_after=2)
    engine.logprobs = lambda *_: (TokenLogprobs(-5, (), ()),)  # nobody asked for them
    async with world.node(engine), world.client() as client:
        error = await gives_up(client)
        assert error.code is Code.MALFORMED
        receipt, _ = await answered(world)
        assert receipt.finish is Finish.CANCELLED
        assert told == [receipt.order]


async def ends_early(*_):
    """Call the time over before it is, as a node might to be sent a cancellation."""
    raise CounterfoilError(Code.DEADLINE, "too late")
    yield


async def refuses(*_):
    raise CounterfoilError(Code.OVERLOADED, "no")
    yield


@pytest.mark.parametrize("way", ["fails", "refuses", "ends early", "lies at the end"])
async def test_a_stream_that_the_node_ended_is_not_cancelled(world, told, monkeypatch, way):
    engine = FakeEngine(dies_after=2 if way == "fails" else None)
    if way == "lies at the end":
        true = session.draft_receipt
        monkeypatch.setattr(
            session, "draft_receipt", lambda *facts: replace(true(*facts), h_final=bytes(32))
        )
    elif way != "fails":
        ways = {"refuses": refuses, "ends early": ends_early}
        monkeypatch.setattr(InferenceService, "Generate", ways[way])
    async with world.node(engine), world.client(max_attempts=1) as client:
        await gives_up(client)
        assert not client._cancellations._under_way
    assert told == []


async def test_a_bare_status_of_the_node_is_not_the_clients_own_deadline(world, told, monkeypatch):
    async def generate(_self, _request, context):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        yield

    monkeypatch.setattr(InferenceService, "Generate", generate)
    async with world.node(), world.client(max_attempts=1) as client:
        error = await gives_up(client)
        assert error.code is Code.DEADLINE
        assert not client._cancellations._under_way
    assert told == []


async def test_nobody_waits_for_a_cancellation_in_the_background_and_closing_gives_it_up(
    world, monkeypatch
):
    reached, never = asyncio.Event(), asyncio.Event()

    async def Cancel(_self, _request, _context):  # the method's wire name
        reached.set()
        await never.wait()

    monkeypatch.setattr(InferenceService, "Cancel", Cancel)
    monkeypatch.setattr(cancelling, "BOUND_S", 0.2)
    engine = DeafEngine(holds_after=2)
    async with world.node(engine):
        async with world.client() as client:
            await gives_up(client, timeout_s=1.0)
            await reached.wait()
            assert client._cancellations._under_way  # the call is over, and this is not
        assert not client._cancellations._under_way
        never.set()
        engine.generations[0].release()
        receipt, _ = await answered(world)
        assert receipt.finish is Finish.LENGTH


async def test_closing_a_client_lets_its_last_cancellation_arrive(world, told):
    async with world.node(DeafEngine(holds_after=2)):
        async with world.client() as client:
            await gives_up(client, timeout_s=1.0)
        receipt, _ = await answered(world)
        assert receipt.finish is Finish.CANCELLED
        assert told == [receipt.order]


async def test_an_interrupted_command_cancels_its_request(world):
    async with world.node(FakeEngine(holds_after=2)):
        process = await infer(world)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 130, err
        assert b"Traceback" not in err
        receipt, order = await answered(world)
        assert (receipt.finish, receipt.usage.output) == (Finish.CANCELLED, 2)
        assert paid(world, receipt, order) == {"input": receipt.usage.input, "output": 2}


async def test_a_client_killed_by_9_has_ordered_the_whole_answer_and_pays_for_it(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine):
        process = await infer(world)
        process.kill()
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        engine.generations[0].release()
        receipt, order = await answered(world)
        assert (receipt.finish, receipt.cancel) == (Finish.LENGTH, None)
        assert receipt.evidence is not None
        assert paid(world, receipt, order) == {"input": receipt.usage.input, "output": TOKENS}
