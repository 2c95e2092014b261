"""Prompt files: an invalid line is named with its number, and nothing is rounded twice."""

import json
from decimal import Decimal

import pytest

from execution_layer.client.options import sampling_settings, seed_bytes
from execution_layer.client.prompts import MAX_LINES, read_prompts
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message, SamplingSettings


def read(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return read_prompts(path)


def refusal(tmp_path, *lines):
    with pytest.raises(CounterfoilError) as caught:
        read(tmp_path, *lines)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.detail


def test_a_line_says_what_to_ask_and_how(tmp_path):
    (first, second) = read(
        tmp_path,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ],
            "max_tokens": 7,
            "temperature": 0.3,
            "top_p": 0.95,
            "top_k": 4,
            "stop": ["\n"],
            "seed": 5,
            "cost_centre": "sales",
            "tags": {"team": "search"},
        },
        "",
        {"prompt": "Once"},
    )
    assert first.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert first.settings == SamplingSettings(7, 300_000, 4, 950_000, ("\n",))
    assert first.seed == (5).to_bytes(32, "big")
    assert first.tags == {"cost_centre": "sales", "team": "search"}
    assert second.prompt == "Once"
    assert second.settings == SamplingSettings(256)
    assert second.seed is None
    assert second.tags is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not a request in JSON"),
        ("[]", "a line must be an object"),
        ('"text"', "a line must be an object"),
        ({"prompt": "x", "temprature": 1}, "unknown keys temprature"),
        ({"prompt": 5}, "prompt is not text"),
        ({"prompt": None}, "prompt is not text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role must be one of"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": "x"}, "messages must be a list"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens must be between"),
        ({"prompt": "x", "max_tokens": 2**20 + 1}, "max_tokens must be between"),
        ({"prompt": "x", "max_tokens": 10**400}, "max_tokens must be between"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens is not a whole number"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens is not a whole number"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "temperature": "warm"}, "temperature 'warm' is not a number"),
        ('{"prompt": "x", "temperature": NaN}', "temperature 'nan' is not a number"),
        ('{"prompt": "x", "temperature": 1e999999}', "is not a number"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "top_k": -1}, "top_k"),
        ({"prompt": "x", "stop": [""]}, "stop string"),
        ({"prompt": "x", "stop": ["x"] * 9}, "stop strings"),
        ({"prompt": "x", "min_p": 1.5}, "min_p must be"),
        ({"prompt": "x", "repetition_penalty": 0}, "repetition_penalty must be"),
        ({"prompt": "x", "presence_penalty": -3}, "presence_penalty must be"),
        ({"prompt": "x", "frequency_penalty": "much"}, "frequency_penalty 'much' is not a number"),
        ({"prompt": "x", "stop_token_ids": ["5"]}, "a stop token id is not a whole number"),
        ({"prompt": "x", "stop_token_ids": [2**32]}, "a stop token id must be"),
        ({"prompt": "x", "logprobs": 1.5}, "logprobs is not a whole number"),
        ({"prompt": "x", "logprobs": 21}, "logprobs must be"),
        ({"prompt": "x", "seed": -1}, "a seed must be"),
        ({"prompt": "x", "seed": 2**256}, "a seed must be"),
        ({"prompt": "x", "seed": 1.5}, "a seed must be"),
        ({"prompt": "x", "seed": "xyz"}, "seed"),
        ({"prompt": "x", "cost_centre": 5}, "the tag cost_centre must be text, not int"),
        ({"prompt": "x", "cost_centre": None}, "cost_centre is null"),
        ({"prompt": "x", "tags": None}, "tags is null"),
        ({"prompt": "x", "tags": ["team=search"]}, "tags must be a mapping of texts"),
        ({"prompt": "x", "tags": {"team": ["search"]}}, "the tag team must be text, not list"),
        ({"prompt": "x", "tags": {"Team": "search"}}, "'Team' cannot be the name of a tag"),
        ({"prompt": "x", "tags": {"cost_centre": "a"}, "cost_centre": "b"}, "is given twice"),
        ("[" * 100_000, "not a request"),
    ],
)
def test_a_wrong_line_is_named_with_its_place(tmp_path, line, told):
    detail = refusal(tmp_path, {"prompt": "fine"}, line)
    assert f"{tmp_path / 'prompts.jsonl'}:2: " in detail
    assert told in detail


def test_a_prompt_file_of_invalid_utf8_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(CounterfoilError) as caught:
        read_prompts(path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert f"{path} is not UTF-8 text" in caught.value.detail


def test_files_that_are_missing_empty_or_endless_are_named(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        read_prompts(tmp_path / "nowhere.jsonl")
    assert caught.value.code is Code.NOT_FOUND
    assert "nowhere.jsonl" in caught.value.detail
    assert "must have 1 to" in refusal(tmp_path, "", "  ")
    assert "must have 1 to" in refusal(tmp_path, *["x"] * (MAX_LINES + 1))


def test_fractions_become_millionths_once_and_to_even():
    assert sampling_settings(temperature="0.0000005").temperature_ppm == 0
    assert sampling_settings(temperature="0.0000015").temperature_ppm == 2
    assert sampling_settings(temperature=Decimal("0.1")).temperature_ppm == 100_000
    assert sampling_settings(top_p="0.999999").top_p_ppm == 999_999


def test_what_switches_a_setting_off_leaves_it_out(tmp_path):
    off = {"min_p": 0, "repetition_penalty": 1.0, "presence_penalty": 0, "frequency_penalty": -0.0}
    (plain, full) = read(
        tmp_path,
        {"prompt": "x", **off},
        {"prompt": "x", "min_p": 0.1, "stop_token_ids": [9, 2, 9], "logprobs": 0},
    )
    assert plain.settings == SamplingSettings(256)
    assert full.settings == SamplingSettings(
        256, min_p_ppm=100_000, stop_token_ids=(2, 9), logprobs=0
    )


def test_a_seed_is_the_same_as_number_and_as_text():
    assert seed_bytes(255) == seed_bytes("ff".rjust(64, "0"))
    assert seed_bytes(2**256 - 1) == b"\xff" * 32
    assert seed_bytes(None) is None
