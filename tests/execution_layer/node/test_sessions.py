"""From acceptance to receipt, even for requests that failed."""

import asyncio
from dataclasses import replace
from hashlib import sha256

import pytest
import pytest_asyncio

from execution_layer.node.recovery import MOST_INTERRUPTIONS
from execution_layer.node.session import open_session
from shared.envelope.blinded import blinded_fields
from shared.envelope.evidence import open_evidence
from shared.envelope.stream import FrameOpener, StreamContext, stream_hash
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.statements.cose import entry_of, open_as
from shared.statements.receipts import NO_RECEIPT, Finish, Receipt
from shared.statements.request import RequestBody, SamplingSettings
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.fakes import EOS, FakeEngine
from tests.execution_layer.waiting import until
from tests.execution_layer.world import PROFILE_ID, small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


def context_of(node, request, nonce):
    value = request.value
    return StreamContext(value.ctx, value.kc, value.bundle, nonce, value.attempt)


def opened(node, request, messages):
    """Open an answer as the client would: (frames, final record, receipt, entry)."""
    nonce = messages[0].accepted.node_nonce
    opener = FrameOpener(request.sealed.keys, context_of(node, request, nonce))
    frames = [opener.open(message.frame.ciphertext) for message in messages[1:-1]]
    final = opener.open_final(messages[-1].final_record.ciphertext)
    receipt, statement = open_as(Receipt, final.receipt, node.ring.current().bundle.signing_key)
    assert receipt.h_final == opener.h_final
    return frames, final, receipt, statement.entry


async def receipt_of(world, request, timeout_s=10.0):
    """Wait until the audit server has the receipt that answers a request; return it."""
    wanted = entry_of(request.order)

    def found():
        receipts = (item.payload for item in world.audit.receipts())
        return next((Receipt.from_payload(p) for p in receipts if p["order"] == wanted), None)

    async with world.audit.changed:
        await asyncio.wait_for(world.audit.changed.wait_for(found), timeout_s)
    return found()


async def test_frames_final_record_and_receipt_speak_of_the_same_answer(world):
    async with world.node(name="a") as node:
        request = make_request(world, node, max_tokens=40)
        messages = await ask(world, node, request.order, request.envelope)
        frames, final, receipt, _ = opened(node, request, messages)
        tokens = tuple(token for frame in frames for token in frame.tokens)
        assert final.tokens == tokens
        assert len(tokens) == 40
        assert final.text == "".join(frame.text for frame in frames)
        assert receipt.finish is Finish.LENGTH
        assert receipt.usage.input == len("hello")
        assert receipt.usage.output == 40
        assert receipt.usage.energy_mj is None  # unmeasured is not zero
        assert receipt.numeric_profile == PROFILE_ID
        assert receipt.evidence == sha256(final.evidence).digest()
        keys, context = request.sealed.keys, context_of(node, request, receipt.node_nonce)
        evidence = open_evidence(final.evidence, keys, context)
        blinded = blinded_fields(
            keys,
            body=request.body,
            seed=keys.sampling_seed,
            input_tokens=tuple(b"hello"),
            output_tokens=tokens,
            prompt_blocks=evidence.prompt_blocks,
            output_blocks=evidence.output_blocks,
        )
        assert (blinded.settings, blinded.input, blinded.output, blinded.activation_root) == (
            receipt.settings,
            receipt.input,
            receipt.output,
            receipt.activation_root,
        )
        assert await receipt_of(world, request) == receipt


async def test_an_answer_that_goes_on_has_only_the_rest_and_a_receipt_for_prefix_and_rest(world):
    whole = RequestBody(SamplingSettings(20), prompt="hello", seed=bytes(32))
    async with world.node(name="a") as node:
        request = make_request(world, node, body=whole)
        frames, *_ = opened(node, request, await ask(world, node, request.order, request.envelope))
        tokens = tuple(token for frame in frames for token in frame.tokens)
        rest = replace(whole, settings=SamplingSettings(12), prefix=tokens[:8])
        request = make_request(world, node, body=rest, attempt=1)
        messages = await ask(world, node, request.order, request.envelope)
        _, final, receipt, _ = opened(node, request, messages)
        assert final.tokens == tokens[8:]
        assert (receipt.usage.input, receipt.usage.output) == (len("hello") + 8, 12)
        evidence = open_evidence(
            final.evidence, request.sealed.keys, context_of(node, request, receipt.node_nonce)
        )
        assert evidence.input_tokens == (*b"hello", *tokens[:8])
        blinded = blinded_fields(
            request.sealed.keys,
            body=rest,
            seed=bytes(32),
            input_tokens=evidence.input_tokens,
            output_tokens=tokens[8:],
            prompt_blocks=(),
            output_blocks=(),
        )
        assert (blinded.settings, blinded.input) == (receipt.settings, receipt.input)


async def test_tokens_within_the_frame_interval_share_a_frame_and_the_first_comes_at_once(world):
    async with world.node(FakeEngine(pause_s=0.002), name="b", frame_interval_ms=50) as node:
        request = make_request(world, node, max_tokens=60)
        messages = await ask(world, node, request.order, request.envelope)
        frames, *_ = opened(node, request, messages)
        assert len(frames[0].tokens) == 1
        assert len(frames) <= 12


async def test_a_stop_token_ends_the_answer(world):
    async with world.node(FakeEngine(stops_after=3), name="c") as node:
        request = make_request(world, node, max_tokens=40)
        messages = await ask(world, node, request.order, request.envelope)
        _, final, receipt, _ = opened(node, request, messages)
        assert receipt.finish is Finish.STOP
        assert final.tokens[-1] == EOS


async def test_receipts_are_numbered_without_gaps_and_chained(world):
    async with world.node(name="d") as node:
        requests = [make_request(world, node) for _ in range(32)]
        answers = await asyncio.gather(
            *(ask(world, node, request.order, request.envelope) for request in requests)
        )
        found = sorted(
            (
                opened(node, request, messages)[2:]
                for request, messages in zip(requests, answers, strict=True)
            ),
            key=lambda pair: pair[0].node_sequence,
        )
        assert [receipt.node_sequence for receipt, _ in found] == list(range(32))
        previous = [NO_RECEIPT, *(entry for _, entry in found)]
        assert [receipt.previous for receipt, _ in found] == previous[:-1]


async def test_an_engine_that_dies_leaves_a_receipt_for_what_was_delivered(world):
    async with world.node(FakeEngine(dies_after=2, pause_s=0.02), name="h") as node:
        request = make_request(world, node, max_tokens=40)
        messages = await ask(world, node, request.order, request.envelope)
        frames, final, receipt, _ = opened(node, request, messages)
        assert receipt.finish is Finish.FAILED
        assert receipt.usage.output == sum(len(frame.tokens) for frame in frames)
        assert final.evidence is None
        assert receipt.evidence is None
        assert receipt.activation_root is None
        assert receipt.input is not None


async def test_a_frame_that_cannot_be_stored_does_not_leave(world, monkeypatch):
    async with world.node(FakeEngine(pause_s=0.02), name="i") as node:
        stored = []
        append = node.store.append_frame

        async def failing(request, position, ciphertext, **facts):
            if position == 3:
                raise OSError("no space left on device")
            await append(request, position, ciphertext, **facts)
            stored.append(ciphertext)

        monkeypatch.setattr(node.store, "append_frame", failing)
        request = make_request(world, node, max_tokens=40)
        async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
            stub = execution_pb2_grpc.InferenceStub(channel)
            message = execution_pb2.GenerateRequest(order=request.order, envelope=request.envelope)
            call = stub.Generate(message, timeout=10)
            seen = [await call.read() for _ in range(3)]
            with pytest.raises(Exception, match="cut off"):
                await call.read()
        assert [answer.frame.ciphertext for answer in seen[1:]] == stored
        receipt = await receipt_of(world, request)
        assert receipt.finish is Finish.FAILED
        context = context_of(node, request, receipt.node_nonce)
        assert receipt.h_final == stream_hash(context, stored)


async def test_a_draining_node_finishes_what_it_has_and_takes_nothing_new(world):
    engine = FakeEngine(holds_after=1)
    async with world.node(engine, name="j") as node:
        request = make_request(world, node, max_tokens=2)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await engine.submitted.wait()
        drained = asyncio.create_task(node.drain())
        await asyncio.sleep(0)
        late = make_request(world, node)
        with pytest.raises(CounterfoilError) as caught:
            await ask(world, node, late.order, late.envelope)
        assert caught.value.code is Code.DRAINING
        assert not drained.done()
        engine.generations[0].release()
        await running
        await asyncio.wait_for(drained, 5)


async def test_stopping_waits_for_a_request_that_is_just_being_accepted(world, monkeypatch):
    closing = asyncio.Event()

    async def when_closing(*arguments):
        await closing.wait()
        return await open_session(*arguments)

    monkeypatch.setattr("execution_layer.node.intake.open_session", when_closing)
    async with world.node(FakeEngine(holds_after=1), name="l", grace_s=0.5) as node:
        request = make_request(world, node, max_tokens=40)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: node.load.in_flight)
        asyncio.get_running_loop().call_later(0.05, closing.set)
    await left_alone(running)
    await goes_on(world, "l", request)


async def test_stopping_leaves_what_is_under_way_to_the_next_process(world):
    async with world.node(FakeEngine(holds_after=1), name="k", grace_s=0.1) as node:
        request = make_request(world, node, max_tokens=40)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: node.load.in_flight)
    await left_alone(running)
    await goes_on(world, "k", request)


async def test_stops_are_not_counted_as_interruptions(world):
    async with world.node(FakeEngine(holds_after=1), name="m", grace_s=0) as node:
        request = make_request(world, node, max_tokens=40)
        running = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: node.load.in_flight)
    await left_alone(running)
    for _ in range(MOST_INTERRUPTIONS + 1):
        async with world.node(FakeEngine(holds_after=1), name="m", grace_s=0) as node:
            assert node.load.in_flight == 1
    await goes_on(world, "m", request)


async def left_alone(running):
    """Wait for the end of a call whose node stops: its client is told to resume."""
    with pytest.raises(CounterfoilError) as told:
        await running
    assert told.value.code is Code.DRAINING


async def goes_on(world, name, request):
    """Start the node again: it ends the answer as if nothing had happened, with one receipt."""
    async with world.node(FakeEngine(), name=name):
        receipt = await receipt_of(world, request)
    assert (receipt.finish, receipt.usage.output) == (Finish.LENGTH, 40)
