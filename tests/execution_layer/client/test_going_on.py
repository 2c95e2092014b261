"""An answer goes on where a node broke off: the application hears every text once, and every attempt has its own receipt."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.client.archive import Ordered, State
from execution_layer.client.completion import CheckedReceipt, Completion, Timings
from execution_layer.client.going_on import GoingOn
from execution_layer.client.wanted import Wanted
from execution_layer.node.session import Session
from execution_layer.node.tape import StreamSigner
from shared.envelope.sealing import open_with_secret
from shared.envelope.stream import Frame
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import EnergyQuality, Finish, Usage
from shared.statements.request import RequestBody, SamplingSettings
from shared.text.generation import stop_tokens
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from tests.execution_layer import world as world_module
from tests.execution_layer.fakes import EOS, FakeEngine

PROMPT = "hello"
SEED = bytes(range(32))
MODEL = Path(__file__).parents[3] / "shared/model/checkpoints/counterfoil-mini"
MISSING = CheckedReceipt(None, b"", b"")  # type: ignore[arg-type]  # nobody looks into it
COMPLETE = CounterfoilError(Code.INVALID_ARGUMENT, "whole", metadata={"prefix": "complete"})


# -- what is put together, without a node ------------------------------------------------------------------


@dataclass
class Broken:
    """An attempt that broke off."""

    frames: list[Frame]
    ordered: Ordered = field(default_factory=lambda: Ordered(7, 0, 0, b"", b""))
    node: str = "operator/node-1"
    receipt: None = None


def wanted(tokens, heard):
    body = RequestBody(SamplingSettings(tokens), prompt=PROMPT, seed=SEED)
    return Wanted(body, bytes(32), None, None, heard.append, None, continues=True)


def completion(tokens, text, attempt=1):
    usage = Usage(input=1, cached=0, output=len(tokens), energy_quality=EnergyQuality.UNMEASURED)
    return Completion(
        text, tuple(tokens), MISSING, usage, Finish.LENGTH, Timings(None, 1.0), 8, 0, attempt, "b/n"
    )


def frames_of(tokens, sizes):
    """Cut tokens into frames; each token's text is its number."""
    frames, rest = [], list(tokens)
    for size in sizes:
        taken, rest = rest[:size], rest[size:]
        frames.append(Frame(tuple(taken), "".join(f"{token} " for token in taken)))
    return [frame for frame in frames if frame.tokens]


def said(going_on, asked, frames):
    """Have an attempt's frames heard; return an attempt that breaks off after them."""
    for frame in frames:
        asked.on_text(frame.text)
    return Broken(list(frames))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_over_any_breaks_the_answer_is_whole_and_heard_once(data):
    tokens, heard = list(range(100, 100 + data.draw(st.integers(1, 20)))), []
    going_on = GoingOn(wanted(len(tokens), heard), SEED)
    for _ in range(data.draw(st.integers(0, 4))):
        asked = going_on.next()
        start = len(asked.body.prefix)
        assert list(asked.body.prefix) == tokens[:start]
        assert asked.body.settings.max_tokens == len(tokens) - start > 0
        sizes = data.draw(st.lists(st.integers(1, 5), max_size=4))
        going_on.take(said(going_on, asked, frames_of(tokens[start:], sizes)))
        if data.draw(st.booleans()):
            going_on.shortened(COMPLETE)
    asked = going_on.next()
    rest = tokens[len(asked.body.prefix) :]
    text = "".join(f"{token} " for token in rest)
    asked.on_text(text)
    answer = going_on.complete(completion(rest, text))
    assert list(answer.token_ids) == tokens
    assert answer.text == "".join(heard) == "".join(f"{token} " for token in tokens)
    assert sum(part.tokens for part in answer.contributions) == len(tokens)
    assert all(part.tokens for part in answer.contributions)


def test_what_is_written_again_must_be_what_was_delivered():
    heard = []
    going_on = GoingOn(wanted(3, heard), SEED)
    going_on.take(said(going_on, going_on.next(), frames_of([5, 6, 7], [2, 1])))
    asked = going_on.next()
    assert asked.body.prefix == (5, 6)
    with pytest.raises(CounterfoilError) as caught:
        asked.on_text("8 ")
    assert caught.value.code is Code.CONFLICT
    assert "".join(heard) == "5 6 7 "
    asked = going_on.next()
    asked.on_text("7 ")
    with pytest.raises(CounterfoilError):  # the same text in another token
        going_on.complete(completion([9], "7 "))
    going_on.next()
    with pytest.raises(CounterfoilError):  # less than what was heard
        going_on.complete(completion([7], ""))


def test_an_error_about_something_else_shortens_nothing():
    going_on = GoingOn(wanted(3, []), SEED)
    assert not going_on.shortened(COMPLETE)  # there is no prefix
    going_on.take(said(going_on, going_on.next(), frames_of([5], [1])))
    assert not going_on.shortened(CounterfoilError(Code.INVALID_ARGUMENT, "too long"))
    assert going_on.next().body.prefix == (5,)


# -- with nodes --------------------------------------------------------------------------------------------


class Breaks(FakeEngine):
    """Dies after some tokens in each of its first requests, slowly enough for most of them to be on their way."""

    def __init__(self, *breaks):
        super().__init__(pause_s=0.05)
        self.breaks = list(breaks)

    def submit(self, request):
        self.dies_after = self.breaks.pop(0) if self.breaks else None
        return super().submit(request)


@pytest.fixture
def cut_off(monkeypatch):
    """Have nodes lose the connection, and everything that they did not store, at the first few ends of an answer."""
    ordinary, left = Session._finish, [0]

    async def finish(self, outcome):
        if left[0]:
            left[0] -= 1
            raise RuntimeError("the machine is gone")
        await ordinary(self, outcome)

    monkeypatch.setattr(Session, "_finish", finish)

    def times(count):
        left[0] = count

    return times


async def uninterrupted(client, **options):
    return await client.generate(prompt=PROMPT, seed=SEED, failover="again", **options)


def bodies(client):
    found = reversed(client.archive.latest(1000))
    return [open_with_secret(item.envelope, item.secret).body for item in found]


@pytest.mark.parametrize("told", [{}, {"logprobs": 2}])
async def test_a_node_that_fails_in_mid_stream_is_left_and_another_writes_the_rest(world, told):
    engine = Breaks(5, 3)
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue") as client,
    ):
        heard, retried = [], []
        answer = await client.generate(
            prompt=PROMPT,
            max_tokens=12,
            seed=SEED,
            on_text=heard.append,
            on_retry=lambda *facts: retried.append(facts),
            **told,
        )
        assert len(retried) == 2
        whole = await uninterrupted(client, max_tokens=12, **told)
        assert (answer.token_ids, answer.text) == (whole.token_ids, whole.text)
        assert answer.logprobs == whole.logprobs
        assert "".join(heard) == answer.text
        first, second, third = (part.tokens for part in answer.contributions)
        assert first + second + third == 12
        assert (first <= 5, second <= 3) == (True, True)
        assert [part.attempt for part in answer.contributions] == [0, 1, 2]
        assert {part.node for part in answer.contributions} == {"honest/node-1", "honest/node-2"}
        receipts = [part.receipt for part in answer.contributions]
        assert [one.value.finish for one in receipts] == [Finish.FAILED] * 2 + [Finish.LENGTH]
        assert [one.value.usage.input for one in receipts] == [5, 5 + first, 5 + first + second]
        assert receipts[-1] == answer.receipt
        sealed = bodies(client)[:3]
        assert [len(body.prefix) for body in sealed] == [0, first, first + second]
        assert [body.settings.max_tokens for body in sealed] == [12, 12 - first, third]
        assert {item.number for item in client.archive.latest(4)[1:]} == {answer.number}


async def test_a_stream_that_ends_without_a_word_goes_on_and_the_receipt_is_still_to_come(
    world, cut_off
):
    engine = Breaks(6)
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue", resume_patience_s=0) as client,
    ):
        cut_off(1)
        answer = await client.generate(prompt=PROMPT, max_tokens=10)
        assert [part.attempt for part in answer.contributions] == [0, 1]
        assert [part.receipt is None for part in answer.contributions] == [True, False]
        kept = client.archive.get(answer.contributions[0].transcript_id)
        assert (kept.state, kept.attempt) == (State.BROKEN, 0)
        first, second = bodies(client)
        assert first.seed == second.seed is not None  # the client fixed one
        again = await client.generate(prompt=PROMPT, max_tokens=10, seed=first.seed)
        assert answer.token_ids == again.token_ids


@pytest.mark.parametrize("stops", [False, True])
async def test_an_answer_whose_end_was_lost_is_heard_once_and_its_last_frame_written_again(
    world, cut_off, monkeypatch, stops
):
    """Nothing can come after it, which a client without the tokenizer learns from the node."""
    tokenizer = Tokenizer.from_folder(MODEL, stop_tokens(MODEL))
    monkeypatch.setattr(world_module, "fake_tokenise", lambda body: prompt_ids(tokenizer, body))
    engine = FakeEngine(stops_after=7 if stops else None, pause_s=0.01)
    options = {"max_tokens": 20 if stops else 8, "stop_token_ids": [EOS]}
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue", resume_patience_s=0) as client,
    ):
        cut_off(1)
        heard = []
        answer = await client.generate(prompt=PROMPT, seed=SEED, on_text=heard.append, **options)
        whole = await uninterrupted(client, **options)
        assert (answer.token_ids, answer.text, answer.finish) == (
            whole.token_ids,
            whole.text,
            whole.finish,
        )
        assert len(answer.token_ids) == 8
        assert "".join(heard) == answer.text
        attempts = [item for item in client.archive.latest(10) if item.number == answer.number]
        assert len(attempts) == (3 if stops else 2)


async def test_a_node_that_goes_on_differently_is_not_believed_to_be_the_same_answer(
    world, cut_off
):
    engine = FakeEngine(pause_s=0.01)
    ordinary, served = engine.token, []

    def token(request, position):
        served.append(request)
        return ordinary(request, position + (served[0] is not request))

    engine.token = token
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue", resume_patience_s=0) as client,
    ):
        cut_off(1)
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(prompt=PROMPT, seed=SEED, max_tokens=6)
        assert caught.value.code is Code.CONFLICT
        assert "differently" in caught.value.detail


async def test_text_that_a_node_held_back_is_made_up_for_by_a_client_with_the_tokenizer(
    world, cut_off, monkeypatch
):
    """A frame may say less than its tokens settle. What is missing comes before the next attempt's text."""
    tokenizer = Tokenizer.from_folder(MODEL, stop_tokens(MODEL))
    monkeypatch.setattr(world_module, "fake_tokenise", lambda body: prompt_ids(tokenizer, body))
    engine = Breaks(4)
    tokens = tokenizer.encode("A receipt is signed by the node that wrote it.")
    engine.token = lambda _request, position: tokens[position]
    engine.text = lambda token: "" if engine.dies_after else tokenizer.decode([token])
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue", tokenizer=MODEL) as client,
    ):
        cut_off(1)
        heard = []
        answer = await client.generate(
            prompt=PROMPT, seed=SEED, max_tokens=len(tokens), on_text=heard.append
        )
        assert answer.text == "".join(heard) == tokenizer.decode(tokens)
        assert answer.text_verified
        assert answer.token_ids == tuple(tokens)


async def test_what_a_node_did_not_sign_is_no_prefix(world, monkeypatch):
    """Frames that cannot be believed end the call: there is no silent retry, and nothing of them goes elsewhere."""
    ordinary = StreamSigner.frame

    def sign(self, index, ciphertext, h):
        return ordinary(self, index, ciphertext, h if index < 2 else bytes(32))

    monkeypatch.setattr(StreamSigner, "frame", sign)
    engine = FakeEngine(pause_s=0.02)
    async with (
        world.node(engine),
        world.node(engine, name="node-2"),
        world.client(failover="continue") as client,
    ):
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(prompt=PROMPT, max_tokens=6)
        assert caught.value.code is Code.BAD_SIGNATURE
        assert len(client.archive.latest(10)) == 1


async def test_an_option_of_another_kind_is_refused_by_name(world):
    async with world.client() as client:
        with pytest.raises(CounterfoilError, match="failover must be again or continue"):
            await client.generate(prompt=PROMPT, failover="go on")
