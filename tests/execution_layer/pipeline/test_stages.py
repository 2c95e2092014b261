"""Stages over TLS: the bits of one node, nothing for strangers, nothing out of turn, and a death that loses nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
import torch

from execution_layer.engine.protocol import FinishReason
from execution_layer.pipeline import service
from execution_layer.pipeline.boundary import Boundary, Spent
from execution_layer.pipeline.remote import RemoteLine
from execution_layer.pipeline.wire import from_message, to_message
from shared.model.backend import Rows
from shared.model.decoder import Stage
from shared.model.replay import replay
from shared.proto.counterfoil.execution.v1 import stages_pb2, stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel, secure_channel
from tests.execution_layer.engine.traffic import Mix, Served, fixed, serve
from tests.execution_layer.pipeline.stages import NODE, Pool, place
from tests.execution_layer.pipeline.test_chain import model, stages
from tests.execution_layer.waiting import until

WIDTH = model().config.hidden_size


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path, model())


def check(served: Iterable[Served], mix: Mix) -> None:
    """Everybody got the tokens and the states that one node computes."""
    for arrival, one in zip(mix.arrivals, served, strict=True):
        output = one.end.output_ids
        replayed = replay(model(), arrival.prompt, output, arrival.settings, arrival.seed)
        assert (tuple(one.tokens), replayed.chosen) == (output, output)
        assert one.end.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
        assert replayed.activations == one.end.activations


@pytest.mark.parametrize(("cuts", "own"), [([], 0), ([2], 1), ([1, 3], 0), ([1, 2, 4], 1)])
async def test_stages_over_tls_serve_what_one_node_computes(pool, cuts, own):
    mix = Mix(tuple(fixed(6, prompt=70)))
    parts = stages(cuts)
    async with AsyncExitStack() as stack:
        places = [
            place(await stack.enter_async_context(pool.stage(part)), part) for part in parts[own:]
        ]
        made = []

        def steps(blocks, wake):
            made.append(pool.steps(parts[0] if own else None, places, 5, blocks, wake))
            return made[0]

        check(await serve(model(), mix, None, steps), mix)
    tally = made[0].tally
    assert len(tally.stages_s) == len(parts)
    assert all(seconds > 0 for seconds in tally.stages_s)
    assert tally.trip_s is not None
    assert (tally.connections, tally.breaks) == (1, 0)


async def test_a_stage_that_dies_and_comes_back_loses_and_doubles_nothing(pool):
    mix = Mix(tuple(fixed(4, tokens=60)))
    first, second = stages([2])
    steps = []

    def making(blocks, wake):
        steps.append(pool.steps(None, places, 4, blocks, wake))
        return steps[0]

    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(pool.stage(first))
        dying = AsyncExitStack()
        other = await dying.enter_async_context(pool.stage(second))
        places = [place(at, first), place(other, second)]
        serving = asyncio.create_task(serve(model(), mix, None, making))
        await until(lambda: steps and steps[0]._received > 20)
        await dying.aclose()
        await asyncio.sleep(0.1)
        again = stages([2])[1]
        await stack.enter_async_context(pool.stage(again, other.party_address))
        check(await serving, mix)


async def failure(call: Any) -> CounterfoilError:
    """Return why a call ended."""

    async def drained() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.RpcError) as caught:
        await drained()
    return error_from_rpc(caught.value)


def opened(pool: Pool, part: Stage, **changes: Any) -> stages_pb2.JoinRequest:
    ask = pool.ask()
    facts = {
        "chain": b"\7" * 32,
        "model_root": ask.model_root,
        "numeric_profile": ask.numeric_profile,
        "first": part.first,
        "last": part.last,
        "blocks": ask.blocks,
        "rows": ask.rows,
        "steps": ask.steps,
        "joined_first": True,
    }
    return stages_pb2.JoinRequest(open=stages_pb2.StageOpen(**{**facts, **changes}))


def going(after: str = "") -> stages_pb2.JoinRequest:
    return stages_pb2.JoinRequest(go=stages_pb2.StageGo(next=after))


def good(number: int = 0) -> stages_pb2.StageStep:
    return to_message(Boundary(number, (Rows(2, 0, (1,)),), torch.zeros(2, WIDTH)))


async def messages(*these: Any, then: asyncio.Event | None = None) -> AsyncIterator[Any]:
    for message in these:
        yield message
    if then is not None:
        await then.wait()


def stub(pool: Pool, address: str, name: str = NODE) -> Any:
    channel = secure_aio_channel(address, pool.authority.ca_file, pool.party(name))
    return stages_pb2_grpc.StagesStub(channel)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model_root": b"\3" * 32}, Code.UNKNOWN_MODEL, "another model"),
        ({"numeric_profile": b"\3" * 32}, Code.INVALID_ARGUMENT, "numeric profile"),
        ({"first": 1}, Code.INVALID_ARGUMENT, "computes layers 0:2, not 1:2"),
        ({"last": 4}, Code.INVALID_ARGUMENT, "not 0:4"),
        ({"blocks": 10**6}, Code.INVALID_ARGUMENT, "1000000 blocks"),
        ({"blocks": 0}, Code.INVALID_ARGUMENT, "0 blocks"),
        ({"rows": 513}, Code.INVALID_ARGUMENT, "513 rows"),
        ({"steps": 0}, Code.INVALID_ARGUMENT, "steps under way"),
        ({"steps": 257}, Code.INVALID_ARGUMENT, "steps under way"),
        ({"chain": b"short"}, Code.INVALID_ARGUMENT, "32 bytes"),
    ],
)
async def test_a_stage_joins_no_chain_that_asks_for_something_else(pool, changes, code, words):
    part = stages([2])[0]
    async with pool.stage(part) as server:
        call = stub(pool, server.party_address).Join(
            messages(opened(pool, part, **changes)), timeout=5
        )
        error = await failure(call)
    assert error.code is code
    assert words in error.detail


async def test_a_stage_works_for_nobody_whom_its_operator_has_not_named(pool):
    part = stages([2])[0]
    async with pool.stage(part) as server:
        foreign = stub(pool, server.party_address, "operator-b/node-b")
        error = await failure(foreign.Join(messages(opened(pool, part)), timeout=5))
        assert error.code is Code.FORBIDDEN
        assert "operator-b/node-b" in error.detail
        with pytest.raises(grpc.RpcError) as caught:
            await foreign.Push(messages(stages_pb2.PushRequest(chain=b"\7" * 32)), timeout=5)
        assert error_from_rpc(caught.value).code is Code.FORBIDDEN


def _nan() -> stages_pb2.StageStep:
    return to_message(Boundary(0, (Rows(1, 0, (1,)),), torch.full((1, WIDTH), float("inf"))))


def _spans(*spans: stages_pb2.StageSpan, rows: int = 2) -> stages_pb2.StageStep:
    return stages_pb2.StageStep(spans=spans, states=bytes(4 * WIDTH * rows))


SPAN = stages_pb2.StageSpan
WRONG = {
    "out of order": good(1),
    "not a number": _nan(),
    "too few bytes": stages_pb2.StageStep(spans=[SPAN(count=2, blocks=[1])], states=b"\0" * 7),
    "no rows": stages_pb2.StageStep(),
    "an empty span": _spans(SPAN(count=0, blocks=[1]), SPAN(count=2, blocks=[1])),
    "more rows than asked for": stages_pb2.StageStep(
        spans=[SPAN(count=513, blocks=[1])], states=bytes(4 * WIDTH * 513)
    ),
    "a block that it does not have": _spans(SPAN(count=2, blocks=[9])),
    "a position without a block": _spans(SPAN(count=2, position=63, blocks=[1])),
    "a way through more stages than there are": stages_pb2.StageStep(
        spans=[SPAN(count=2, blocks=[1])],
        states=bytes(8 * WIDTH),
        spent=[stages_pb2.StageSpent(took_us=1)] * 66,
    ),
    "a position beyond the model's": _spans(SPAN(count=2, position=4000, blocks=[1] * 63)),
}


@pytest.mark.parametrize("what", WRONG)
async def test_nothing_is_computed_of_a_step_that_is_not_due(pool, what):
    part = stages([2])[0]
    async with pool.stage(part) as server:
        sent = messages(
            opened(pool, part),
            going(),
            stages_pb2.JoinRequest(step=WRONG[what]),
            then=asyncio.Event(),
        )
        call = stub(pool, server.party_address).Join(sent, timeout=5)
        error = await failure(call)
    assert error.code in {Code.MALFORMED, Code.INVALID_ARGUMENT}


async def test_more_steps_than_the_chain_has_under_way_end_it(pool):
    part = stages([2])[0]
    slow = threading.Event()

    class Slow:
        first, last = part.first, part.last
        cache = part.cache

        def __call__(self, states, rows, cache):
            slow.wait(10)
            return part(states, rows, cache)

    async with pool.stage(Slow()) as server:
        steps = [stages_pb2.JoinRequest(step=good(number)) for number in range(3)]
        sent = messages(opened(pool, part, steps=2), going(), *steps, then=asyncio.Event())
        call = stub(pool, server.party_address).Join(sent, timeout=20)
        failing = asyncio.create_task(failure(call))
        await asyncio.sleep(0.2)
        slow.set()
        error = await failing
    assert error.code is Code.OVERLOADED


async def test_states_are_pushed_only_for_a_chain_that_waits_for_them_and_once(pool):
    part = stages([2])[1]
    async with pool.stage(part) as server:
        calling, stays = stub(pool, server.party_address), asyncio.Event()

        async def pushed(chain: bytes, *steps: stages_pb2.StageStep) -> CounterfoilError:
            sent = [stages_pb2.PushRequest(step=step) for step in steps]
            with pytest.raises(grpc.RpcError) as caught:
                await calling.Push(messages(stages_pb2.PushRequest(chain=chain), *sent), timeout=5)
            return error_from_rpc(caught.value)

        assert (await pushed(b"\7" * 32)).code is Code.NOT_FOUND  # nobody has joined
        joined = calling.Join(
            messages(opened(pool, part, joined_first=False), going(), then=stays), timeout=20
        )
        assert (await joined.read()).WhichOneof("what") == "ready"
        assert (await pushed(b"\6" * 32)).code is Code.NOT_FOUND
        first = calling.Push(
            messages(
                stages_pb2.PushRequest(chain=b"\7" * 32),
                stages_pb2.PushRequest(step=good()),
                then=stays,
            ),
            timeout=20,
        )
        answer = await joined.read()
        assert from_message(answer.step, WIDTH).number == 0
        assert (await pushed(b"\7" * 32, good(1))).code is Code.NOT_FOUND  # one pushes already
        first.cancel()
        assert (await failure(joined)).code is Code.UNAVAILABLE
        stays.set()


async def test_who_is_joined_for_pushed_states_is_given_none_directly(pool):
    part = stages([2])[1]
    async with pool.stage(part) as server:
        sent = messages(
            opened(pool, part, joined_first=False),
            going(),
            stages_pb2.JoinRequest(step=good()),
            then=asyncio.Event(),
        )
        error = await failure(stub(pool, server.party_address).Join(sent, timeout=5))
    assert error.code is Code.INVALID_ARGUMENT


async def test_no_stage_begins_before_it_is_told_that_all_are_ready(pool):
    part = stages([2])[1]
    async with pool.stage(part) as server:
        calling = stub(pool, server.party_address)
        early = calling.Join(
            messages(opened(pool, part), stages_pb2.JoinRequest(step=good())), timeout=5
        )
        error = await failure(early)
        assert (error.code, "`go`" in error.detail) == (Code.INVALID_ARGUMENT, True)
        told, stays = asyncio.Event(), asyncio.Event()

        async def requests() -> AsyncIterator[Any]:
            yield opened(pool, part, joined_first=False)
            await told.wait()
            yield going()
            await stays.wait()

        joined = calling.Join(requests(), timeout=20)
        assert (await joined.read()).WhichOneof("what") == "ready"
        pushing = calling.Push(
            messages(
                stages_pb2.PushRequest(chain=b"\7" * 32),
                stages_pb2.PushRequest(step=good()),
                then=stays,
            ),
            timeout=20,
        )
        coming = asyncio.create_task(joined.read())
        await asyncio.sleep(0.1)
        assert not coming.done()  # computed, and kept until then
        told.set()
        assert from_message((await coming).step, WIDTH).number == 0
        pushing.cancel()
        stays.set()


async def test_a_nodes_next_chain_replaces_its_earlier_one_and_no_other_nodes(pool):
    """The earlier one's connection may be dead without anybody knowing; another node's is not to be taken away."""
    part = stages([2])[0]
    async with pool.stage(part) as server:
        stays = asyncio.Event()
        calling = stub(pool, server.party_address)
        before = calling.Join(messages(opened(pool, part), then=stays), timeout=20)
        await before.read()
        other = stub(pool, server.party_address, "operator-a/stage")
        error = await failure(other.Join(messages(opened(pool, part)), timeout=5))
        assert (error.code, error.retry_after_s) == (Code.OVERLOADED, 1.0)
        after = calling.Join(messages(opened(pool, part, chain=b"\5" * 32), then=stays), timeout=20)
        assert (await after.read()).WhichOneof("what") == "ready"
        assert "later chain" in (await failure(before)).detail
        after.cancel()


async def test_a_chain_whose_next_stage_refuses_says_which_and_why(pool):
    """The first of two stages is told of a next one that is somewhere else."""
    first, second = stages([2])
    async with pool.stage(first) as server, pool.stage(second) as elsewhere:
        sent = messages(opened(pool, first), going(elsewhere.party_address), then=asyncio.Event())
        error = await failure(stub(pool, server.party_address).Join(sent, timeout=10))
    assert error.code is Code.NOT_FOUND
    assert elsewhere.party_address in error.detail


def test_a_boundary_is_the_same_after_its_way():
    states = torch.randn(3, WIDTH)
    spent = Spent(0.5, 0.25), Spent(0.0, 2.0)
    boundary = Boundary(7, (Rows(2, 5, (3, 1)), Rows(1, 0, (2,))), states, spent=spent)
    message = to_message(boundary)
    back = from_message(stages_pb2.StageStep.FromString(message.SerializeToString()), WIDTH)
    assert (back.number, back.rows, back.spent) == (7, boundary.rows, spent)
    assert torch.equal(back.states, states)
    assert len(message.SerializeToString()) <= 3 * (4 * WIDTH + 100)


def test_the_offer_names_the_memory_that_is_lacking(pool):
    offer = replace(pool.offer(stages([2])[0]), blocks=3)
    with pytest.raises(CounterfoilError) as caught:
        offer.check(opened(pool, stages([2])[0]).open)
    assert "this stage has 3 and" in caught.value.detail
    assert "kv_memory_mib" in (caught.value.remedy or "")
    assert service.MOST_STEPS >= 256


async def test_a_line_that_is_closed_leaves_no_connection_open(pool):
    """A node connects its chain again for as long as it runs."""
    closed: list[str] = []
    party, ca_file = pool.party(), pool.authority.ca_file

    def reach(address: str) -> Any:
        channel: Any = secure_channel(address, ca_file, party)
        ordinary = channel.close

        def close() -> None:
            closed.append(address)
            ordinary()

        channel.close = close
        return channel

    first, second = stages([2])
    async with pool.stage(first) as one, pool.stage(second) as other:
        places = [place(one, first), place(other, second)]
        line = await asyncio.to_thread(
            RemoteLine.connect, None, places, pool.ask(), reach, lambda _arrived: None
        )
        assert closed == []
        line.close()
        assert sorted(closed) == sorted(each.address for each in places)
