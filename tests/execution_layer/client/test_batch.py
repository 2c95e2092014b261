"""Many requests at once: each is told of as it ends, also where it failed and whom it was sent to."""

from types import SimpleNamespace

import pytest

from execution_layer.client.batch import run_batch
from execution_layer.client.prompts import PromptLine
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import SamplingSettings

NODES = ("one/a", "two/b")
LINE = PromptLine((), "hello", SamplingSettings(1), None, None)


class Disbelieving:
    """A double of a client that believes no answer."""

    async def nodes(self):
        return [SimpleNamespace(name=name) for name in NODES]

    async def generate(self, *_arguments, **_options):
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the text is another")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"spread": True, "node": None}, ["one/a", "two/b", "one/a"]),
        ({"spread": False, "node": "two/b"}, ["two/b"] * 3),
        ({"spread": False, "node": None}, [None] * 3),
    ],
)
async def test_a_failure_names_the_node_that_was_required_and_no_other(options, asked):
    told = []
    failed = await run_batch(
        Disbelieving(), [LINE] * 3, concurrency=1, on_result=told.append, **options
    )
    assert failed == 3
    assert [item.get("node") for item in told] == asked
    assert {(item["error"], item["checked"]) for item in told} == {("COMMITMENT_MISMATCH", False)}
