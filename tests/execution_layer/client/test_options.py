"""What a call may pass: natural types are accepted, and everything passed has an effect or gives an error."""

from decimal import Decimal

import pytest

from execution_layer.client.options import (
    request_body,
    settings_of,
    tag_pairs,
    tags_of,
    timeout_of,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message, SamplingSettings

ASKED = [Message("user", "x")]


def refusal(messages=ASKED, settings=None, **options):
    with pytest.raises(CounterfoilError) as caught:
        request_body(messages, settings, options)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.detail


def body(messages=ASKED, settings=None, **options):
    return request_body(messages, settings, options)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("max_token", "did you mean max_tokens?"),
        ("timeout", "did you mean timeout_s?"),
        ("temprature", "did you mean temperature?"),
        ("tools", "known options: "),
        ("response_format", "known options: "),
        ("frequency_penalty_ppm", "did you mean frequency_penalty?"),
    ],
)
def test_an_unknown_option_is_refused_by_name(name, near):
    detail = refusal(**{name: 1})
    assert f"there is no option {name}" in detail
    assert near in detail


def test_every_way_of_sampling_reaches_the_settings():
    given = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": Decimal("0.9"),
        "top_k": 7,
        "min_p": "0.1",
        "repetition_penalty": 2,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "stop": ["a", "b"],
        "stop_token_ids": [9, 3, 9],
        "logprobs": 2,
    }
    assert body(**given).settings == SamplingSettings(
        5,
        temperature_ppm=500_000,
        top_k=7,
        top_p_ppm=900_000,
        stop=("a", "b"),
        min_p_ppm=100_000,
        repetition_penalty_ppm=2_000_000,
        presence_penalty_ppm=-1_000_000,
        frequency_penalty_ppm=1_500_000,
        stop_token_ids=(3, 9),
        logprobs=2,
    )
    plain = body()
    for name, value in given.items():
        assert body(**{name: value}) != plain, name
        assert body(**{name: None}) == plain, name


def test_natural_types_are_taken():
    assert body(stop="END").settings.stop == ("END",)
    assert body(temperature=0).settings.temperature_ppm == 0
    assert body([{"role": "user", "content": "x"}]) == body()
    assert (
        body(({"role": "system", "content": "s"}, Message("user", "x"))).messages[0].role
        == "system"
    )
    assert body(seed=7).seed == bytes(31) + b"\x07"
    assert body(seed=bytes(32)).seed == bytes(32)
    assert body(seed="ab" * 32).seed == b"\xab" * 32
    assert settings_of({}) == SamplingSettings(256)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": "much"}, "top_p"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_k": "7"}, "top_k"),
        ({"stop": [b"x"]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop_token_ids": "12"}, "stop_token_ids"),
        ({"stop_token_ids": [1.5]}, "stop token id"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": b"short"}, "seed"),
        ({"seed": "xyz"}, "seed"),
        ({"model": 5}, "model"),
        ({"cost_centre": b"x"}, "cost_centre"),
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_refused_by_name(options, named):
    assert named in refusal(**options)


@pytest.mark.parametrize(
    "messages",
    [
        "hello",
        [{"role": "user"}],
        [{"role": "user", "content": "x", "name": "y"}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "tool", "content": "x"}],
        ["hello"],
        [("user", "hello")],
        {"role": "user", "content": "x"},
        [],
    ],
    ids=repr,
)
def test_messages_that_are_not_valid_are_refused_without_a_traceback(messages):
    refusal(messages)


def test_settings_and_single_options_are_not_mixed():
    assert "temperature" in refusal(settings=SamplingSettings(5), temperature=0)
    assert "SamplingSettings" in refusal(settings={"max_tokens": 5})
    assert body(settings=SamplingSettings(5)).settings.max_tokens == 5


def test_a_cost_centre_is_one_of_the_tags():
    assert tags_of({}) is None
    assert tags_of({"tags": {}, "cost_centre": None}) is None
    assert tags_of({"cost_centre": "search"}) == {"cost_centre": "search"}
    assert tags_of({"cost_centre": "search", "tags": {"team": "x"}}) == {
        "cost_centre": "search",
        "team": "x",
    }
    assert tags_of({"tags": {"team": "Zu\u0308rich"}}) == {"team": "Zürich"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tags": "team=search"}, "tags must be a mapping"),
        ({"tags": [("team", "search")]}, "tags must be a mapping"),
        ({"tags": {"team": 5}}, "the tag team must be text"),
        ({"tags": {5: "search"}}, "'5' cannot be the name of a tag"),
        ({"tags": {f"n{i}": "v" for i in range(16)}, "cost_centre": "v"}, "1 to 16 tags, not 17"),
        ({"tags": {"cost_centre": "a"}, "cost_centre": "a"}, "given twice"),
        ({"cost_centre": ""}, "the tag cost_centre"),
    ],
    ids=repr,
)
def test_tags_that_cannot_be_meant_are_refused_by_name(options, named):
    with pytest.raises(CounterfoilError) as caught:
        tags_of(options)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert named in caught.value.detail


def test_a_tag_of_the_command_line_ends_its_name_at_the_first_equals_sign():
    assert tag_pairs(["team=search", "query=a=b", "empty="]) == {
        "team": "search",
        "query": "a=b",
        "empty": "",
    }
    for wrong in (["team"], ["a=1", "a=1"]):
        with pytest.raises(CounterfoilError):
            tag_pairs(wrong)


def test_a_timeout_is_honoured_or_refused():
    assert timeout_of({}, 300.0) == 300.0
    assert timeout_of({"timeout_s": 2}, 300.0) == 2.0
    for wrong in (-1, float("nan"), float("inf"), True, "5"):
        with pytest.raises(CounterfoilError, match="timeout_s"):
            timeout_of({"timeout_s": wrong}, 300.0)


async def test_a_client_refuses_before_anything_is_ordered(world):
    async with world.client() as client:
        with pytest.raises(CounterfoilError, match=r"max_token; did you mean max_tokens"):
            await client.generate(ASKED, max_token=5)
        with pytest.raises(CounterfoilError, match="the tag cost_centre"):
            await client.generate(ASKED, cost_centre="two\nlines")
        assert client.archive.counts()["numbers"] == 0
