"""A stage's parts: what is accepted and what is not, one receipt for each, and both over kill -9."""

import asyncio
import os
import pickle
import signal
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.node.parts import PATIENCE_MS
from execution_layer.node.settings import Quotas
from execution_layer.pipeline.parts import Counts
from shared.codec.moment import now_ms
from shared.envelope.header import Header
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.stages import BoundarySecret, ChainStage, seal_stages
from shared.envelope.stream import StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.keys import MAX_STAGES
from shared.statements.orders import Order, within_order
from shared.statements.receipts import NO_RECEIPT, Chain, EnergyQuality, Finish, Receipt, Usage
from shared.verification.receipt_claims import implausible, misplaced
from tests.execution_layer.node.parting import (
    CARD,
    COUNTS,
    HEAD,
    OTHER,
    PROFILE,
    ROOT,
    ROOTS,
    StageSide,
    computed,
    request_for,
    ring_of,
)
from tests.full_disk import FullDisk

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def side(tmp_path):
    side = await StageSide(tmp_path).restored()
    yield side
    side.store.close()


async def refused(awaitable):
    with pytest.raises(CounterfoilError) as caught:
        await awaitable
    return caught.value.code


async def refusal(side, offered, caller=HEAD):
    """Return why a stage does not accept, having checked that nothing is left of it."""
    code = await refused(side.parts.accept(offered, caller))
    (rows,) = side.store.journal.read(
        lambda db: db.execute(
            "SELECT (SELECT count(*) FROM requests) + (SELECT count(*) FROM seen)"
            " + (SELECT count(*) FROM refusals) + (SELECT count(*) FROM receipts)"
        ).fetchone()
    )
    assert rows == 0
    assert side.load.in_flight == 0
    return code


def read(side, statement):
    """Return a receipt, after the log's checks of what it claims."""
    bundle = side.ring.current().bundle
    receipt = open_as(Receipt, statement, bundle.signing_key)[0]
    orders = {entry_of(item.order): item.order for item in side.spool.pending(8)}
    order = open_as(Order, orders[receipt.order], None)[0]
    for problem in (
        misplaced(order, receipt, bundle),
        within_order(order, receipt.usage),
        implausible(order, receipt),
    ):
        assert problem is None
    return receipt


def expiry(request):
    return open_as(Order, request.offered.order, None)[0].expiry


async def test_an_accepted_part_has_the_secrets_of_its_two_boundaries(side):
    request = request_for(side)
    shown = await side.parts.accept(request.offered, HEAD)
    assert shown == side.ring.current().statement
    part = side.parts.find(request.order)
    assert (part.order, part.ctx, part.head) == (request.order, request.sealed.ctx, HEAD)
    assert part.before == BoundarySecret.derive(request.sealed.ts, 0)
    assert part.behind == BoundarySecret.derive(request.sealed.ts, 1)
    assert part.positions == 100 + 6
    assert side.heeded == [request.offered.order]
    assert side.load.in_flight == 1
    assert side.parts.find(b"\x00" * 32) is None


async def test_a_part_is_closed_with_one_receipt(side):
    request = request_for(side, number=3, attempt=1)
    await side.parts.accept(request.offered, HEAD)
    statement = await side.parts.close(request.order, COUNTS, HEAD, computed)
    receipt = read(side, statement)
    context = StreamContext(
        request.sealed.ctx,
        request.sealed.kc,
        side.ring.current().entry,
        receipt.node_nonce,
        1,
    )
    assert receipt == Receipt(
        order=request.order,
        bundle=side.ring.current().entry,
        ctx=request.sealed.ctx,
        kc=request.sealed.kc,
        envelope=request.sealed.envelope_hash,
        node_nonce=receipt.node_nonce,
        h_final=context.h_0,
        model_root=ROOT,
        numeric_profile=PROFILE,
        usage=Usage(12, 0, 5, EnergyQuality.UNMEASURED, compute_ms=7),
        finish=Finish.STOP,
        started=receipt.started,
        ended=receipt.ended,
        node_sequence=0,
        previous=NO_RECEIPT,
        rate_card=CARD,
        tenant="acme",
        number=3,
        attempt=1,
        chain=Chain(1, sent=ROOTS.sent, received=ROOTS.received),
    )
    (pending,) = side.spool.pending(8)
    assert (pending.statement, pending.order) == (statement, request.offered.order)
    assert (side.load.in_flight, side.woken) == (0, 1)
    metered = side.store.journal.read(lambda db: dict(db.execute("SELECT * FROM meter").fetchone()))
    assert (metered["input"], metered["output"], metered["requests"]) == (12, 5, 1)


async def test_again_is_answered_alike_and_nothing_is_done_twice(side):
    request = request_for(side)
    await asyncio.gather(*(side.parts.accept(request.offered, HEAD) for _ in range(3)))
    assert side.load.in_flight == 1

    first = await asyncio.gather(
        *(side.parts.close(request.order, COUNTS, HEAD, computed) for _ in range(3))
    )
    assert await side.parts.accept(request.offered, HEAD) == side.ring.current().statement
    assert side.load.in_flight == 0
    later = await side.parts.close(request.order, COUNTS, HEAD, computed)
    assert {*first, later} == {first[0]}
    assert side.spool.counts().signed == 1

    for counts in (Counts(12, 0, 6), Counts(12, 1, 5), Counts(13, 0, 5), Counts(0, 0, 0)):
        code = await refused(side.parts.close(request.order, counts, HEAD, computed))
        assert code is Code.CONFLICT


async def test_another_head_has_nothing_of_it(side):
    request = request_for(side)
    assert await refusal(side, request.offered, OTHER) is Code.FORBIDDEN
    await side.parts.accept(request.offered, HEAD)
    for again in (
        side.parts.accept(request.offered, OTHER),
        side.parts.close(request.order, COUNTS, OTHER, computed),
    ):
        assert await refused(again) is Code.FORBIDDEN
    own = ring_of(side.folder, OTHER).current().statement
    assert await refused(side.parts.accept(request.but(head_bundle=own), OTHER)) is Code.FORBIDDEN
    fresh = request_for(side, number=9)
    code = await refused(side.parts.accept(fresh.but(head_bundle=own), OTHER))
    assert code is Code.STALE_KEY


async def test_only_what_was_accepted_is_closed(side):
    request = request_for(side)
    code = await refused(side.parts.close(request.order, COUNTS, HEAD, computed))
    assert code is Code.NOT_FOUND


@pytest.mark.parametrize(
    "counts",
    [Counts(0, 0, 5), Counts(12, 13, 5), Counts(101, 0, 5), Counts(12, 0, 7), Counts(2**64, 0, 1)],
)
async def test_counts_beyond_the_order_are_not_signed(side, counts):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    code = await refused(side.parts.close(request.order, counts, HEAD, lambda *_: ROOTS))
    assert code is Code.INVALID_ARGUMENT
    assert side.parts.find(request.order) is not None
    assert side.spool.counts().signed == 0


async def test_what_was_not_computed_is_not_signed(side):
    def nothing(_part, positions):
        raise CounterfoilError(Code.CONFLICT, f"none of {positions} positions is here")

    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    code = await refused(side.parts.close(request.order, COUNTS, HEAD, nothing))
    assert code is Code.CONFLICT
    assert side.parts.find(request.order) is not None
    await side.parts.close(request.order, COUNTS, HEAD, computed)


async def test_an_order_that_is_not_the_tenants_is_not_accepted(side):
    stranger = Ed25519PrivateKey.generate()
    forged = request_for(side, key=stranger)
    assert await refusal(side, forged.offered) is Code.UNTRUSTED_KEY
    unknown = request_for(side, order_changes={"tenant": "nobody"})
    assert await refusal(side, unknown.offered) is Code.NO_ORDER
    assert await refusal(side, request_for(side).but(order=b"")) is Code.NO_ORDER
    assert await refusal(side, request_for(side, whole=True).offered) is Code.NO_ORDER


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expiry": lambda now: now - 1}, Code.EXPIRED),
        ({"created": lambda now: now + 10 * 60_000, "expiry": lambda now: now + 20 * 60_000}, Code.INVALID_ARGUMENT),
        ({"created": lambda now: now - 7 * 3_600_000}, Code.EXPIRED),
        ({"ctx": lambda _: bytes(32)}, Code.NO_ORDER),
        ({"kc": lambda _: bytes(32)}, Code.NO_ORDER),
        ({"max_output_tokens": lambda _: 7}, Code.NO_ORDER),
        ({"rate_card": lambda _: bytes(32)}, Code.INVALID_ARGUMENT),
        ({"bundle": lambda _: bytes(32)}, Code.STALE_KEY),
        ({"max_input_tokens": lambda _: None}, Code.MALFORMED),
    ],
)  # fmt: skip
async def test_an_order_with_other_terms_is_not_accepted(side, changes, code):
    values = {name: value(now_ms()) for name, value in changes.items()}
    request = request_for(side, order_changes=values)
    assert await refusal(side, request.offered) is code


async def test_an_envelope_that_is_not_the_orders_is_not_accepted(side):
    request, other = request_for(side), request_for(side, number=1)
    assert await refusal(side, request.but(header=other.offered.header)) is Code.NO_ORDER
    assert await refusal(side, request.but(kc=other.offered.kc)) is Code.NO_ORDER
    assert await refusal(side, request.but(header=b"")) is Code.MALFORMED
    assert await refusal(side, request.but(header=bytes(2**16 + 1))) is Code.MALFORMED
    assert await refusal(side, request_for(side, root=bytes(32)).offered) is Code.UNKNOWN_MODEL
    late = request_for(side, expires_in_ms=-1)
    assert await refusal(side, late.offered) is Code.EXPIRED
    long = request_for(side, budget=5000)
    assert await refusal(side, long.offered) is Code.INVALID_ARGUMENT


async def test_an_order_for_another_place_is_not_accepted(side):
    for place in (2, MAX_STAGES):
        assert await refusal(side, request_for(side, place=place).offered) is Code.STALE_KEY
    own = side.ring.current()
    chain = [
        ChainStage(os.urandom(32), generate_hpke_key().public_bytes),
        ChainStage(own.entry, own.bundle.hpke_key),
    ]
    assert await refusal(side, request_for(side, stages=chain).offered) is Code.STALE_KEY
    request = request_for(side, stages=chain, place=2)
    await side.parts.accept(request.offered, HEAD)
    assert side.parts.find(request.order).before == BoundarySecret.derive(request.sealed.ts, 1)


async def test_a_wrap_for_another_or_with_other_secrets_is_not_accepted(side):
    request, own = request_for(side), side.ring.current()
    for wrap in (b"", bytes(len(request.offered.wrap) + 1)):
        assert await refusal(side, request.but(wrap=wrap)) is Code.MALFORMED
    header = Header.from_cbor(request.offered.header, max_bytes=2**16)
    elsewhere = ChainStage(own.entry, generate_hpke_key().public_bytes)
    here = ChainStage(own.entry, own.bundle.hpke_key)
    for stage, ts, ctx in (
        (elsewhere, request.sealed.ts, header.ctx),
        (here, os.urandom(32), header.ctx),
        (here, request.sealed.ts, bytes(32)),
    ):
        (wrap,) = seal_stages(ts, [stage], ctx, request.sealed.kc)
        assert await refusal(side, request.but(wrap=wrap)) is Code.UNREADABLE
    await side.parts.accept(request.offered, HEAD)


async def test_a_head_that_does_not_show_the_candidates_key_bundle_is_refused(side):
    request = request_for(side)
    other = ring_of(side.folder, OTHER).current().statement
    for shown, code in (
        (b"", Code.STALE_KEY),
        (other, Code.STALE_KEY),
        (b"x" * 100, Code.MALFORMED),
        (bytes(65_537), Code.MALFORMED),
    ):
        assert await refusal(side, request.but(head_bundle=shown)) is code


async def test_a_number_and_an_envelope_are_accepted_once(side):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    same_number = request_for(side)
    order = replace(open_as(Order, request.offered.order, None)[0], number=1)
    same_envelope = request.but(order=sign(order, key=side.tenant_key, issuer="acme"))
    for offered in (same_number.offered, same_envelope):
        assert await refused(side.parts.accept(offered, HEAD)) is Code.REPLAYED
    assert side.load.in_flight == 1
    await side.parts.accept(request_for(side, attempt=1).offered, HEAD)


async def test_no_more_are_accepted_than_there_is_room_for(tmp_path):
    side = StageSide(tmp_path, quotas=Quotas(in_flight_per_tenant=1))
    first, second = request_for(side), request_for(side, number=1)
    await side.parts.accept(first.offered, HEAD)
    assert await refused(side.parts.accept(second.offered, HEAD)) is Code.QUOTA
    await side.parts.accept(first.offered, HEAD)
    await side.parts.close(first.order, COUNTS, HEAD, computed)
    await side.parts.accept(second.offered, HEAD)
    await side.parts.accept(request_for(side, head=OTHER, number=3).offered, OTHER)
    side.load.drain()
    assert (
        await refused(side.parts.accept(request_for(side, number=2).offered, HEAD)) is Code.DRAINING
    )
    await side.parts.close(second.order, COUNTS, HEAD, computed)
    await side.parts.let_go(now_ms() + 2 * PATIENCE_MS)
    await asyncio.wait_for(side.load.wait_idle(), 5)
    side.store.close()


async def test_what_is_given_up_gets_a_receipt_that_bills_nothing(side):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    statement = await side.parts.close(request.order, Counts(12, 0, 0), HEAD, computed)
    receipt = read(side, statement)
    assert (receipt.finish, receipt.chain) == (Finish.FAILED, None)
    assert receipt.usage == Usage(0, 0, 0, EnergyQuality.UNMEASURED)
    assert await side.parts.close(request.order, Counts(0, 0, 0), HEAD, computed) == statement
    assert await refused(side.parts.close(request.order, COUNTS, HEAD, computed)) is Code.CONFLICT
    assert side.store.journal.read(lambda db: db.execute("SELECT 1 FROM meter").fetchone()) is None
    assert side.load.in_flight == 0


async def test_what_nobody_closes_fails_an_hour_after_the_order_has_expired(side):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    await side.parts.let_go(expiry(request) + PATIENCE_MS - 1)
    assert side.parts.find(request.order) is not None
    assert side.spool.counts().signed == 0
    await side.parts.let_go(expiry(request) + PATIENCE_MS)
    assert side.parts.find(request.order) is None
    (pending,) = side.spool.pending(8)
    assert read(side, pending.statement).finish is Finish.FAILED


async def test_a_part_and_its_secrets_survive_a_restart_and_the_secrets_are_sealed(side):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    before = side.parts.find(request.order)
    side = await side.again()
    assert side.parts.find(request.order) == before
    assert side.load.in_flight == 1
    for secret in (before.before.secret, before.behind.secret):
        for path in side.folder.glob("node.sqlite*"):
            assert secret not in path.read_bytes()
    await side.parts.accept(request.offered, HEAD)
    assert side.store.unfinished() == []
    side.store.close()


async def test_a_part_can_be_computed_again_until_its_time_is_over_and_then_its_secrets_are_gone(
    side,
):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    before = side.parts.find(request.order)
    statement = await side.parts.close(request.order, COUNTS, HEAD, computed)
    side = await side.again()
    assert side.parts.find(request.order) == before
    assert side.load.in_flight == 0
    await side.parts.let_go(expiry(request) + PATIENCE_MS)
    assert side.parts.find(request.order) is None
    stored = side.store.journal.read(lambda db: db.execute("SELECT * FROM requests").fetchone())
    assert stored["secret"] is None
    side = await side.again()
    assert side.parts.find(request.order) is None
    assert await side.parts.close(request.order, COUNTS, HEAD, computed) == statement
    assert side.spool.counts().signed == 1
    side.store.close()


async def test_receipts_are_numbered_and_chained_over_restarts(side):
    statements = []
    for number in range(4):
        request = request_for(side, number=number)
        await side.parts.accept(request.offered, HEAD)
        if number % 2:
            side = await side.again()
        statements.append(await side.parts.close(request.order, COUNTS, HEAD, computed))
    receipts = [read(side, statement) for statement in statements]
    assert [receipt.node_sequence for receipt in receipts] == [0, 1, 2, 3]
    entries = [NO_RECEIPT, *map(entry_of, statements)]
    assert [receipt.previous for receipt in receipts] == entries[:-1]
    side.store.close()


async def test_a_part_fails_whose_layers_are_not_promised_any_more(side):
    request = request_for(side)
    await side.parts.accept(request.offered, HEAD)
    side.ring.end(side.ring.current().entry)
    side = await side.again()
    assert side.load.in_flight == 0
    (pending,) = side.spool.pending(8)
    assert read(side, pending.statement).finish is Finish.FAILED
    side.store.close()


async def test_on_a_full_disk_nothing_is_accepted_and_what_was_is_closed_later(side):
    request, other = request_for(side), request_for(side, number=1)
    await side.parts.accept(request.offered, HEAD)
    disk = FullDisk(side.store.journal)
    for refusing in (
        side.parts.accept(other.offered, HEAD),
        side.parts.close(request.order, COUNTS, HEAD, computed),
        side.parts.accept(other.offered, HEAD),
    ):
        with pytest.raises(CounterfoilError, match="the disk is full") as caught:
            await refusing
        assert caught.value.code is Code.UNAVAILABLE
        assert str(side.folder) not in str(caught.value)
    await side.parts.let_go(now_ms() + 2 * PATIENCE_MS)
    assert side.load.in_flight == 1
    disk.full = False
    await side.store.journal.probe()
    await side.parts.close(request.order, COUNTS, HEAD, computed)
    await side.parts.accept(other.offered, HEAD)
    assert (side.load.in_flight, side.spool.counts().signed) == (1, 1)


async def test_a_caller_that_goes_leaves_nothing_half_done(side):
    request = request_for(side)
    accepting = asyncio.create_task(side.parts.accept(request.offered, HEAD))
    await asyncio.sleep(0)
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)
    await side.parts.settle()
    assert side.parts.find(request.order) is not None or side.load.in_flight == 0
    await side.parts.accept(request.offered, HEAD)
    closing = asyncio.create_task(side.parts.close(request.order, COUNTS, HEAD, computed))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await side.parts.settle()
    await side.parts.close(request.order, COUNTS, HEAD, computed)
    assert side.spool.counts().signed == 1
    assert side.load.in_flight == 0


@pytest.mark.parametrize("what", ["accept", "close"])
async def test_kill_9_after_the_disk_has_it_loses_nothing_and_does_nothing_twice(side, what):
    request = request_for(side)
    file = side.folder / "offered"
    file.write_bytes(pickle.dumps(request.offered))
    side.store.close()
    words = ("-m", "tests.execution_layer.node.parting", str(side.folder), str(file), what)
    fault = {"accept": "node.part.accepted:kill", "close": "node.part.closed:kill"}[what]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, env={**os.environ, VARIABLE: fault}
    )
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
    side = await StageSide(side.folder).restored()
    assert side.parts.find(request.order) is not None
    assert side.load.in_flight == (what == "accept")
    stored = [pending.statement for pending in side.spool.pending(8)]
    assert len(stored) == (what == "close")
    await side.parts.accept(request.offered, HEAD)
    statement = await side.parts.close(request.order, COUNTS, HEAD, computed)
    assert [pending.statement for pending in side.spool.pending(8)] == [statement]
    assert stored in ([], [statement])
    assert read(side, statement).node_sequence == 0
    assert side.load.in_flight == 0
    side.store.close()
