"""The client believes an answer only after checking its receipt, retries elsewhere what may be retried, and forgets nothing."""

import asyncio
import re
import time
from dataclasses import replace

import pytest

from execution_layer.client import directory
from execution_layer.client.archive import State
from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.verify import verify_entry
from execution_layer.node import session
from execution_layer.node.settings import Quotas
from shared.envelope.sealing import open_with_secret
from shared.runtime.clocks import shown
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import verify_cancellation
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Receipt
from shared.statements.request import Message, SamplingSettings
from tests.execution_layer.asking import random32
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until
from tests.full_disk import FullDisk

PROMPT = "hello"


def states(client):
    return [
        (item.number, item.attempt, item.state) for item in reversed(client.archive.latest(1000))
    ]


async def refused(client, **wanted):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{"prompt": PROMPT, "max_tokens": 4, **wanted})
    return caught.value


async def test_an_answer_carries_its_receipt_and_is_archived_whole(world):
    async with world.node() as node, world.client() as client:
        seen = []
        answer = await client.generate(
            [Message("user", PROMPT)], max_tokens=6, cost_centre="sales", on_text=seen.append
        )
        assert answer.text == "".join(seen)
        assert len(answer.token_ids) == answer.usage.output == 6
        assert answer.finish is Finish.LENGTH
        assert answer.node == "honest/node-1"
        assert answer.timings.first_token_ms <= answer.timings.total_ms
        kept = client.archive.get(answer.transcript_id)
        assert kept.state is State.ANSWERED
        assert (kept.receipt, kept.receipt_entry) == (
            answer.receipt.statement,
            answer.receipt.entry,
        )
        assert kept.tags == {"cost_centre": "sales"}
        assert client.archive.by_entry(answer.receipt.entry) == kept
        stored = node.store.evidence_of(answer.receipt.entry)
        assert (kept.envelope, kept.frames) == (stored.envelope, stored.frames)


@pytest.mark.parametrize(
    "lie",
    [
        {"tenant": "another"},
        {"h_final": random32()},
        {"output": random32()},
        {"rate_card": random32()},
    ],
    ids=lambda lie: next(iter(lie)),
)
async def test_text_is_not_handed_out_as_checked_when_the_receipt_lies(world, monkeypatch, lie):
    async with world.node(), world.node(name="node-2"), world.client() as client:
        true = session.draft_receipt
        monkeypatch.setattr(session, "draft_receipt", lambda *facts: replace(true(*facts), **lie))
        early, retried = [], []
        error = await refused(
            client, on_text=early.append, on_retry=lambda *facts: retried.append(facts)
        )
        assert error.code is Code.COMMITMENT_MISMATCH
        assert "".join(early)  # what streamed was never called an answer
        assert retried == []  # a lie is raised, not covered by another node's answer
        (kept,) = client.archive.latest(10)
        assert kept.state is State.DISBELIEVED
        assert kept.receipt is None
        assert next(iter(lie)) in kept.problem
        assert kept.frames  # evidence against the node
        assert kept.final_record
        assert client.archive.unproved() == []


async def test_a_node_that_drains_is_left_for_another_under_the_next_attempt(world):
    async with world.node() as first, world.node(name="node-2"), world.client() as client:
        await client.nodes()
        first.load.drain()
        told = []
        answer = await client.generate(
            prompt=PROMPT, max_tokens=4, on_retry=lambda *facts: told.append(facts)
        )
        assert answer.node == "honest/node-2"
        assert [(name, error.code) for name, error in told] == [("honest/node-1", Code.DRAINING)]
        assert states(client) == [(0, 0, State.REFUSED), (0, 1, State.ANSWERED)]


async def test_an_engine_that_dies_is_left_for_another_and_its_receipt_kept(world):
    dying = FakeEngine(dies_after=2)
    async with (
        world.node(dying),
        world.node(FakeEngine(), name="node-2"),
        world.client() as client,
    ):
        answer = await client.generate(prompt=PROMPT, max_tokens=4)
        assert (answer.node, answer.attempt) == ("honest/node-2", 1)
        failed = client.archive.latest(2)[1]
        assert failed.receipt is not None  # the node admits it; nothing is charged
        assert failed.state is State.ANSWERED


async def test_a_node_that_is_gone_is_left_for_another(world):
    async with world.node(name="node-2"), world.client() as client:
        async with world.node():
            assert len(await client.nodes()) == 2
        answer = await client.generate(prompt=PROMPT, max_tokens=4, timeout_s=20)
        assert answer.node == "honest/node-2"


async def test_a_quota_is_waited_for_as_the_node_asks(world):
    engine = FakeEngine(holds_after=0)
    quotas = Quotas(in_flight_per_tenant=1)
    async with world.node(engine, quotas=quotas), world.client() as client:
        first = asyncio.create_task(client.generate(prompt=PROMPT, max_tokens=4))
        await engine.submitted.wait()

        def free(_name, error):
            assert error.code is Code.QUOTA
            engine.holds_after = None
            engine.generations[0].release()

        second = await client.generate(prompt=PROMPT, max_tokens=4, on_retry=free)
        assert second.attempt >= 1
        assert (await first).finish is Finish.LENGTH


async def test_the_attempts_end_and_the_last_reason_is_reported(world):
    async with world.node() as node, world.client(max_attempts=2) as client:
        await client.nodes()
        node.load.drain()
        error = await refused(client)
        assert error.code is Code.DRAINING
        assert states(client) == [(0, 0, State.REFUSED), (0, 1, State.REFUSED)]


async def test_the_deadline_ends_an_answer_with_a_receipt_for_what_came(world):
    async with world.node(FakeEngine(holds_after=2)), world.client() as client:
        await client.nodes()
        answer = await client.generate(prompt=PROMPT, max_tokens=9, timeout_s=4)
        assert answer.finish is Finish.DEADLINE
        assert answer.usage.output == 2
        assert (await refused(client, timeout_s=0)).code is Code.DEADLINE


async def test_a_caller_that_gives_up_leaves_a_record_and_frees_the_node(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine) as node, world.client() as client:
        first_word = asyncio.Event()
        call = asyncio.create_task(
            client.generate(prompt=PROMPT, max_tokens=9, on_text=lambda _: first_word.set())
        )
        await first_word.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (kept,) = client.archive.latest(1)
        assert kept.state is State.BROKEN
        assert kept.frames
        await until(lambda: not node.load.in_flight)
        await world.audit.wait_for_receipts(1)
        receipt = Receipt.from_payload(world.audit.receipts()[0].payload)
        assert receipt.finish is Finish.CANCELLED
        verify_cancellation(kept.order_entry, receipt.cancel, public_bytes(world.tenant_key))


async def test_many_requests_at_once_have_numbers_without_gaps(world):
    async with world.node(), world.node(name="node-2"), world.client() as client:
        answers = await asyncio.gather(
            *(client.generate(prompt=PROMPT, max_tokens=3) for _ in range(24))
        )
        assert sorted(answer.number for answer in answers) == list(range(24))
        assert {answer.node for answer in answers} == {"honest/node-1", "honest/node-2"}


async def test_several_answers_are_requests_of_their_own_and_come_in_order(world):
    async with world.node(), world.node(name="node-2"), world.client() as client:
        seed = random32()
        answers = await client.generate(prompt=PROMPT, max_tokens=4, seed=seed, n=3)
        assert [answer.choice for answer in answers] == [0, 1, 2]
        assert sorted(answer.number for answer in answers) == [0, 1, 2]
        assert len({answer.receipt.entry for answer in answers}) == 3
        assert len({answer.token_ids for answer in answers}) == 3
        alone = await client.generate(prompt=PROMPT, max_tokens=4, seed=seed)
        assert alone.token_ids == answers[0].token_ids
        for answer in answers:
            kept = client.archive.get(answer.transcript_id)
            body = open_with_secret(kept.envelope, kept.secret).body
            assert (body.choice, body.seed) == (answer.choice, seed)
        (one,) = await client.generate(prompt=PROMPT, max_tokens=2, n=1)
        assert one.choice == 0


async def test_an_answer_of_several_that_fails_ends_the_others_and_is_raised_itself(world):
    engine = FakeEngine(holds_after=1)
    quotas = Quotas(in_flight_per_tenant=2)
    async with (
        world.node(engine, quotas=quotas) as node,
        world.client(max_attempts=1) as client,
    ):
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(prompt=PROMPT, max_tokens=4, n=3)
        assert caught.value.code is Code.QUOTA
        await until(lambda: not node.load.in_flight)
        assert {state for *_, state in states(client)} <= {State.REFUSED, State.BROKEN}


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 129}, {"n": 2, "on_text": print}])
async def test_several_answers_that_cannot_be_asked_for_are_refused(world, wrong):
    async with world.client() as client:
        assert (await refused(client, **wrong)).code is Code.INVALID_ARGUMENT
        assert client.archive.latest(1) == []


@pytest.mark.parametrize("alternatives", [0, 3, 20])
async def test_log_probabilities_come_with_every_token_and_stay_in_the_archive(world, alternatives):
    how = SamplingSettings(5, logprobs=alternatives)
    async with world.node(), world.client() as client:
        answer = await client.generate(prompt=PROMPT, settings=how)
        assert len(answer.logprobs) == len(answer.token_ids) == 5
        assert all(len(told.top_tokens) == alternatives for told in answer.logprobs)
        plain = await client.generate(prompt=PROMPT, max_tokens=5)
        assert plain.logprobs == ()


@pytest.mark.parametrize(
    ("asked", "lie"),
    [
        (None, (TokenLogprobs(-5, (), ()),)),
        (1, (TokenLogprobs(-5, (1, 2), (-1, -2)),)),
        (2, (TokenLogprobs(-1, (1, 2), (-3, -4)),)),
        (2, ()),
    ],
    ids=["not asked for", "too many", "out of order", "missing"],
)
async def test_log_probabilities_that_do_not_fit_are_disbelieved(world, asked, lie):
    engine = FakeEngine()
    engine.logprobs = lambda *_: lie
    async with world.node(engine), world.client() as client:
        settings = SamplingSettings(3, logprobs=asked)
        error = await refused(client, settings=settings, max_tokens=None)
        assert error.code is Code.MALFORMED
        assert "log-probabilities" in error.detail
        (kept,) = client.archive.latest(5)
        assert kept.state is State.DISBELIEVED
        assert kept.frames


async def test_what_cannot_be_asked_is_refused_before_anything_is_ordered(world):
    async with world.node(), world.client() as client:
        wrong = [
            {"max_tokens": 0},  # a zero token budget
            {"max_tokens": 2**20 + 1},  # a huge one
            {"settings": SamplingSettings(5)},  # the budget twice
            {"messages": [Message("user", "x")]},  # prompt and messages
            {"prompt": None},
            {"seed": b"short"},
            {"model": "not hexadecimal"},
        ]
        for wanted in wrong:
            error = await refused(client, **wanted)
            assert error.code is Code.INVALID_ARGUMENT, wanted
        assert client.archive.latest(1) == []


async def test_what_the_node_refuses_is_reported_verbatim(world):
    async with world.node(), world.client() as client:
        over_long = await refused(client, prompt="x" * 600)
        assert over_long.code is Code.INVALID_ARGUMENT
        assert "the prompt has 600 tokens" in over_long.detail
        huge = await refused(client, max_tokens=2**20)
        assert huge.code is Code.INVALID_ARGUMENT
        assert "above this node's 256" in huge.detail
        assert [state for *_, state in states(client)] == [State.REFUSED] * 2


async def test_a_prompt_of_invalid_unicode_is_refused_before_it_is_sealed(world):
    async with world.node(), world.client() as client:
        assert (await refused(client, prompt="half \ud800")).code is Code.MALFORMED
        assert client.archive.latest(1) == []


async def test_another_model_than_the_nodes_serve_finds_no_node(world):
    async with world.node(), world.client() as client:
        error = await refused(client, model=random32().hex())
        assert error.code is Code.STALE_KEY
        assert "no key bundle" in error.detail


async def test_a_node_of_an_unknown_name_is_not_found_and_the_known_ones_are_named(world):
    async with world.node(), world.client() as client:
        error = await refused(client, node="node-9")
        assert error.code is Code.NOT_FOUND
        assert "honest/node-1" in error.detail
        assert (await client.generate(prompt=PROMPT, max_tokens=2, node="node-1")).text


async def test_a_node_that_has_just_registered_is_waited_for(world):
    async with world.node(), world.client() as client:
        world.audit.witnessing, listed = False, world.audit.listed
        asking = asyncio.create_task(client.generate(prompt=PROMPT, max_tokens=2))
        await until(lambda: world.audit.listed > listed)  # it heard that there is no proof yet
        assert not asking.done()
        world.audit.witnessing = True
        assert (await asking).text


async def test_a_directory_is_believed_in_nothing(world, monkeypatch):
    monkeypatch.setattr(directory, "PATIENCE_S", 0.0)
    async with world.node() as node:

        async def reason(code=Code.STALE_KEY, **changes):
            async with world.client(**changes) as client:
                error = await refused(client)
            assert error.code is code
            return error.detail

        assert "does not pin operator honest" in await reason(operators={})
        stranger = {"honest": random32().hex()}
        assert "not signed with the key that is trusted" in await reason(operators=stranger)
        assert "accepts no rate card" in await reason(rate_cards={})
        world.audit.witnessing = False
        assert "has no proof" in await reason(Code.NOT_WITNESSED)
        world.audit.witnessing = True
        true = world.audit.proof
        world.audit.proof = lambda index: true(1 - index)  # the proof of another entry
        assert "no key bundle that the policy accepts: " in await reason()
        world.audit.proof = true
        async with world.client() as client:
            assert await client.nodes()
        life, minute = node.ring.current().bundle, 60_000
        for now, said in (
            (life.not_before - minute, f"is not valid before {shown(life.not_before)}"),
            (life.not_after + minute, f"expired at {shown(life.not_after)}"),
        ):
            monkeypatch.setattr(directory, "now_ms", lambda now=now: now)
            side = "later" if now > life.not_before else "earlier"
            assert f"{said}; the clock here says {shown(now)}, 1 min {side}" in await reason()


async def test_nodes_are_asked_while_the_audit_server_is_away(world):
    async with world.node(), world.client() as client:
        await client.nodes()
        world.audit.away = True
        assert (await client.generate(prompt=PROMPT, max_tokens=3)).text
        assert await client._directory.nodes(client._model_root(None), since=time.monotonic())
        report = await client.upgrade_proofs()
        assert (report.proved, report.missing) == (0, 1)
        world.audit.away = False
        report = await client.upgrade_proofs(10)
        assert (report.proved, report.missing) == (1, 0)
    world.audit.away = True
    policy = world.policy()
    never = policy.model_copy(update={"archive": world.folder / "other" / "archive.sqlite"})
    async with AsyncCounterfoilClient(never) as client:  # one that never read the directory
        error = await refused(client)
        assert error.code is Code.UNAVAILABLE
        assert error.detail.startswith("the audit server")


async def test_one_node_on_a_full_disk_takes_no_request_down_with_it(world):
    async with (
        world.node() as sick,
        world.node(name="node-2"),
        world.node(name="node-3"),
        world.client() as client,
    ):
        FullDisk(sick.store.journal)
        told = []
        answers = []
        for _ in range(5):
            answers += await asyncio.gather(
                *(
                    client.generate(
                        prompt=PROMPT, max_tokens=2, on_retry=lambda *facts: told.append(facts)
                    )
                    for _ in range(12)
                )
            )
        assert {answer.node for answer in answers} == {"honest/node-2", "honest/node-3"}
        assert {name for name, _ in told} == {"honest/node-1"}
        assert len(told) <= 12  # those in flight when it failed, and single trials after a rest
        error = await refused(client, node="node-1")
        assert error.code is Code.UNAVAILABLE
        assert "honest/node-1: the node accepts no requests" in error.detail
        assert "the disk is full (incident " in error.detail


async def test_a_node_that_fails_inside_is_left_for_another_and_named_with_its_incident(
    world, monkeypatch
):
    async with world.node() as broken, world.node(name="node-2"), world.client() as client:
        await client.nodes()

        def fail(*_):
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(broken.store, "was_seen", fail)
        answer = await client.generate(prompt=PROMPT, max_tokens=2)
        assert answer.node == "honest/node-2"
        error = await refused(client, node="node-1")
        assert error.code is Code.INTERNAL
        assert re.search(r"^honest/node-1: .*\(incident [0-9a-f]{12}\)$", error.detail)


async def test_a_node_that_never_accepts_is_left_for_another(world, monkeypatch):
    async with (
        world.node() as silent,
        world.node(name="node-2"),
        world.client(accept_timeout_s=1.5) as client,
    ):
        await client.nodes()
        released, true = asyncio.Event(), silent.store.accept

        async def accept(*what, **how):
            await released.wait()
            return await true(*what, **how)

        monkeypatch.setattr(silent.store, "accept", accept)
        told = []
        answer = await client.generate(
            prompt=PROMPT, max_tokens=2, on_retry=lambda *facts: told.append(facts)
        )
        assert answer.node == "honest/node-2"
        ((name, error),) = told
        assert (name, error.code) == ("honest/node-1", Code.UNAVAILABLE)
        assert "not accepted within 1.5 s" in error.detail
        released.set()


async def test_a_full_disk_of_our_own_is_not_blamed_on_a_node(world):
    async with world.node(), world.client() as client:
        await client.nodes()
        disk = FullDisk(client.archive._journal)
        error = await refused(client)
        assert error.code is Code.UNAVAILABLE
        assert "archive.sqlite cannot be written: the disk is full" in error.detail
        assert "node-1" not in error.detail
        disk.full = False
        assert (await client.generate(prompt=PROMPT, max_tokens=2)).text


async def test_requests_refused_for_want_of_room_leave_no_gap_in_the_numbers_that_the_log_sees(
    world,
):
    """A node that drains signs nothing: the number goes to the next request."""
    async with world.node() as node, world.client(max_attempts=2) as client:
        node.load._draining = True
        for _ in range(2):
            await refused(client)
        node.load._draining = False
        answers = [await client.generate(prompt=PROMPT, max_tokens=2) for _ in range(2)]
        assert [answer.number for answer in answers] == [0, 1]
        assert answers[0].attempt == 4
        more = await client.generate(prompt=PROMPT, max_tokens=2, n=3)
        assert sorted(answer.number for answer in more) == [2, 3, 4]
        await world.audit.wait_for_receipts(5)
        numbers = [item.payload["number"] for item in world.audit.receipts()]
        assert sorted(numbers) == [0, 1, 2, 3, 4]


async def test_a_deadline_between_attempts_gives_the_number_back(world):
    async with world.node() as node, world.client() as client:
        await client.nodes()
        node.load.drain()
        error = await refused(client, timeout_s=0.15)
        assert error.code in {Code.DEADLINE, Code.DRAINING}
        node.load._draining = False
        assert (await client.generate(prompt=PROMPT, max_tokens=2)).number == 0


async def test_an_answer_in_time_slots_is_the_same_answer_and_verifies_afterwards(world):
    """By a call's option or by the policy; 0 switches it off for a call."""
    seed = bytes(32)
    async with world.node(), world.client(slots_ms=20) as client:
        slotted = await client.generate(prompt=PROMPT, max_tokens=6, seed=seed)
        plain = await client.generate(prompt=PROMPT, max_tokens=6, seed=seed, slots_ms=0)
        assert (slotted.text, slotted.token_ids) == (plain.text, plain.token_ids)
        first, second = (client.archive.get(one.transcript_id) for one in (slotted, plain))
        assert [len(frame) for frame in first.frames] == [256 + 16] * 16
        assert len(second.frames) < 16
        told = await client.generate(prompt=PROMPT, max_tokens=3, logprobs=20, timeout_s=60)
        assert len(told.logprobs) == 3
        steps = verify_entry(world.folder / "client" / "client.toml", slotted.receipt.entry.hex())
        assert all(step.holds for step in steps[:-1])  # the last one needs a proof


async def test_slots_longer_than_an_order_may_take_are_refused_before_anything_is_ordered(world):
    async with world.node(), world.client(slots_ms=20, timeout_s=3600) as client:
        error = await refused(client)
        assert error.code is Code.INVALID_ARGUMENT
        assert "max_ms" in error.detail
        assert states(client) == []
