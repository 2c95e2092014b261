"""What arrives is read or refused by name, whatever it is; the table says what becomes of every parameter that there is."""

import json
import typing
from pathlib import Path

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params

from execution_layer.proxy import reference
from execution_layer.proxy.asking import read_chat, read_completion, read_object
from execution_layer.proxy.parameters import CHAT, COMPLETIONS, Standing
from shared.runtime.errors import Code, CounterfoilError

ROOT = Path(__file__).parents[3]
CHATTING = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COMPLETING = {"model": "m", "prompt": "hello"}


def chat(**given):
    return read_chat({**CHATTING, **given}, 100)


def refusal(read, *arguments, **given):
    with pytest.raises(CounterfoilError) as caught:
        read(*arguments, **given)
    return caught.value


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (chat_params.CompletionCreateParamsNonStreaming, CHAT),
        (completion_create_params.CompletionCreateParamsNonStreaming, COMPLETIONS),
    ],
)
def test_every_parameter_of_the_official_client_has_its_place_in_the_table(theirs, ours):
    names = [parameter.name for parameter in ours]
    assert len(names) == len(set(names))
    assert set(typing.get_type_hints(theirs)) <= set(names)


def test_the_page_is_made_from_the_table():
    page = (ROOT / "docs/proxy-parameters.md").read_text("utf-8")
    assert page == reference.reference(), "run `make generate`"


@pytest.mark.parametrize(
    ("read", "plain", "table"),
    [
        (lambda given: read_chat(given, 100), CHATTING, CHAT),
        (read_completion, COMPLETING, COMPLETIONS),
    ],
)
def test_what_is_refused_is_refused_by_name_unless_it_asks_for_nothing(read, plain, table):
    for parameter in table:
        for value in ({"type": "json_object"}, [{"type": "function"}], True, "high", 2):
            if parameter.standing is Standing.REFUSED:
                error = refusal(read, {**plain, parameter.name: value})
                assert (error.code, error.metadata["param"]) == (Code.UNSUPPORTED, parameter.name)
            elif parameter.standing is Standing.IGNORED:
                read({**plain, parameter.name: value})
        for harmless in (None, *parameter.harmless):
            if parameter.standing is Standing.REFUSED:
                value = list(harmless) if isinstance(harmless, tuple) else harmless
                read({**plain, parameter.name: value})


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 10_000}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages[0].name"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": {}}, "frequency_penalty"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": "\ud800"}, "stop"),
        ({"stop": ["y" * 257]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": 3}, "stream_options"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_cannot_be_is_refused_by_its_parameters_name(given, param):
    error = refusal(chat, **given)
    assert error.code in {Code.INVALID_ARGUMENT, Code.UNSUPPORTED}
    assert error.metadata["param"] == param
    assert len(error.detail) < 300


@pytest.mark.parametrize("prompt", [None, [1, 2], ["a", "b"], [[1]], 3, "\ud800"])
def test_a_prompt_is_one_text(prompt):
    assert refusal(read_completion, {"model": "m", "prompt": prompt}).metadata["param"] == "prompt"
    assert read_completion({"model": "m", "prompt": ["hello"]}).prompt == "hello"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b'"text"',
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b'{"model": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": ' * 100_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps({"a": 1}).encode("utf-16"),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_object_is_malformed(body):
    assert refusal(read_object, body).code is Code.MALFORMED


def test_defaults_and_extremes_are_what_the_api_has():
    plain = chat()
    assert (plain.settings.max_tokens, plain.settings.temperature_ppm) == (100, 1_000_000)
    assert (plain.n, plain.seed, plain.stream, plain.include_usage) == (1, None, False, False)
    assert read_completion(COMPLETING).settings.max_tokens == 16
    assert chat(seed=-1).seed == 2**64 - 1
    assert chat(stop=[]).settings.stop == ()
    assert chat(max_tokens=5, max_completion_tokens=5).settings.max_tokens == 5
    assert chat(presence_penalty=0, top_k=0, min_p=0, repetition_penalty=1) == plain
