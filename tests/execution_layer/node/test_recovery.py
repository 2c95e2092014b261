"""A node that starts again goes on with what it had accepted, or says that it failed: never both, never neither."""

import asyncio
import sqlite3

import pytest
import pytest_asyncio

from execution_layer.node import recovery, start
from execution_layer.node.energy import CountedEnergy
from execution_layer.node.recovery import MOST_INTERRUPTIONS
from execution_layer.node.schema import SCHEMA, VERSION
from execution_layer.node.store import NodeStore
from shared.envelope.sealing import open_with_secret
from shared.envelope.shape import CLASSES, frame_class
from shared.envelope.stream import FrameOpener, StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of
from shared.statements.receipts import EnergyQuality, Finish, Receipt
from shared.statements.request import RequestBody, SamplingSettings, Slots
from tests.execution_layer.asking import ask, cancel, make_request, resume
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.node.test_ends import receipt_of
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS, SENT = 6, 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


async def never(*_what, **_how):
    raise OSError("killed")


async def interrupted(
    world, name, *, cached=0, energy=None, cancelled=False, body=None, sent=SENT, **changes
):
    """Let a node store two frames of a response and no receipt, as one that is killed; return the request."""
    engine = FakeEngine(holds_after=SENT, pause_s=0.02)
    engine.cached = cached
    async with world.node(engine, name=name, energy=energy, grace_s=0.05) as node:
        request = make_request(world, node, max_tokens=TOKENS, body=body, order_changes=changes)
        asked = asyncio.create_task(ask(world, node, request.order, request.envelope))
        await until(lambda: len(node.store.unfinished()) == 1)
        await until(lambda: len(node.store.unfinished()[0].frames) >= sent)
        node.store.finish = node.store.note_stop = never
        if cancelled:
            order = entry_of(request.order)
            await cancel(world, node, order, sign_cancellation(order, world.tenant_key))
    with pytest.raises(CounterfoilError):
        await asked
    return request


def opened(request, messages, shape=CLASSES):
    """Open a resumed response; return (frames, final record)."""
    value, nonce = request.value, messages[0].accepted.node_nonce
    context = StreamContext(value.ctx, value.kc, value.bundle, nonce, value.attempt)
    opener = FrameOpener(request.sealed.keys, context, shape)
    frames = [opener.open(message.frame.ciphertext) for message in messages[1:-1]]
    return frames, opener.open_final(messages[-1].final_record.ciphertext)


async def test_an_interrupted_answer_goes_on_to_the_end_it_would_have_had(world):
    meter = CountedEnergy(iter(range(0, 10**6, 1000)).__next__)
    request = await interrupted(world, "on", cached=3, energy=meter)
    later = CountedEnergy(iter(range(0, 10**6, 1000)).__next__)
    engine = FakeEngine()
    async with world.node(engine, name="on", energy=later) as node:
        frames, final = opened(request, await resume(world, node, request))
        receipt, _ = await receipt_of(world, request)
        usual = [FakeEngine().token(engine.generations[0].request, n) for n in range(TOKENS)]
        assert [token for frame in frames for token in frame.tokens] == usual
        assert final.text == "".join(f"w{token} " for token in usual)
        assert (receipt.finish, receipt.usage.output) == (Finish.LENGTH, TOKENS)
        assert receipt.usage.cached == 3  # as the first process found
        assert (receipt.usage.energy_quality, receipt.usage.energy_mj) == (
            EnergyQuality.UNMEASURED,
            None,
        )
        assert receipt.usage.compute_ms == 1
        assert Receipt.from_payload(world.audit.receipts()[-1].payload) == receipt
        assert node.load.in_flight == 0


async def test_an_answer_in_time_slots_goes_on_in_them(world):
    body = RequestBody(SamplingSettings(TOKENS), prompt="hello", slots=Slots(ms=20, size=256))
    request = await interrupted(world, "slots", body=body, cached=3, sent=4, max_ms=60_000)
    async with world.node(name="slots") as node:
        messages = await resume(world, node, request)
        shape = open_with_secret(request.envelope, request.sealed.ts).shape
        frames, final = opened(request, messages, shape)
        receipt, _ = await receipt_of(world, request)
    assert len({len(message.frame.ciphertext) for message in messages[1:-1]}) == 1
    assert len(frames) == frame_class(len(frames))
    assert tuple(token for frame in frames for token in frame.tokens) == final.tokens
    assert "".join(frame.text for frame in frames) == final.text
    assert (receipt.finish, receipt.usage.output) == (Finish.LENGTH, TOKENS)
    assert receipt.usage.cached == 3


async def failed(world, name, request, **start_with):
    """Start a node again; return the receipt that says failed, and the resumed response that holds it."""
    engine = FakeEngine()
    async with world.node(engine, name=name, **start_with) as node:
        frames, final = opened(request, await resume(world, node, request))
        receipt, _ = await receipt_of(world, request)
        assert engine.generations == []
    assert (receipt.finish, final.finish) == (Finish.FAILED, Finish.FAILED)
    assert receipt.usage.output == sum(len(frame.tokens) for frame in frames)
    return receipt


async def test_what_its_tenant_cancelled_does_not_go_on(world):
    request = await interrupted(world, "cancelled", cancelled=True)
    await failed(world, "cancelled", request)


@pytest.mark.parametrize("changes", [{"max_ms": 60_000}, {}])
async def test_what_is_past_its_deadline_or_else_its_expiry_does_not_go_on(
    world, monkeypatch, changes
):
    name = f"late-{len(changes)}"
    request = await interrupted(world, name, **changes)
    later = request.value.expiry + 60_000
    monkeypatch.setattr(recovery, "now_ms", lambda: later)
    monkeypatch.setattr(start, "now_ms", lambda: later)
    receipt = await failed(world, name, request)
    assert receipt.ended == later


async def test_a_deadline_counts_from_the_first_start(world):
    request = await interrupted(world, "deadline", max_ms=1_500)
    engine = FakeEngine(holds_after=SENT)
    async with world.node(engine, name="deadline"):
        receipt, _ = await receipt_of(world, request)
    assert (receipt.finish, receipt.usage.output) == (Finish.DEADLINE, SENT)
    assert 1_500 <= receipt.ended - receipt.started < 60_000


async def test_a_request_that_ends_every_process_is_given_up(world, monkeypatch):
    request = await interrupted(world, "fatal")
    for _ in range(MOST_INTERRUPTIONS):
        engine = FakeEngine(holds_after=SENT)
        async with world.node(engine, name="fatal", grace_s=0.05) as node:
            node.store.finish = node.store.note_stop = never
        assert len(engine.generations) == 1
    await failed(world, "fatal", request)


async def test_a_node_that_computes_something_else_now_does_not_go_on(world, monkeypatch):
    request = await interrupted(world, "other")
    monkeypatch.setattr("tests.execution_layer.world.PROFILE_ID", b"\x09" * 32)
    await failed(world, "other", request)


async def test_a_prompt_that_has_other_tokens_now_does_not_go_on(world, monkeypatch):
    request = await interrupted(world, "tokens")
    monkeypatch.setattr("tests.execution_layer.world.fake_tokenise", lambda _body: (1, 2))
    await failed(world, "tokens", request)


async def test_an_engine_that_cannot_go_on_leaves_a_receipt(world):
    request = await interrupted(world, "engine")
    engine = FakeEngine()

    def refuses(_request):
        raise CounterfoilError(Code.CORRUPT, "the tokens do not have the text that was shown")

    engine.submit = refuses
    async with world.node(engine, name="engine"):
        receipt, _ = await receipt_of(world, request)
    assert receipt.finish is Finish.FAILED


async def test_a_database_of_the_version_before_is_upgraded_and_its_requests_do_not_go_on(world):
    request = await interrupted(world, "older")
    path = world.folder / "older" / "node.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX requests_order")
        db.execute("DROP TABLE parts")
        db.execute("DROP TABLE refusals")
        for column in ("tenant_key", "cancel", "cached", "interruptions", "stage_orders"):
            db.execute(f"ALTER TABLE requests DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 3")
    db.close()
    async with world.node(name="older") as node:
        receipt, _ = await receipt_of(world, request)
        assert receipt.finish is Finish.FAILED
        with pytest.raises(CounterfoilError) as caught:
            await resume(world, node, request)
        assert caught.value.code is Code.NOT_FOUND
    columns = "SELECT name, type, \"notnull\" FROM pragma_table_info('requests') ORDER BY name"
    with sqlite3.connect(":memory:") as new, sqlite3.connect(path) as old:
        new.executescript(SCHEMA)
        assert old.execute(columns).fetchall() == new.execute(columns).fetchall()
        assert old.execute("PRAGMA user_version").fetchone() == (VERSION,)
    old.close(), new.close()


async def test_a_version_that_is_unknown_is_left_alone(world, tmp_path):
    path = tmp_path / "node.sqlite"
    NodeStore(path, bytes(32)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CounterfoilError) as caught:
        NodeStore(path, bytes(32))
    assert caught.value.code is Code.CONFIGURATION
