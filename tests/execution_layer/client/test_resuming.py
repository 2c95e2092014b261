"""A stream that breaks goes on: a pause for the application, nothing twice, nothing lost, and no second value of anything."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field

import pytest

from execution_layer.client import calls
from execution_layer.client.accusations import accusations, exported
from execution_layer.client.archive import State
from execution_layer.client.contradiction import contradiction
from execution_layer.client.reopening import sent_of
from execution_layer.node.drafts import stream_context
from execution_layer.node.resuming import Resuming
from execution_layer.node.tape import FrameEvent, StreamSigner, Tape
from shared.codec.moment import now_ms
from shared.envelope.stream import FrameSealer, stream_hash, stream_signature_message
from shared.proto.counterfoil.execution.v1 import execution_pb2
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.runtime.keys import public_bytes, public_key
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Finish
from tests.execution_layer.fakes import FakeEngine, FakeWire
from tests.execution_layer.waiting import until

TOKENS = 8
BROKEN = CounterfoilError(Code.UNAVAILABLE, "the wire is cut")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("execution_layer.client.attempt.KEEP_EVERY_S", 0.01)


@dataclass
class Heard:
    """What an application gets."""

    text: list = field(default_factory=list)
    pauses: list = field(default_factory=list)
    retries: list = field(default_factory=list)

    @property
    def options(self):
        return {
            "prompt": "hello",
            "max_tokens": TOKENS,
            "on_text": self.text.append,
            "on_pause": lambda node, error: self.pauses.append((node, error.code)),
            "on_retry": lambda node, error: self.retries.append((node, error.code)),
        }


@pytest.fixture
def cuts(monkeypatch):
    """Break streams after so many events, the first stream first."""
    after = []
    ordinary = Tape.read

    async def read(self, *how):
        left = after.pop(0) if after else -1
        async for event in ordinary(self, *how):
            if left == 0:
                raise BROKEN
            left -= 1
            yield event
        if left == 0:
            raise BROKEN

    monkeypatch.setattr(Tape, "read", read)
    return after


def engine():
    """Each token has a frame of its own."""
    return FakeEngine(pause_s=0.02)


async def test_a_stream_that_breaks_again_and_again_is_a_pause_for_the_application(world, cuts):
    cuts += [3, 0, 1, 4]
    heard = Heard()
    async with world.node(engine()) as node, world.client() as client:
        answer = await client.generate(**heard.options)
        assert "".join(heard.text) == answer.text
        assert answer.usage.output == TOKENS == len(heard.text)
        # what brought nothing new belongs to the break before it
        assert heard.pauses == [("honest/node-1", Code.UNAVAILABLE)] * 2
        (kept,) = client.archive.latest(5)
        stored = node.store.evidence_of(answer.receipt.entry)
        assert (kept.state, kept.frames) == (State.ANSWERED, stored.frames)
        await world.audit.wait_for_receipts(1)
        assert heard.retries == []
        assert len(world.audit.receipts()) == 1


async def test_an_answer_that_is_whole_needs_no_call_that_ends_well(world, cuts):
    cuts.append(1 + TOKENS + 1)  # the acceptance, the frames, the final record
    heard = Heard()
    async with world.node(engine()), world.client() as client:
        answer = await client.generate(**heard.options)
        assert answer.usage.output == TOKENS == len(heard.text)
        assert (heard.pauses, heard.retries, cuts) == ([], [], [])
        assert client.archive.latest(1)[0].state is State.ANSWERED


async def test_a_blocking_application_is_told_too(world, cuts):
    from execution_layer.client.sync import CounterfoilClient

    cuts += [3]
    heard = Heard()
    async with world.node(engine()):

        def blocking():
            with CounterfoilClient(world.policy()) as client:
                return client.generate(**heard.options)

        answer = await asyncio.to_thread(blocking)
    assert "".join(heard.text) == answer.text
    assert len(heard.pauses) == 1


async def test_a_node_that_comes_back_after_its_crash_finishes_what_it_had_begun(world):
    heard = Heard()
    world.operator()  # whom the client's policy is to name
    async with FakeWire() as wire, world.client() as client:
        async with world.node(
            FakeEngine(pause_s=0.02, holds_after=3), endpoint=wire.address, grace_s=0.05
        ) as node:
            node.store.finish = _never
            wire.join(node.address)
            asking = asyncio.create_task(client.generate(**heard.options))
            await until(lambda: len(heard.text) == 3)
            wire.cut()
        async with world.node(engine(), endpoint=wire.address) as node:
            wire.join(node.address)
            answer = await asking
            await world.audit.wait_for_receipts(1)
        assert "".join(heard.text) == answer.text
        assert (answer.usage.output, answer.finish) == (TOKENS, Finish.LENGTH)
        assert (answer.number, answer.attempt) == (0, 0)
        assert len(world.audit.receipts()) == 1


async def _never(*_what, **_how):
    raise OSError("killed")


async def test_patience_ends_and_another_node_is_tried(world, cuts, monkeypatch):
    async def away(_self, _wish):
        raise CounterfoilError(Code.UNAVAILABLE, "not yet")
        yield

    monkeypatch.setattr(Resuming, "events", away)
    cuts += [3]
    heard = Heard()
    async with (
        world.node(engine()),
        world.node(engine(), name="node-2"),
        world.client(resume_patience_s=0.2) as client,
    ):
        answer = await client.generate(**heard.options)
        assert (answer.attempt, len(heard.pauses), len(heard.retries)) == (1, 1, 1)
        assert client.archive.latest(2)[1].state is State.BROKEN


@pytest.mark.parametrize("patience_s", [0, 30])
async def test_no_time_is_lost_where_nothing_is_to_be_had(world, cuts, monkeypatch, patience_s):
    async def gone(_self, _wish):
        raise CounterfoilError(Code.NOT_FOUND, "there is no such response here")
        yield

    monkeypatch.setattr(Resuming, "events", gone)
    cuts += [3]
    async with (
        world.node(engine()),
        world.node(engine(), name="node-2"),
        world.client(resume_patience_s=patience_s) as client,
    ):
        heard = Heard()
        async with asyncio.timeout(20):
            answer = await client.generate(**heard.options)
        assert (answer.attempt, len(heard.retries)) == (1, 1)


async def test_the_calls_own_timeout_ends_a_pause(world, cuts, monkeypatch):
    async def away(_self, _wish):
        raise CounterfoilError(Code.UNAVAILABLE, "not yet")
        yield

    monkeypatch.setattr(Resuming, "events", away)
    cuts += [3]
    async with world.node(engine()), world.client(resume_patience_s=600) as client:
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(**Heard().options, timeout_s=1.0)
        assert caught.value.code is Code.DEADLINE


# -- a resumed stream that differs ---------------------------------------------------------------------------


async def forged(client, node, *, nonce=None, common=0):
    """Return another stream of the newest attempt, all of it sealed and signed by its node, after `common` true frames."""
    kept = client.archive.latest(1)[0]
    statement, _ = client.archive.bundle(kept.bundle)
    bundle, _ = open_as(KeyBundle, statement, None)
    sent = sent_of(kept, bundle, kept.bundle, public_bytes(client._terms.key))
    found = node.store.unfinished()[0]
    context = stream_context(sent.order, nonce or found.accepted.node_nonce)
    signer = StreamSigner(context, node._signer)
    sealer = FrameSealer(sent.opened.keys, context)
    frames = []
    for index in range(1, TOKENS + 1):
        if index <= common:
            ciphertext = found.frames[index - 1]
            sealer.follow(ciphertext)
        else:
            ciphertext, _ = sealer.seal([4 + index], "other ")
        frames.append(signer.frame(index, ciphertext, sealer.h))
    return signer.accepted(), frames


async def another_nonce(client, node, _frames):
    accepted, frames = await forged(client, node, nonce=bytes(range(32)))
    return [accepted, *frames]


async def another_frame(client, node, _frames):
    accepted, frames = await forged(client, node, common=1)
    return [accepted, *frames[1:]]


async def another_chain(client, node, frames):
    accepted, forked = await forged(client, node, common=1)
    return [accepted, *forked[frames:]]


async def fewer_frames(client, node, frames):
    if frames > 2:
        raise CounterfoilError(Code.CONFLICT, "there are 2 frames")
    return await another_chain(client, node, frames)


async def garbage(client, node, _frames):
    accepted, _ = await forged(client, node)
    return [accepted, FrameEvent(4, bytes(80), bytes(64))]


async def unsigned_frame(client, node, _frames):
    accepted, frames = await forged(client, node, common=1)
    return [accepted, FrameEvent(2, frames[1].ciphertext, bytes(64))]


async def own_frame_again(client, node, _frames):
    accepted, frames = await forged(client, node, common=3)
    return [accepted, frames[1]]


@pytest.mark.parametrize(
    ("lie", "position"),
    [(another_nonce, 0), (another_frame, 2), (another_chain, 2), (fewer_frames, 2)],
)
async def test_a_resumed_stream_that_differs_is_refused_and_both_values_are_kept(
    world, cuts, monkeypatch, lie, position
):
    error, client, kept = await lied_to(world, cuts, monkeypatch, lie, always=True)
    assert error.code is Code.EQUIVOCATION
    [(place, value, signature)] = client.archive.contradictions(kept.id)
    assert place == position
    check_evidence(client, kept, place, value, signature)
    (one,) = accusations(client.archive)
    assert not one.convicts
    check_exported(json.loads(json.dumps(exported(client.archive, one))))


def check_exported(told):
    """A stranger with nothing but the file sees that the node signed two values in one place of one stream."""
    bundle, _ = open_as(KeyBundle, bytes.fromhex(told["bundle"]), None)
    order, _ = open_as(Order, bytes.fromhex(told["order"]), None)
    key, position = public_key(bundle.signing_key), told["position"]
    frames = [bytes.fromhex(frame["ciphertext"]) for frame in told["frames"]]
    assert len(frames) == position
    nonce, first = (bytes.fromhex(told["accepted"][name]) for name in ("node_nonce", "signature"))
    value, second = (bytes.fromhex(told["second"][name]) for name in ("value", "signature"))
    context = stream_context(order, nonce)
    key.verify(first, stream_signature_message(context, 0, context.h_0))
    if position == 0:
        assert value != nonce
        other = stream_context(order, value)
        key.verify(second, stream_signature_message(other, 0, other.h_0))
        return
    assert value != frames[-1]
    pairs = ((frames[-1], bytes.fromhex(told["frames"][-1]["signature"])), (value, second))
    for ciphertext, signature in pairs:
        h = stream_hash(context, [*frames[:-1], ciphertext])
        key.verify(signature, stream_signature_message(context, position, h))


@pytest.mark.parametrize("lie", [garbage, unsigned_frame, own_frame_again])
async def test_what_a_node_has_not_signed_twice_is_refused_and_convicts_nobody(
    world, cuts, monkeypatch, lie
):
    error, client, kept = await lied_to(world, cuts, monkeypatch, lie, always=False)
    assert error.code in calls.LIES - {Code.EQUIVOCATION}
    assert client.archive.contradictions(kept.id) == []


async def lied_to(world, cuts, monkeypatch, lie, *, always):
    """Cut a stream after three frames and have it resumed by a liar, who tells the truth to who asks for all of it unless it
    lies `always`; return the error, the client and what it has kept.
    """
    cuts.append(4)
    heard, ordinary = Heard(), Resuming.events
    monkeypatch.setattr(calls, "COMPARE_S", 2.0)
    async with (
        world.node(FakeEngine(pause_s=0.02, holds_after=5)) as node,
        world.client() as client,
    ):

        async def lying(self, wish):
            if always or wish.frames:
                for event in await lie(client, node, wish.frames):
                    yield event
            else:
                async for event in ordinary(self, wish):
                    yield event

        monkeypatch.setattr(Resuming, "events", lying)
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(**heard.options)
        kept = client.archive.latest(1)[0]
        assert kept.state is State.DISBELIEVED
        assert len(heard.text) == 3
        assert (len(heard.pauses), heard.retries) == (1, [])
        client.archive.close = lambda: None  # the test goes on reading it
    return caught.value, client, kept


def check_evidence(client, kept, position, value, signature):
    """What is kept convicts by the key bundle and the order alone, and only with what the node signed."""
    statement, _ = client.archive.bundle(kept.bundle)
    bundle, _ = open_as(KeyBundle, statement, None)
    sent = sent_of(kept, bundle, kept.bundle, public_bytes(client._terms.key))
    frames = kept.frames[:3]

    def second(value, signature):
        if position == 0:
            accepted = execution_pb2.Accepted(node_nonce=value, signature=signature)
            return execution_pb2.GenerateResponse(accepted=accepted)
        frame = execution_pb2.Frame(index=position, ciphertext=value, signature=signature)
        return execution_pb2.GenerateResponse(frame=frame)

    assert contradiction(sent, kept.node_nonce, frames, second(value, signature)) is not None
    mine = kept.node_nonce if position == 0 else frames[position - 1]
    for wrong in (
        second(value, signature[::-1]),
        second(value[::-1], signature),
        second(mine, signature),
    ):
        assert contradiction(sent, kept.node_nonce, frames, wrong) is None


# -- another process ----------------------------------------------------------------------------------------


async def given_up(world, cuts, monkeypatch, *, events=4):
    """Have a client give up on an answer that goes on at its node."""
    cuts.append(events)
    async with world.client(resume_patience_s=0, max_attempts=1) as client:
        with pytest.raises(CounterfoilError):
            await client.generate(**Heard().options)


async def test_another_process_finishes_an_answer_and_hears_all_of_it(world, cuts, monkeypatch):
    async with world.node(engine()) as node:
        await given_up(world, cuts, monkeypatch)
        cuts += [2]
        heard = Heard()
        async with world.client() as client:
            (open_one,) = client.archive.unfinished()
            assert (open_one.state, len(open_one.frames)) == (State.BROKEN, 3)
            answer = await client.resume(
                open_one.order_entry.hex(),
                on_text=heard.text.append,
                on_pause=heard.options["on_pause"],
            )
            assert "".join(heard.text) == answer.text
            assert answer.usage.output == TOKENS
            assert len(heard.pauses) == 1
            assert client.archive.unfinished() == []
            kept = client.archive.get(answer.transcript_id)
            assert kept.frames == node.store.evidence_of(answer.receipt.entry).frames
            with pytest.raises(CounterfoilError) as caught:
                await client.resume("latest")
            assert caught.value.code is Code.CONFLICT


async def test_what_the_node_has_no_more_of_is_lost_and_its_number_stays_used(
    world, cuts, monkeypatch
):
    async with world.node(engine()) as node:
        await given_up(world, cuts, monkeypatch)
        await world.audit.wait_for_receipts(1)
        await until(lambda: node.spool.counts().delivered)
        await node.store.purge_evidence(before_ms=now_ms() + 1000, max_bytes=2**30)
        async with world.client() as client:
            with pytest.raises(CounterfoilError) as caught:
                await client.resume("latest")
            assert caught.value.code is Code.NOT_FOUND
            assert client.archive.latest(1)[0].state is State.LOST
            assert client.archive.unfinished() == []
            assert (await client.generate(prompt="next", max_tokens=1)).number == 1


async def test_an_order_that_never_arrived_stays_open_until_nobody_can_accept_it(
    world, monkeypatch
):
    async with world.node(engine()), world.client(expiry_s=2) as client:
        monkeypatch.setattr("execution_layer.client.attempt.fault_point", _dies)
        with pytest.raises(SystemExit):
            await client.generate(prompt="hello", timeout_s=2)
        monkeypatch.undo()
        with pytest.raises(CounterfoilError) as caught:
            await client.resume("latest")
        assert caught.value.code is Code.NOT_FOUND
        assert client.archive.unfinished()[0].state is State.ORDERED
        later = now_ms() + 60_000
        monkeypatch.setattr("execution_layer.client.attempt.now_ms", lambda: later)
        with contextlib.suppress(CounterfoilError):
            await client.resume("latest")
        monkeypatch.undo()
        assert client.archive.latest(1)[0].state is State.REFUSED
        answer = await client.generate(prompt="next", max_tokens=1)
        assert (answer.number, answer.attempt) == (0, 1)


def _dies(name):
    if name == "client.ordered":
        raise SystemExit(9)


async def test_a_node_that_does_not_answer_leaves_it_open(world, cuts, monkeypatch):
    async with world.node(engine()):
        await given_up(world, cuts, monkeypatch)
    async with world.client(resume_patience_s=0.1) as client:
        with pytest.raises(CounterfoilError) as caught:
            await client.resume("latest")
        assert caught.value.code is Code.UNAVAILABLE
        assert [item.state for item in client.archive.unfinished()] == [State.BROKEN]


async def test_a_receipt_that_says_failed_ends_what_was_open(world, cuts, monkeypatch):
    dying = FakeEngine(pause_s=0.02, dies_after=5)
    async with world.node(dying):
        await given_up(world, cuts, monkeypatch)
        async with world.client() as client:
            with pytest.raises(CounterfoilError, match="failed, and says so"):
                await client.resume("latest")
            kept = client.archive.latest(1)[0]
            assert (kept.state, kept.receipt is None) == (State.ANSWERED, False)


async def command(world, *arguments, fault=""):
    """Run a command of the client; return (exit code, what it printed, what it said on stderr)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.runtime", *arguments[:-1]),
        *("--config", str(world.folder / "client" / "client.toml"), *arguments[-1:]),
        env={**os.environ, VARIABLE: fault},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_what_a_client_that_was_killed_had_kept_is_finished_by_the_command(world):
    async with world.node(FakeEngine(pause_s=0.1)):
        world.policy()
        asked = ("infer", "--max-tokens", str(TOKENS), "hello")
        code, _, _ = await command(world, *asked, fault="client.frames.kept:kill")
        assert code == -signal.SIGKILL
        code, listed, _ = await command(world, "client", "resume", "--list", "--json")
        (item,) = json.loads(listed)
        assert (code, item["state"]) == (0, "ordered")
        assert 1 <= item["frames"] < TOKENS
        code, finished, _ = await command(world, "client", "resume", "--json")
        facts = json.loads(finished)
        assert (code, facts["order"], facts["finish"]) == (0, item["order"], "length")
        assert len(facts["text"].split()) == TOKENS
        assert await command(world, "client", "resume", "--list", "--json") == (0, "[]\n", "")
        await world.audit.wait_for_receipts(1)
        assert len(world.audit.receipts()) == 1


async def test_the_command_says_that_an_answer_pauses(world, cuts):
    cuts += [3]
    async with world.node(engine()):
        world.policy()
        code, out, err = await command(world, "infer", "--max-tokens", str(TOKENS), "hello")
    assert (code, len(out.split())) == (0, TOKENS)
    assert "honest/node-1: " in err
    assert err.count("waiting for the rest") == 1
