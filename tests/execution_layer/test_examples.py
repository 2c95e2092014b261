"""The examples that people try first: the shipped model answers each of them correctly and, being greedy, always."""

import asyncio
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, GenerationRequest
from execution_layer.engine.scheduler import Limits
from shared.model.cpu import CpuBackend
from shared.model.decoder import load_decoder
from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.text.prompt import prompt_ids
from shared.text.stream import text_of
from shared.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "shared/model/checkpoints/counterfoil-mini"
PLACES = (
    "README.md",
    "execution_layer/client/__init__.py",
    "shared/installation/serve.py",
    "shared/installation/report.py",
)
"""Where examples are shown."""
ANSWERS = {
    "What is a receipt?": r"a signed statement of what a node has done",
    "What does a candle cost?": r"1\.20 euros",
    "Where does the fox live?": r"forest",
    "What does the owl eat?": r"mice",
}
GREEDY = re.compile(r'--temperature 0\b|"--temperature", "0"|temperature=0\b')


def examples():
    """Yield (place, line and the next, question) for every question in a place."""
    for place in PLACES:
        lines = (ROOT / place).read_text("utf-8").splitlines()
        for line, following in pairwise([*lines, ""]):
            for question in re.findall(r'"([A-Z][^"]*\?)"', line):
                yield place, f"{line}\n{following}", question


def test_every_place_has_an_example_and_every_example_is_greedy():
    found = list(examples())
    assert {place for place, _, _ in found} == set(PLACES)
    for place, line, question in found:
        assert question in ANSWERS, place
        assert GREEDY.search(line), (place, line)


@pytest.fixture(scope="module")
def answer():
    tokenizer = Tokenizer.from_folder(MODEL)
    decoder = load_decoder(MODEL, backend=CpuBackend(1))
    limits = Limits(
        sequences=4, queue=4, queue_per_tenant=4, prefill_rows=64, blocks=64, context=256
    )

    async def run(question):
        body = RequestBody(SamplingSettings(64, temperature_ppm=0), (Message("user", question),))
        engine = LocalEngine(decoder, tokenizer, limits)
        await engine.start()
        request = GenerationRequest(
            request_id="example",
            tenant="acme",
            prompt_ids=prompt_ids(tokenizer, body),
            settings=body.settings,
            seed=bytes(32),
            choice=0,
            deadline=time.monotonic() + 60,
        )
        async for event in engine.submit(request):
            if isinstance(event, Finished):
                tokens = event.output_ids
        await engine.stop()
        return text_of(tokenizer, tokens, ())

    return lambda question: asyncio.run(run(question))


@pytest.mark.parametrize("question", ANSWERS)
def test_the_shipped_model_answers_an_example_rightly(answer, question):
    assert re.search(ANSWERS[question], answer(question))
