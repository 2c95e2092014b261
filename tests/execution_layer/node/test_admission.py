"""What a node refuses, over the wire: one test per way in which a request can be wrong."""

import asyncio
import threading
from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.node.ground import DAY_MS
from execution_layer.node.settings import Quotas
from shared.codec import cbor
from shared.codec.moment import now_ms
from shared.envelope.body import encode_body
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.padding import pad
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.clocks import shown
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, read_as, sign_statement
from shared.statements.refusals import Refusal, RefusalReason
from shared.statements.request import Message, RequestBody, SamplingSettings
from tests.execution_layer.asking import (
    ask,
    make_request,
    padded_body,
    random32,
    raw_error,
    seal_by_hand,
)
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import MAX_POSITIONS, MOST_BYTES, small_world

SETTINGS = SamplingSettings(6)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(world):
    async with world.node() as node:
        yield node


async def refused(world, node, order, envelope):
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, order, envelope)
    return caught.value


async def refusal_of(world, node, **wrong):
    request = make_request(world, node, **wrong)
    return await refused(world, node, request.order, request.envelope)


async def test_a_good_request_is_served(world, node):
    request = make_request(world, node)
    messages = await ask(world, node, request.order, request.envelope)
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "final_record"
    assert set(kinds[1:-1]) == {"frame"}


async def test_a_call_without_deadline_is_refused(world, node):
    request = make_request(world, node)
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        call = stub.Generate(
            execution_pb2.GenerateRequest(order=request.order, envelope=request.envelope)
        )
        with pytest.raises(Exception) as caught:
            await anext(aiter(call))
    assert error_from_rpc(caught.value).code is Code.DEADLINE_REQUIRED


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
async def test_a_truncated_envelope_is_malformed(world, node, cut):
    request = make_request(world, node)
    error = await refused(world, node, request.order, request.envelope[:cut])
    assert error.code is Code.MALFORMED


def rewritten(sealed, change):
    """Return the envelope with its map changed, encoded as canonically as before."""
    fields = cbor.decode(sealed.envelope_bytes, max_bytes=2**22)
    change(fields)
    return cbor.encode(fields)


def a_field_more(fields):
    fields["more"] = 1


def a_field_less(fields):
    del fields["kc"]


def a_short_commitment(fields):
    fields["kc"] = fields["kc"][:31]


def a_wrap_more(fields):
    fields["wraps"] = fields["wraps"] * 2


def a_body_of_another_size(fields):
    fields["body"] += bytes(16)


def a_header_that_is_none(fields):
    fields["header"] = b"\xa0"


def text_where_bytes_belong(fields):
    fields["body"] = "body"


@pytest.mark.parametrize(
    "change",
    [
        a_field_more,
        a_field_less,
        a_short_commitment,
        a_wrap_more,
        a_body_of_another_size,
        a_header_that_is_none,
        text_where_bytes_belong,
    ],
)
async def test_a_malformed_envelope_is_refused(world, node, change):
    request = make_request(world, node)
    envelope = rewritten(request.sealed, change)
    assert (await refused(world, node, request.order, envelope)).code is Code.MALFORMED


@pytest.mark.parametrize("envelope", [b"\xff" * 300, b"\xa0", b"\x80", bytes(4096), b"{}"])
async def test_an_envelope_that_is_not_an_envelope_at_all_is_malformed(world, node, envelope):
    request = make_request(world, node)
    assert (await refused(world, node, request.order, envelope)).code is Code.MALFORMED


async def test_an_envelope_longer_than_the_protocol_allows_is_malformed(world, node):
    request = make_request(world, node)
    error = await refused(world, node, request.order, bytes(2**22 + 1))
    assert error.code is Code.MALFORMED
    error = await refused(
        world, node, request.order, bytes(2**24)
    )  # gRPC itself accepts no such message
    assert error.code is Code.OVERLOADED


async def test_an_envelope_with_something_after_it_is_malformed(world, node):
    request = make_request(world, node)
    error = await refused(world, node, request.order, request.envelope + b"\x00")
    assert error.code is Code.MALFORMED


async def test_a_missing_order_is_refused(world, node):
    request = make_request(world, node)
    assert (await refused(world, node, b"", request.envelope)).code is Code.NO_ORDER


async def test_an_order_that_is_not_a_statement_is_malformed(world, node):
    request = make_request(world, node)
    for order in (b"\x00", request.order[:-1], request.envelope):
        assert (await refused(world, node, order, request.envelope)).code is Code.MALFORMED


async def test_a_foreign_order_for_another_envelope_is_refused(world, node):
    mine, other = make_request(world, node), make_request(world, node)
    assert (await refused(world, node, other.order, mine.envelope)).code is Code.NO_ORDER


async def test_a_foreign_order_of_a_stranger_is_refused(world, node):
    key = Ed25519PrivateKey.generate()
    error = await refusal_of(world, node, tenant="stranger", key=key)
    assert error.code is Code.NO_ORDER


async def test_an_order_under_a_wrong_key_is_refused(world, node):
    error = await refusal_of(world, node, key=Ed25519PrivateKey.generate())
    assert error.code is Code.UNTRUSTED_KEY


async def test_an_order_with_a_spoiled_signature_is_refused(world, node):
    request = make_request(world, node)
    spoiled = request.order[:-1] + bytes([request.order[-1] ^ 1])
    assert (await refused(world, node, spoiled, request.envelope)).code is Code.BAD_SIGNATURE


async def test_an_order_of_one_tenant_for_the_envelope_of_another_is_refused(world, node):
    error = await refusal_of(
        world,
        node,
        envelope=lambda sealed: seal_by_hand(
            node,
            sealed,
            header=replace(sealed.header, tenant="other"),
            padded=padded_body(RequestBody(SETTINGS, prompt="hello")),
        ),
    )
    assert error.code is Code.NO_ORDER


async def test_a_new_tenant_is_known_as_soon_as_its_file_says_so(world, node):
    from execution_layer.node.setup import add_tenant

    key = Ed25519PrivateKey.generate()
    request = make_request(world, node, tenant="newcomer", key=key)
    assert (await refused(world, node, request.order, request.envelope)).code is Code.NO_ORDER
    add_tenant(world.tenants_file, "newcomer", public_bytes(key).hex())
    assert await ask(world, node, request.order, request.envelope)


async def test_an_expired_order_is_refused(world, node):
    changes = {"created": 1, "expiry": 2}
    error = await refusal_of(world, node, order_changes=changes)
    assert error.code is Code.EXPIRED
    assert "the order expired at 1970-01-01 00:00:00 UTC; the clock here says 20" in error.detail


async def test_an_expired_header_is_refused(world, node):
    error = await refusal_of(world, node, expires_in_ms=-1)
    assert error.code is Code.EXPIRED
    assert "the clock here says" in error.detail


async def test_an_order_or_an_envelope_of_another_age_is_refused(world, node):
    now = now_ms()
    for changes, code in (
        ({"created": 0, "expiry": now + 60_000}, Code.EXPIRED),
        ({"expiry": 250_000_000_000_000}, Code.INVALID_ARGUMENT),
        ({"created": now + 10**12, "expiry": 2 * 10**12 + now}, Code.INVALID_ARGUMENT),
    ):
        assert (await refusal_of(world, node, order_changes=changes)).code is code
    error = await refusal_of(world, node, expires_in_ms=2 * 86_400_000)
    assert error.code is Code.INVALID_ARGUMENT
    assert "the envelope expires" in error.detail


async def test_what_is_too_long_is_refused_before_anything_is_parsed(node, monkeypatch):
    def parsed(*_args, **_options):
        raise AssertionError("parsed")

    monkeypatch.setattr("execution_layer.node.order_checks.open_as", parsed)
    for order, envelope in ((bytes(65_537), b"x"), (b"x", bytes(2**22 + 1))):
        with pytest.raises(CounterfoilError, match="more than the permitted") as caught:
            node._admission.check(order, envelope, now_ms())
        assert caught.value.code is Code.MALFORMED


async def test_what_is_long_is_parsed_off_the_event_loop(world, node, monkeypatch):
    threads = []
    check = node._admission.check

    def noting(*args):
        threads.append(threading.current_thread())
        return check(*args)

    monkeypatch.setattr(node._admission, "check", noting)
    await refused(world, node, b"\x00", bytes(2**17))
    await refused(world, node, b"\x00", b"x")
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_an_unknown_key_bundle_is_stale(world, node):
    error = await refusal_of(world, node, bundle=random32())
    assert error.code is Code.STALE_KEY
    assert error.metadata["bundle"] == node.ring.current().entry.hex()


async def test_an_expired_key_bundle_is_stale(world, node, monkeypatch):
    end = node.ring.current().bundle.not_after
    request = make_request(
        world,
        node,
        expires_in_ms=end + 60_000 - now_ms(),
        order_changes={"created": end - 1000, "expiry": end + 60_000},
    )
    monkeypatch.setattr("execution_layer.node.intake.now_ms", lambda: end)
    error = await refused(world, node, request.order, request.envelope)
    assert error.code is Code.STALE_KEY
    assert f"expired at {shown(end)}; the clock here says {shown(end)}" in error.detail
    assert "machine's clock says" in error.detail  # the client's own is a day behind


async def test_another_rate_card_is_refused_and_the_right_one_named(world, node):
    error = await refusal_of(world, node, order_changes={"rate_card": random32()})
    assert error.code is Code.INVALID_ARGUMENT
    assert error.metadata["rate_card"] == world.cards["honest"].hex()


async def test_an_unknown_model_is_refused(world, node):
    assert (await refusal_of(world, node, model_root=random32())).code is Code.UNKNOWN_MODEL


async def test_a_zero_token_budget_is_malformed(world, node):
    request = make_request(world, node)
    payload = {**request.value.to_payload(), "max_output_tokens": 0}
    order = sign_statement("order", payload, key=world.tenant_key, issuer="acme", subject="request")
    assert (await refused(world, node, order, request.envelope)).code is Code.MALFORMED


@pytest.mark.parametrize("budget", [2**20 + 1, 2**63])
async def test_a_huge_token_budget_is_malformed(world, node, budget):
    request = make_request(world, node)
    payload = {**request.value.to_payload(), "max_output_tokens": budget}
    order = sign_statement("order", payload, key=world.tenant_key, issuer="acme", subject="request")
    assert (await refused(world, node, order, request.envelope)).code is Code.MALFORMED


async def test_a_huge_token_budget_above_the_nodes_limit_is_refused(world, node):
    assert (await refusal_of(world, node, budget=257)).code is Code.INVALID_ARGUMENT


async def test_an_over_long_prompt_that_leaves_no_room_for_the_answer_is_refused(world, node):
    fits = make_request(world, node, prompt="x" * (MAX_POSITIONS - 6))
    assert await ask(world, node, fits.order, fits.envelope)
    error = await refusal_of(world, node, prompt="x" * (MAX_POSITIONS - 5))
    assert error.code is Code.INVALID_ARGUMENT
    assert "context" in error.detail


async def test_a_prompt_of_some_length_is_tokenised_off_the_event_loop(world, node, monkeypatch):
    threads = []
    opened = node._admission.open

    def noting(*args):
        threads.append(threading.current_thread())
        return opened(*args)

    monkeypatch.setattr(node._admission, "open", noting)
    await refusal_of(world, node, prompt="x" * 20_000)
    await refusal_of(world, node, prompt="x" * 1000)
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_a_prompt_with_more_bytes_than_the_context_can_hold_is_not_even_tokenised(
    world, node
):
    for body in (
        RequestBody(SETTINGS, prompt="x" * MOST_BYTES + "é"),
        RequestBody(SETTINGS, messages=(Message("user", "é" * (MOST_BYTES // 2)),) * 2),
    ):
        refusal = await refusal_of(world, node, body=body)
        assert refusal.code is Code.INVALID_ARGUMENT
        assert f"is {body.size} bytes long" in str(refusal)
        assert f"room for at most {MOST_BYTES}" in str(refusal)


def going_on(size, *, max_tokens=6):
    return RequestBody(
        SamplingSettings(max_tokens), prompt="hello", seed=bytes(32), prefix=(9,) * size
    )


async def test_a_prefix_counts_against_the_context_and_against_what_the_order_pays_for(world, node):
    fits = make_request(world, node, body=going_on(MAX_POSITIONS - 11))
    assert await ask(world, node, fits.order, fits.envelope)
    error = await refusal_of(world, node, body=going_on(MAX_POSITIONS - 10))
    assert error.code is Code.INVALID_ARGUMENT
    assert "context" in error.detail
    error = await refusal_of(world, node, body=going_on(20), order_changes={"max_input_tokens": 24})
    assert "the prompt has 25 tokens; the order pays for 24" in error.detail


async def test_a_prefix_longer_than_the_context_is_not_even_decoded(world, node, monkeypatch):
    def tokenised(_body):
        raise AssertionError("tokenised")

    monkeypatch.setattr(
        node._admission, "_model", replace(node._admission._model, tokenise=tokenised)
    )
    error = await refusal_of(world, node, body=going_on(MAX_POSITIONS, max_tokens=1))
    assert "context" in error.detail


async def test_invalid_utf8_in_an_order_is_malformed(world, node):
    request = make_request(world, node)
    spoiled = request.order.replace(b"dacme", b"dac\xff\xfe", 1)
    assert spoiled != request.order
    assert (await refused(world, node, spoiled, request.envelope)).code is Code.MALFORMED


async def test_a_replayed_request_is_refused_and_so_is_its_number(world, node):
    request = make_request(world, node)
    await ask(world, node, request.order, request.envelope)
    assert (await refused(world, node, request.order, request.envelope)).code is Code.REPLAYED
    number = request.value.number
    reordered = make_request(
        world, node, number=number
    )  # another envelope under the same number and attempt
    assert (await refused(world, node, reordered.order, reordered.envelope)).code is Code.REPLAYED
    retry = make_request(world, node, number=number, attempt=1)
    assert await ask(world, node, retry.order, retry.envelope)


async def test_a_replayed_request_is_refused_after_a_restart(world):
    async with world.node(name="restarted") as node:
        request = make_request(world, node)
        await ask(world, node, request.order, request.envelope)
    async with world.node(name="restarted") as node:
        error = await refused(world, node, request.order, request.envelope)
    assert error.code is Code.REPLAYED


async def test_a_replayed_request_is_refused_also_when_its_order_has_been_forgotten(
    world, node, monkeypatch
):
    request = make_request(world, node)
    await ask(world, node, request.order, request.envelope)
    end = max(request.value.expiry, request.sealed.header.expiry)
    entry = entry_of(request.order)
    await node.store.forget_expired(before_ms=end)
    assert node.store.was_seen(entry, random32())
    assert node.store.was_seen(random32(), request.value.ctx)
    monkeypatch.setattr("execution_layer.node.intake.now_ms", lambda: end)
    assert (await refused(world, node, request.order, request.envelope)).code is Code.EXPIRED
    assert await node.store.forget_expired(before_ms=end + 1) >= 2
    assert not node.store.was_seen(entry, request.value.ctx)
    assert (await refused(world, node, request.order, request.envelope)).code is Code.EXPIRED
    monkeypatch.undo()  # a clock that went back: the number is still used up
    assert (await refused(world, node, request.order, request.envelope)).code is Code.REPLAYED


async def test_a_node_forgets_what_expired_a_day_ago(world):
    async with world.node(name="forgetful") as node:
        request = make_request(world, node)
        await ask(world, node, request.order, request.envelope)
        later = request.value.expiry + DAY_MS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("execution_layer.node.ground.now_ms", lambda: later + 60_000)
        async with world.node(name="forgetful") as node:
            async with asyncio.timeout(10):
                while node.store.was_seen(entry_of(request.order), request.value.ctx):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_of_two_equal_requests_at_once_one_is_served(world, node):
    request = make_request(world, node)
    results = await asyncio.gather(
        *(ask(world, node, request.order, request.envelope) for _ in range(4)),
        return_exceptions=True,
    )
    served = [result for result in results if isinstance(result, list)]
    assert len(served) == 1
    assert {result.code for result in results if result not in served} == {Code.REPLAYED}
    assert node.load.in_flight == 0
    assert len(node.store.unfinished()) == 0


async def test_a_tenant_has_a_quota_of_requests_in_flight(world):
    engine = FakeEngine(holds_after=0)
    quotas = Quotas(in_flight_per_tenant=1)
    async with world.node(engine, name="small", quotas=quotas) as node:
        first = make_request(world, node)
        waiting = asyncio.create_task(ask(world, node, first.order, first.envelope))
        await engine.submitted.wait()
        second = make_request(world, node)
        error = await refused(world, node, second.order, second.envelope)
        assert error.code is Code.QUOTA
        assert error.retry_after_s
        engine.generations[0].release()
        await waiting
        assert await ask_soon(world, node, second, engine)


async def test_a_tenant_orders_only_so_often_and_is_told_when_to_come_back(world):
    quotas = Quotas(requests_per_s_per_tenant=0.001)
    async with world.node(name="slow", quotas=quotas) as node:
        first, second = make_request(world, node), make_request(world, node)
        await ask(world, node, first.order, first.envelope)
        error = await refused(world, node, second.order, second.envelope)
    assert error.code is Code.QUOTA
    assert error.retry_after_s
    assert "acme" in error.detail


async def ask_soon(world, node, request, engine):
    engine.holds_after = None
    return await ask(world, node, request.order, request.envelope)


async def test_every_decryption_failure_looks_the_same_from_outside(world, node):
    """Wrong key, kc, shares, body, padding, CBOR, UTF-8 or budget: one answer, to the last byte, and one refusal but for the
    order's own entry and number, and the time."""
    good = RequestBody(SETTINGS, prompt="hello")
    bad_text = cbor.encode({"prompt": "hellx", "settings": {}}).replace(b"hellx", b"hell\xff")
    over_budget = encode_body(RequestBody(SamplingSettings(250), prompt="hello"))
    ways = {
        "wrong HPKE key": {"hpke_key": generate_hpke_key().public_bytes},
        "another secret in the wrap": {
            "envelope": lambda s: seal_by_hand(
                node, s, padded=padded_body(good), wrap_ts=random32()
            )
        },
        "another kc": {
            "envelope": lambda s: seal_by_hand(node, s, padded=padded_body(good), kc=random32())
        },
        "shares of another secret": {
            "envelope": lambda s: seal_by_hand(
                node, s, header=replace(s.header, shares=(random32(),)), padded=padded_body(good)
            )
        },
        "spoiled body": {"envelope": lambda s: seal_by_hand(node, s, body=bytes(256 + 16))},
        "no padding": {"envelope": lambda s: seal_by_hand(node, s, padded=bytes(256))},
        "no CBOR": {"envelope": lambda s: seal_by_hand(node, s, padded=pad(b"\xff", 256))},
        "unknown fields": {
            "envelope": lambda s: seal_by_hand(node, s, padded=pad(cbor.encode({"x": 1}), 256))
        },
        "invalid UTF-8": {"envelope": lambda s: seal_by_hand(node, s, padded=pad(bad_text, 256))},
        "max_tokens above the budget": {
            "envelope": lambda s: seal_by_hand(node, s, padded=pad(over_budget, 256))
        },
    }
    seen = {}
    for name, wrong in ways.items():
        request = make_request(world, node, **wrong)
        status, details, sent = await raw_error(world, node, request.order, request.envelope)
        signed = node.store.refusal_of(entry_of(request.order))
        refusal = replace(read_as(Refusal, signed), order=bytes(32), number=0, at=0)
        blank = [
            value.replace(signed, bytes(len(signed))) if isinstance(value, bytes) else (key, value)
            for part in sent
            for key, value in part
        ]
        seen[name] = (status, details, repr(blank), repr(refusal))
    assert len(set(seen.values())) == 1, seen
    (status, details, _, _) = next(iter(seen.values()))
    assert refusal.reason is RefusalReason.UNREADABLE
    assert status.name == "INVALID_ARGUMENT"
    assert details == Code.UNREADABLE.value.message


async def test_settings_out_of_range_are_refused_with_their_reason_before_acceptance(world, node):
    good = cbor.decode(encode_body(RequestBody(SETTINGS, prompt="hello")))
    for name, value, told in (
        ("min_p_ppm", 0, "min_p must be above 0"),
        ("repetition_penalty_ppm", 1, "repetition_penalty must be"),
        ("presence_penalty_ppm", -(2**32), "presence_penalty must be"),
        ("logprobs", 21, "logprobs must be between 0 and 20"),
        ("stop_token_ids", [5, 4], "stop token ids must be ascending and unique"),
    ):
        body = cbor.encode({**good, "settings": {**good["settings"], name: value}})
        request = make_request(
            world, node, envelope=lambda s, body=body: seal_by_hand(node, s, padded=pad(body, 256))
        )
        error = await refused(world, node, request.order, request.envelope)
        assert error.code is Code.INVALID_ARGUMENT
        assert told in error.detail
    assert node.store.unfinished() == []
    assert node.load.in_flight == 0


async def test_what_was_refused_leaves_no_trace(world, node):
    before = node.spool.counts().signed
    wrong = make_request(world, node, hpke_key=generate_hpke_key().public_bytes)
    await refused(world, node, wrong.order, wrong.envelope)
    assert node.store.unfinished() == []
    assert node.spool.counts().signed == before
    assert node.load.in_flight == 0
    again = make_request(world, node, number=wrong.value.number)
    assert await ask(world, node, again.order, again.envelope)
