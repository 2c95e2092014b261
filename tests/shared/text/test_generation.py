"""What a checkpoint recommends: read, checked, and applied by nobody."""

import json

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.text.generation import GenerationDefaults
from tests.shared.text.backends import SHIPPED


def test_the_shipped_models_recommendation_is_read():
    found = GenerationDefaults.from_folder(SHIPPED)
    assert found == GenerationDefaults(do_sample=True, temperature=0.7, top_p=0.95)


def test_without_the_file_nothing_is_recommended(tmp_path):
    assert GenerationDefaults.from_folder(tmp_path) == GenerationDefaults()


def test_all_fields_are_read():
    values = {
        "do_sample": False,
        "temperature": 0,
        "top_k": 20,
        "top_p": 1,
        "repetition_penalty": 1.1,
    }
    assert GenerationDefaults.from_json(values) == GenerationDefaults(False, 0.0, 20, 1.0, 1.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", 1),
        ("temperature", "0.7"),
        ("temperature", float("nan")),
        ("temperature", True),
        ("top_k", 2.0),
        ("top_k", -1),
        ("top_p", -0.1),
        ("repetition_penalty", [1]),
        ("repetition_penalty", 10**400),
    ],
)
def test_a_field_that_makes_no_sense_is_named(tmp_path, name, value):
    with pytest.raises(CounterfoilError, match=name) as caught:
        GenerationDefaults.from_json({name: value})
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"a": 1})[:-1] + ', "a": 2}'])
def test_a_file_that_makes_no_sense_is_malformed(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CounterfoilError, match=r"generation_config\.json") as caught:
        GenerationDefaults.from_folder(tmp_path)
    assert caught.value.code is Code.MALFORMED
