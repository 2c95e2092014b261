"""A client with the tokenizer checks prompt and answer itself; one without it says that it does not."""

from pathlib import Path

import pytest

from execution_layer.client.archive import State
from execution_layer.client.reading import Texts
from execution_layer.client.verify import verify_transcript
from shared.runtime.errors import Code, CounterfoilError
from shared.text.generation import stop_tokens
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from tests.execution_layer import world as world_module
from tests.execution_layer.fakes import FakeEngine

MODEL = Path(__file__).parents[3] / "shared/model/checkpoints/counterfoil-mini"


class Speaker(FakeEngine):
    """A double of the engine that says a sentence in the shipped model's tokens."""

    def __init__(self, tokenizer, sentence):
        super().__init__()
        self._tokenizer = tokenizer
        self._tokens = tokenizer.encode(sentence)
        self.text = lambda token: tokenizer.decode([token])

    def token(self, request, position):
        return self._tokens[position % len(self._tokens)]


@pytest.fixture
def tokenizer(monkeypatch):
    found = Tokenizer.from_folder(MODEL, stop_tokens(MODEL))
    monkeypatch.setattr(world_module, "fake_tokenise", lambda body: prompt_ids(found, body))
    return found


async def test_a_text_that_the_tokens_say_is_verified_and_another_is_not_handed_out(
    world, tokenizer
):
    engine = Speaker(tokenizer, "A receipt is signed.")
    async with world.node(engine), world.client(tokenizer=MODEL) as client:
        answer = await client.generate(prompt="hello", max_tokens=4)
        assert answer.text_verified
        assert answer.text == tokenizer.decode(answer.token_ids)
        assert answer.usage.input == len(tokenizer.encode_prompt("hello"))
        shown = []
        engine.text = lambda _token: "another text"
        with pytest.raises(CounterfoilError) as caught:
            await client.generate(prompt="hello", max_tokens=4, on_text=shown.append)
        assert caught.value.code is Code.COMMITMENT_MISMATCH
        assert (
            "honest/node-1: frame 1 has a text that does not match its tokens"
            in caught.value.detail
        )
        assert shown == []
        lied, true = client.archive.latest(2)
        assert (lied.state, true.state) == (State.DISBELIEVED, State.ANSWERED)
        assert lied.frames
        engine.text = lambda _token: ""
        with pytest.raises(CounterfoilError, match="is not the complete text of its tokens"):
            await client.generate(prompt="hello", max_tokens=4)


async def test_without_a_tokenizer_the_text_is_the_nodes_word_and_is_found_out_with_one(world):
    async with world.node(), world.client() as client:
        answer = await client.generate(prompt="hello", max_tokens=4)
        assert not answer.text_verified
        kept = client.archive.get(answer.transcript_id)
        policy = world.policy(tokenizer=MODEL)
        failed = verify_transcript(client.archive, kept, policy)[-1]
        assert not failed.holds
        assert "frame 1 has a text that does not match its tokens" in failed.detail


async def test_a_client_without_the_packages_is_told_which(world, monkeypatch):
    import builtins

    true = builtins.__import__

    def missing(name, *arguments):
        if name == "shared.text.tokenizer":
            raise ImportError("no tokenizers", name="tokenizers")
        return true(name, *arguments)

    texts = Texts(world.policy(tokenizer=MODEL))
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CounterfoilError, match="without the package tokenizers") as caught:
        texts.of(bytes(32))
    assert caught.value.code is Code.CONFIGURATION
    assert "counterfoil[text]" in caught.value.remedy
