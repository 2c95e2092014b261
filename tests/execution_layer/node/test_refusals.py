"""Signed refusals (protocol §3.7): what a node signs, what it never signs, and that it keeps its word."""

from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.ground import FORGET_AFTER_MS
from execution_layer.node.refusing import AHEAD_MS, EXPIRED_MS, Refuser, Unfit
from execution_layer.node.schema import SCHEMA
from execution_layer.node.settings import Quotas
from execution_layer.node.store import NodeStore
from shared.codec.moment import now_ms
from shared.envelope.hpke import generate_hpke_key
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Journal
from shared.statements.cose import entry_of
from shared.statements.refusals import RefusalReason, open_refusal, refuse_order
from shared.statements.request import RequestBody, SamplingSettings
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import MAX_POSITIONS, small_world
from tests.full_disk import FullDisk
from tests.vectors.samples import ORDER, octets

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(world):
    async with world.node() as node:
        yield node


async def refused(world, node, request, envelope=None):
    """Send a request that must be refused; return the error with what was signed."""
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, request.order, request.envelope if envelope is None else envelope)
    return caught.value


def opened(node, request, error):
    bundle = node.ring.current().bundle
    return open_refusal(error.statement, bundle, request.value, entry_of(request.order))[0]


def in_the_past(now):
    return {"created": now - 120_000, "expiry": now - 60_000}


WAYS = {
    "expired": (RefusalReason.TIMES, lambda now: {"order_changes": in_the_past(now)}),
    "from the future": (
        RefusalReason.TIMES,
        lambda now: {"order_changes": {"created": now + 3_600_000, "expiry": now + 3_660_000}},
    ),
    "another envelope": (
        RefusalReason.ENVELOPE,
        lambda _: {"order_changes": {"envelope": bytes(32)}},
    ),
    "another rate card": (
        RefusalReason.TERMS,
        lambda _: {"order_changes": {"rate_card": bytes(32)}},
    ),
    "a budget above the node's": (RefusalReason.TERMS, lambda _: {"budget": 2**20}),
    "an unknown model": (RefusalReason.MODEL, lambda _: {"model_root": b"\x09" * 32}),
    "another key": (
        RefusalReason.UNREADABLE,
        lambda _: {"hpke_key": generate_hpke_key().public_bytes},
    ),
    "a long prompt": (RefusalReason.REQUEST, lambda _: {"prompt": "x" * (MAX_POSITIONS + 1)}),
    "more tokens than paid for": (
        RefusalReason.REQUEST,
        lambda _: {"order_changes": {"max_input_tokens": 1}},
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_wrong_with_an_order_is_signed_and_kept_and_said_again(world, node, way):
    reason, wrong = WAYS[way]
    request = make_request(world, node, **wrong(now_ms()))
    error = await refused(world, node, request)
    refusal = opened(node, request, error)
    assert refusal.reason is reason
    assert abs(refusal.at - now_ms()) < 60_000
    again = await refused(world, node, request)
    assert again.statement == error.statement
    assert (again.code, error.code) == (again.code, error.code)


async def test_an_order_that_was_refused_is_never_accepted(world, node):
    """With its right envelope, and after a restart, the answer is the refusal that was signed first."""
    request = make_request(world, node)
    error = await refused(world, node, request, request.envelope[:-1])
    assert opened(node, request, error).reason is RefusalReason.ENVELOPE
    again = await refused(world, node, request)
    assert (again.code, again.statement) == (Code.REPLAYED, error.statement)
    assert node.store.unfinished() == []


async def test_a_refusal_outlives_the_process(world):
    async with world.node(name="node-2") as node:
        request = make_request(world, node)
        error = await refused(world, node, request, request.envelope[:-1])
    async with world.node(name="node-2") as node:
        again = await refused(world, node, request)
    assert (again.code, again.statement) == (Code.REPLAYED, error.statement)


async def test_an_accepted_order_is_never_refused(world, node):
    """An order that was answered is in the log for many to see: sent again with junk, it gets the node to sign nothing."""
    request = make_request(world, node)
    await ask(world, node, request.order, request.envelope)
    for envelope in (request.envelope, b"junk"):
        error = await refused(world, node, request, envelope)
        assert error.statement is None
    assert node.store.refusal_of(entry_of(request.order)) is None


async def test_an_accepted_order_is_never_refused_when_its_memory_is_gone(world, node):
    """Long after it has expired only the row of the request is left, and that suffices."""
    request = make_request(world, node)
    await ask(world, node, request.order, request.envelope)
    await node.store.forget_expired(before_ms=request.value.expiry + 1)
    assert not node.store.was_seen(entry_of(request.order), request.value.ctx)
    refuser = Refuser(node.store, node._signer, node.ring, 10)
    assert (await refuser.signed(unfit(request), request.value.expiry)).statement is None


async def test_another_order_under_a_number_that_was_accepted_is_not_refused_with_a_signature(
    world, node
):
    """Two orders for one attempt are the tenant's doing; the number has its receipt."""
    request = make_request(world, node)
    await ask(world, node, request.order, request.envelope)
    second = make_request(world, node, number=request.value.number, order_changes={"kc": bytes(32)})
    error = await refused(world, node, second)
    assert (error.code, error.statement) == (Code.NO_ORDER, None)


async def test_who_is_not_known_gets_no_signature(world, node):
    stranger = Ed25519PrivateKey.generate()
    for wrong in ({"key": stranger}, {"tenant": "nobody", "key": stranger}):
        request = make_request(world, node, **wrong)
        assert (await refused(world, node, request, b"junk")).statement is None
    assert (await refused(world, node, replace(request, order=b""))).statement is None


async def test_an_order_to_another_node_gets_no_signature(world, node):
    request = make_request(world, node, bundle=bytes(32))
    error = await refused(world, node, request)
    assert (error.code, error.statement) == (Code.STALE_KEY, None)


async def test_a_node_without_room_signs_nothing_and_takes_the_order_later(world):
    engine = FakeEngine(holds_after=0)
    quotas = Quotas(max_output_tokens=256, in_flight_per_tenant=1)
    async with world.node(engine, name="node-3", quotas=quotas) as node:
        node.load.enter("acme")
        request = make_request(world, node)
        error = await refused(world, node, request)
        assert (error.code, error.statement) == (Code.QUOTA, None)
        node.load.leave("acme")
        engine.holds_after = None
        messages = await ask(world, node, request.order, request.envelope)
        assert messages[-1].WhichOneof("event") == "final_record"
        node.load.drain()
        error = await refused(world, node, make_request(world, node))
        assert (error.code, error.statement) == (Code.DRAINING, None)


async def test_a_full_disk_leaves_a_refusal_unsigned(world):
    async with world.node(name="node-4") as node:
        disk = FullDisk(node.store.journal)
        request = make_request(world, node)
        error = await refused(world, node, request, b"junk")
        assert (error.code, error.statement) == (Code.MALFORMED, None)
        disk.full = False
        await node.store.journal.probe()
        assert (await refused(world, node, request, b"junk")).statement is not None


async def test_a_tenant_cannot_fill_the_disk_with_refusals(world):
    quotas = Quotas(max_output_tokens=256, refusals_per_tenant=2)
    async with world.node(name="node-5", quotas=quotas) as node:
        requests = [make_request(world, node) for _ in range(3)]
        errors = [await refused(world, node, request, b"junk") for request in requests]
        assert [error.statement is not None for error in errors] == [True, True, False]
        again = await refused(world, node, requests[0], b"junk")
        assert again.statement == errors[0].statement
        await node.store.forget_expired(before_ms=max(r.value.expiry for r in requests) + 1)
        assert (await refused(world, node, requests[2], b"junk")).statement is not None


def unfit(request, reason=RefusalReason.TERMS):
    """Return the error of an order that a step refused."""
    error = CounterfoilError(Code.INVALID_ARGUMENT, "wrong")
    return Unfit(error, request.value, entry_of(request.order), reason)


@pytest.mark.parametrize(
    ("apart", "signs"),
    [
        (-EXPIRED_MS - 1, False),
        (-EXPIRED_MS, True),
        (AHEAD_MS, True),
        (AHEAD_MS + 1, False),
    ],
)
async def test_only_orders_that_can_be_remembered_are_refused_with_a_signature(
    world, node, apart, signs
):
    """`apart`: how long after now (ms) the order expires."""
    now = now_ms()
    request = make_request(world, node, order_changes={"created": 1, "expiry": now + apart})
    refuser = Refuser(node.store, node._signer, node.ring, 100)
    assert ((await refuser.signed(unfit(request), now)).statement is not None) is signs


async def test_a_clock_that_is_set_back_by_less_than_a_day_makes_no_second_refusal(world, node):
    """What an order's refusal was is remembered until no clock within a day of the truth would let one be signed."""
    now = now_ms()
    request = make_request(world, node, order_changes=in_the_past(now))
    refuser = Refuser(node.store, node._signer, node.ring, 100)
    first = await refuser.signed(unfit(request), now)
    assert first.statement is not None
    kept_until = max(request.value.expiry, now) + FORGET_AFTER_MS
    await node.store.forget_expired(before_ms=kept_until - FORGET_AFTER_MS)
    assert (await refuser.signed(unfit(request), now)).statement == first.statement
    assert kept_until > request.value.expiry + EXPIRED_MS + 22 * 3_600_000


async def test_settings_out_of_bounds_say_no_more_in_a_refusal_than_a_long_prompt(world, node):
    """What is wrong with a request that opened is one word, whatever it is: the log is read by others than the tenant."""
    long_prompt = make_request(world, node, prompt="x" * (MAX_POSITIONS + 1))
    no_room = make_request(
        world, node, body=RequestBody(SamplingSettings(250), prompt="x" * (MAX_POSITIONS - 1))
    )
    reasons = {
        opened(node, request, await refused(world, node, request)).reason
        for request in (long_prompt, no_room)
    }
    assert reasons == {RefusalReason.REQUEST}


async def test_a_database_of_the_version_before_is_opened(tmp_path):
    path = tmp_path / "node.sqlite"
    older = SCHEMA[: SCHEMA.index("CREATE TABLE refusals")].replace("    stage_orders BLOB,\n", "")
    Journal(path, schema=older.rstrip().rstrip(";"), version=4).close()
    store = NodeStore(path, bytes(32))
    key = Ed25519PrivateKey.generate()
    refusal = refuse_order_of(number=3)
    signed = await store.refuse(
        refusal, ReceiptSigner(key, "honest/node-1").refusal, until_ms=1, most=1
    )
    assert store.refusal_of(refusal.order) == signed
    store.close()


def refuse_order_of(*, number):
    """Return the refusal of some order."""
    order = replace(ORDER, number=number)
    return refuse_order(order, octets("order"), RefusalReason.MODEL, order.created)
