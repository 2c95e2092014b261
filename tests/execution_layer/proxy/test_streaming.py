"""A stream brings every token once, says at its end that it was checked, and never ends well if it was not."""

import asyncio
import json
from dataclasses import replace

import openai
import pytest

from execution_layer.node import session
from execution_layer.proxy import answering
from execution_layer.proxy.answers import Shape
from execution_layer.proxy.asking import read_chat
from execution_layer.proxy.telling import Telling
from shared.runtime.errors import Code, CounterfoilError
from tests.execution_layer.asking import random32
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.proxy.serving import MODEL, live
from tests.execution_layer.waiting import until

HELLO = [{"role": "user", "content": "hello"}]
ASKED = {"model": MODEL, "messages": HELLO, "stream": True, "seed": 1}


async def test_chunks_make_up_the_answer_and_the_last_ones_say_that_it_was_checked(world):
    async with world.node(FakeEngine(pause_s=0.01)), live(world) as proxy:
        async with proxy.openai() as client:
            whole = await client.chat.completions.create(**{**ASKED, "stream": False})
            stream = await client.chat.completions.create(
                **ASKED, stream_options={"include_usage": True}
            )
            *chunks, last, usage = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        said = "".join(chunk.choices[0].delta.content for chunk in chunks)
        assert said == whole.choices[0].message.content
        assert {chunk.choices[0].finish_reason for chunk in chunks} == {None}
        assert last.choices[0].finish_reason == "length"
        assert last.counterfoil["checked"]
        assert last.counterfoil["receipt"] == usage.counterfoil["receipt"]
        assert usage.choices == []
        assert usage.usage == whole.usage
        assert {chunk.id for chunk in (*chunks, last)} == {usage.id}
        body = (await proxy.post("chat/completions", ASKED)).text
        assert body.endswith("data: [DONE]\n\n")
        assert '"usage"' not in body


async def test_several_answers_and_plain_prompts_stream_too(world):
    async with world.node(), live(world) as proxy, proxy.openai() as client:
        said = {0: "", 1: ""}
        async for chunk in await client.chat.completions.create(**ASKED, n=2):
            said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert [len(text.split()) for text in said.values()] == [8, 8]
        assert said[0] != said[1]
        stream = await client.completions.create(model=MODEL, prompt="hello", stream=True, seed=1)
        chunks = [chunk async for chunk in stream]
        assert len("".join(chunk.choices[0].text for chunk in chunks).split()) == 16
        assert chunks[-1].counterfoil["checked"]


async def test_a_stream_whose_receipt_lies_ends_with_an_error_and_never_with_done(
    world, monkeypatch
):
    true, lie = session.draft_receipt, random32()
    monkeypatch.setattr(session, "draft_receipt", lambda *facts: replace(true(*facts), h_final=lie))
    engine = FakeEngine(holds_after=2)
    async with world.node(engine), live(world) as proxy:
        text = ""
        async with (
            proxy.http() as client,
            client.stream("POST", "chat/completions", json=ASKED) as response,
        ):
            async for piece in response.aiter_text():  # it has begun: the status cannot say it
                text += piece
                engine.generations[0].release()
        assert '"code": "commitment_mismatch"' in text
        assert "[DONE]" not in text
        assert '"checked"' not in text
        async with proxy.openai() as client:
            stream = await client.chat.completions.create(**ASKED)

            async def read():
                async for _ in stream:
                    engine.generations[-1].release()

            with pytest.raises(openai.APIError):
                await read()


async def test_a_stream_goes_on_elsewhere_without_losing_or_repeating_a_token(world):
    dying = FakeEngine(dies_after=3, pause_s=0.02)
    async with world.node(dying), world.node(FakeEngine(), name="node-2"), live(world) as proxy:
        async with proxy.openai() as client:
            said, last = [], None
            async for chunk in await client.chat.completions.create(**ASKED):
                said.append(chunk.choices[0].delta.content or "")
                last = chunk
            whole = await client.chat.completions.create(**{**ASKED, "stream": False})
        assert "".join(said) == whole.choices[0].message.content
        assert last.counterfoil["node"] == "honest/node-2"
        assert last.counterfoil["checked"]


async def test_what_fails_before_any_text_is_an_answer_with_a_status(world):
    async with world.node():
        pass
    async with live(world, policy={"max_attempts": 1}) as proxy:
        response = await proxy.post("chat/completions", ASKED)
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "server_error"


async def test_who_closes_a_stream_cancels_its_order(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine), live(world) as proxy, proxy.openai() as client:
        stream = await client.chat.completions.create(**ASKED)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        await until(lambda: engine.generations[0].cancelled_for is not None)
        assert engine.generations[0].cancelled_for == "cancelled"


async def test_a_proxy_stops_only_once_the_nodes_know_what_was_given_up(world):
    engine = FakeEngine(holds_after=0)
    async with world.node(engine):
        async with live(world) as proxy, proxy.openai() as client:
            asking = asyncio.create_task(client.chat.completions.create(**ASKED))
            await engine.submitted.wait()
            asking.cancel()
        assert engine.generations[0].cancelled_for == "cancelled"


async def test_what_nobody_reads_is_kept_once_and_read_once():
    telling = Telling()
    for text in ("a", "b", "", "c"):
        telling.say(0, text)
        telling.say(1, text.upper())
    await telling.wait()
    assert telling.take() == [(0, "abc"), (1, "ABC")]
    assert telling.take() == []
    assert (telling.heard(0), telling.heard(2)) == (3, 0)


async def test_a_reader_that_stops_costs_one_text_and_misses_nothing():
    asked = read_chat({"model": "m", "messages": HELLO, "stream": True}, 8)
    telling, goes_on, ends = Telling(), asyncio.Event(), asyncio.Event()
    sent = []

    async def answer():
        await ends.wait()
        raise CounterfoilError(Code.BAD_SIGNATURE, "the end")

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message.get("body", b""))
        if b"first" in sent[-1]:
            stopped.set()
            await goes_on.wait()

    stopped = asyncio.Event()
    telling.say(0, "first")
    work = answering._Work(receive, answer())
    sending = asyncio.create_task(
        answering._events(work, Shape(asked, "x", 0, None), telling, send)
    )
    await stopped.wait()
    words = [f"{n} " for n in range(1000)]
    for word in words:
        telling.say(0, word)
    goes_on.set()
    await until(lambda: b"999 " in sent[-1])
    ends.set()
    assert await sending is None
    work.gone.cancel()
    start, _role, first, rest, error, end = sent
    assert (start, end) == (b"", b"")
    assert json.loads(rest[6:])["choices"][0]["delta"]["content"] == "".join(words)
    assert (b"first" in first, b"bad_signature" in error) == (True, True)
