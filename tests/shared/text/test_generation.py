"""What a checkpoint recommends: read, checked, and applied by nobody."""

import json

import pytest
from transformers import GenerationConfig

from shared.runtime.errors import Code, CounterfoilError
from shared.text.generation import (
    PERMITTED,
    RECOMMENDED,
    WITHOUT_EFFECT,
    GenerationDefaults,
    check_generation,
)
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
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }
    found = GenerationDefaults.from_json(values)
    assert found == GenerationDefaults(False, 0.0, 20, 1.0, 0.05, 1.1)


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


CHANGED: dict[str, object] = {
    "bad_words_ids": [[5]],
    "begin_suppress_tokens": [1],
    "constraints": [3],
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 1e-4,
    "exponential_decay_length_penalty": [5, 1.1],
    "force_words_ids": [[5]],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 3,
    "guidance_scale": 1.5,
    "min_length": 10,
    "min_new_tokens": 10,
    "no_repeat_ngram_size": 3,
    "num_beam_groups": 2,
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "remove_invalid_values": True,
    "sequence_bias": [[[5], -10.0]],
    "stop_strings": ["."],
    "suppress_tokens": [1],
    "token_healing": True,
    "top_h": 0.4,
    "typical_p": 0.9,
    "watermarking_config": {"bias": 2.5},
    "unheard_of": 1,
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_that_changes_what_is_generated_and_that_no_request_can_ask_for_is_named(name):
    with pytest.raises(CounterfoilError, match=f"{name} = ") as caught:
        check_generation({name: CHANGED[name]})
    assert caught.value.code is Code.UNSUPPORTED


def test_every_field_of_transformers_is_known_and_its_neutral_value_is_no_obstacle():
    fields = GenerationConfig().to_dict()
    check_generation(fields)
    check_generation({name: values[-1] for name, values in PERMITTED.items()})
    known = {"eos_token_id", *RECOMMENDED, *WITHOUT_EFFECT, *PERMITTED}
    assert fields.keys() <= known
    assert known - {"eos_token_id"} - RECOMMENDED - WITHOUT_EFFECT == CHANGED.keys() - {
        "unheard_of"
    }
