"""The official client gets checked answers, with their receipts, from a proxy that it takes for the API."""

import asyncio
from dataclasses import replace

import httpx
import openai
import pytest

from execution_layer.client.archive import State
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.verify import verify_transcript
from execution_layer.node import session
from execution_layer.node.settings import Quotas
from shared.verification.bundle import bundle_of
from tests.execution_layer.asking import random32
from tests.execution_layer.client.test_client import states
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.proxy.serving import MODEL, live
from tests.execution_layer.waiting import until

HELLO = [{"role": "user", "content": "hello"}]


async def test_a_program_of_the_official_client_gets_a_checked_answer_with_its_receipt(world):
    async with world.node(), live(world) as proxy, proxy.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO, seed=7, temperature=0.5, max_completion_tokens=6
        )
        answer = raw.parse()
        choice = answer.choices[0]
        assert (answer.object, answer.model) == ("chat.completion", MODEL)
        assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
        assert len(choice.message.content.split()) == 6
        assert answer.usage.model_dump(exclude_unset=True) == {
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        proof = answer.counterfoil
        assert raw.headers["x-counterfoil-receipt"] == proof["receipt"]
        assert (proof["checked"], proof["node"]) == (True, "honest/node-1")
        async with world.client() as owner:
            kept = owner.archive.find(proof["receipt"])
            assert kept.order_entry.hex() == proof["order"]
            assert kept.tags == {"cost_centre": "sales", "proxy_key": proxy.key_id}
        again = await client.chat.completions.create(
            model=MODEL, messages=HELLO, seed=7, temperature=0.5, max_tokens=6
        )
        assert again.choices[0].message.content == choice.message.content


async def test_the_blocking_client_and_the_list_of_models(world):
    def program(url, key):
        with openai.OpenAI(
            base_url=url, api_key=key, http_client=openai.DefaultHttpxClient(trust_env=False)
        ) as client:
            (model,) = client.models.list().data
            answer = client.chat.completions.create(model=model.id, messages=HELLO)
            return model, client.models.retrieve(model.id), answer

    async with world.node(), live(world) as proxy:
        model, again, answer = await asyncio.to_thread(program, proxy.base_url, proxy.key)
        assert model == again
        assert model.id == MODEL
        assert answer.usage.completion_tokens == 8  # the configured default


async def test_turns_and_parts_of_text_reach_the_model_in_order(world):
    engine = FakeEngine()
    async with world.node(engine), live(world) as proxy, proxy.openai() as client:
        await client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": t} for t in ("he", "llo")]},
                {"role": "assistant", "content": "yes?", "refusal": None, "tool_calls": None},
                {"role": "user", "content": "go on"},
            ],
            stop="nowhere",
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            top_p=0.9,
            extra_body={"top_k": 3, "a_parameter_of_tomorrow": {"deep": [1]}},
        )
        (generation,) = engine.generations
        assert bytes(generation.request.prompt_ids) == b"be brief|hello|yes?|go on"
        settings = generation.request.settings
        assert (settings.stop, settings.top_p_ppm, settings.top_k) == (("nowhere",), 900_000, 3)
        assert settings.presence_penalty_ppm == 500_000
        assert settings.frequency_penalty_ppm == -250_000


async def test_several_answers_are_several_orders_each_with_a_receipt(world):
    async with world.node(), live(world) as proxy, proxy.openai() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) == 3
        receipts = [choice.counterfoil["receipt"] for choice in answer.choices]
        assert answer.counterfoil["receipts"] == receipts
        assert len(set(receipts)) == 3
        assert answer.usage.completion_tokens == 3 * 8  # what the three receipts bill


async def test_a_plain_prompt_is_completed_verbatim(world):
    engine = FakeEngine(stops_after=3)
    async with world.node(engine), live(world) as proxy, proxy.openai() as client:
        answer = await client.completions.create(model=MODEL, prompt="hello")
        assert (answer.object, answer.choices[0].finish_reason) == ("text_completion", "stop")
        assert len(answer.choices[0].text.split()) == 3
        assert bytes(engine.generations[0].request.prompt_ids) == b"hello"
        assert engine.generations[0].request.settings.max_tokens == 16


class FakeText:
    """A double of the client's tokenizer: it spells as the fake engine does."""

    def __init__(self, engine):
        self.tokenizer = self
        self._engine = engine

    def decode(self, tokens):
        return "".join(map(self._engine.text, tokens))


async def test_log_probabilities_have_the_tokens_texts(world, monkeypatch):
    from execution_layer.client.client import AsyncCounterfoilClient

    engine = FakeEngine()
    async with world.node(engine), live(world) as proxy, proxy.openai() as client:
        asked = {"model": MODEL, "messages": HELLO, "logprobs": True, "top_logprobs": 2}
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**asked)
        assert "tokenizer fetch" in caught.value.message
        monkeypatch.setattr(AsyncCounterfoilClient, "text_of", lambda *_: FakeText(engine))
        answer = await client.chat.completions.create(**asked)
        told = answer.choices[0].logprobs.content
        assert "".join(one.token for one in told) == answer.choices[0].message.content
        assert told[0].logprob == -5e-6
        assert bytes(told[0].bytes).decode() == told[0].token
        assert [top.logprob for top in told[0].top_logprobs] == [-5e-6, -0.001005]
        legacy = await client.completions.create(model=MODEL, prompt="hello", logprobs=1)
        shown = legacy.choices[0].logprobs
        assert "".join(shown.tokens) == legacy.choices[0].text
        assert shown.text_offset[1] == len(shown.tokens[0])


async def test_an_answer_whose_receipt_lies_is_not_an_answer(world, monkeypatch):
    async with world.node(), live(world) as proxy, proxy.openai(max_retries=2) as client:
        true = session.draft_receipt
        lie = random32()
        monkeypatch.setattr(
            session, "draft_receipt", lambda *facts: replace(true(*facts), h_final=lie)
        )
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.status_code == 502
        assert caught.value.code == "commitment_mismatch"
        async with world.client() as owner:  # nor was it asked again, behind the caller's back
            assert states(owner) == [(0, 0, State.DISBELIEVED)]


async def test_who_gives_up_cancels_the_order(world):
    engine = FakeEngine(holds_after=2)
    async with world.node(engine), live(world) as proxy, proxy.openai() as client:
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO))
        await engine.submitted.wait()
        asking.cancel()
        await until(lambda: engine.generations[0].cancelled_for is not None)
        assert engine.generations[0].cancelled_for == "cancelled"


async def test_a_timeout_of_the_official_client_leaves_no_order_open(world):
    engine = FakeEngine(holds_after=0)
    async with world.node(engine), live(world) as proxy, world.client() as owner:
        async with proxy.openai(timeout=httpx.Timeout(60, read=0.2)) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model=MODEL, messages=HELLO)
        await until(lambda: State.ORDERED not in {state for _, _, state in states(owner)})
        assert State.ANSWERED not in {state for _, _, state in states(owner)}


async def test_a_nodes_quota_and_the_proxys_own_are_429_with_the_time_to_wait(world):
    engine = FakeEngine(holds_after=0)
    async with (
        world.node(engine, quotas=Quotas(in_flight_per_tenant=1)),
        live(world, policy={"max_attempts": 1}, answers=2) as proxy,
        proxy.openai() as client,
    ):
        first = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO))
        await engine.submitted.wait()
        for n, told in ((1, "node-1"), (2, "under way")):
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(model=MODEL, messages=HELLO, n=n)
            assert told in caught.value.message
            assert int(caught.value.response.headers["retry-after"]) >= 1
        engine.holds_after = None
        engine.generations[0].release()
        assert (await first).choices


async def test_a_receipt_is_shown_with_its_proof_to_its_own_key_alone(world):
    async with world.node(), live(world) as proxy, proxy.openai() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        entry = answer.counterfoil["receipt"]
        path = f"counterfoil/receipts/{entry}"
        async with proxy.http() as own:
            found = (await own.get(path)).json()
            async with asyncio.timeout(20):
                while found["proof"] is None:  # its node has not delivered it yet
                    found = (await own.get(path)).json()
            missing = [await own.get(f"counterfoil/receipts/{other}") for other in ("ab", "0" * 64)]
        assert [one.status_code for one in missing] == [400, 404]
        assert (found["receipt"], found["state"]) == (entry, "answered")
        assert "c2sp.org/tlog-proof" in found["proof"]
        assert bundle_of(found["bundle"]).statement.hex() == found["statement"]
        policy = ClientPolicy.load(world.folder / "client" / "client.toml")
        async with world.client() as owner:
            steps = verify_transcript(owner.archive, owner.archive.find(entry), policy)
            assert all(step.holds for step in steps)
            order = owner.archive.find(entry).order_entry.hex()
            theirs = await owner.generate(prompt="hello", max_tokens=2)
        async with proxy.http() as own:
            hidden = [
                await own.get(f"counterfoil/receipts/{other}")
                for other in (order, theirs.receipt.entry.hex())
            ]
        async with proxy.http(proxy.add_key("other")) as foreign:
            hidden.append(await foreign.get(path))
        assert {one.status_code for one in hidden} == {404}
        assert len({one.json()["error"]["message"] for one in hidden}) == 1
