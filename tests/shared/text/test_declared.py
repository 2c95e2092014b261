"""A folder has the tokenizer that transformers builds from it, or is refused when it is loaded."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message
from shared.text.tokenizer import Tokenizer
from tests.shared.text import zoo

CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "<|end|>",
    "chat_template": zoo.TEMPLATES["trim"],
}
CHAT = "a [NEW] <think> the inn</think>"
NUMBER = zoo.backend("think").token_to_id("<think>")


def written(tmp_path: Path, **config: object) -> Path:
    (tmp_path / "tokenizer.json").write_text(zoo.backend("think").to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **config}))
    return tmp_path


def token(content: str, **flags: object) -> dict[str, object]:
    plain = dict.fromkeys(("special", "normalized", "lstrip", "rstrip", "single_word"), False)
    return {"content": content, **plain, **flags}


def as_the_library(folder: Path) -> bool:
    theirs = AutoTokenizer.from_pretrained(str(folder)).apply_chat_template(
        [{"role": "user", "content": CHAT}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return list(Tokenizer.from_folder(folder).encode_chat([Message("user", CHAT)])) == list(theirs)


SAME = {
    "nothing more": {},
    "the same again": {"added_tokens_decoder": {str(NUMBER): token("<think>")}},
    "a name that the template does not use": {
        "pad_token": "[PAD]",
        "mask_token": token("[M]", __type="AddedToken"),
    },
    "names of what is there": {"pad_token": "<|end|>", "unk_token": None},
    "lists of what is there": {"additional_special_tokens": ["<|turn|>", "<s>"]},
    "a special token's normalized": {
        "added_tokens_decoder": {
            str(zoo.backend("think").token_to_id("<s>")): token(
                "<s>", special=True, normalized=True
            )
        }
    },
    "a name of its own": {
        "think_token": "<think>",
        "chat_template": "{{ bos_token }}{{ think_token }}{{ messages[0].content }}",
    },
    "names in a mapping": {
        "extra_special_tokens": {"close_token": "</think>"},
        "chat_template": "{{ close_token }}{{ messages[0].content }}",
    },
    "settings that are no tokens": {
        "add_bos_token": False,
        "some_token": None,
        "a_token": {"b": 1},
    },
    "no lists": {"additional_special_tokens": None, "extra_special_tokens": []},
}
OTHER = {
    "a flag": ({"added_tokens_decoder": {str(NUMBER): token("<think>", rstrip=True)}}, "another rstrip"),
    "a token": ({"added_tokens_decoder": {"999": token("[NEW]")}}, "does not have"),
    "a special token": ({"additional_special_tokens": ["[NEW]"]}, "does not have"),
    "one more": ({"extra_special_tokens": [token("[NEW]", special=True)]}, "does not have"),
    "a name": ({"bos_token": "[NEW]"}, "does not have"),
    "a number": ({"added_tokens_decoder": {"5": token("<think>")}}, f"has under number {NUMBER}"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_declarations_that_change_nothing_are_taken(tmp_path, what):
    assert as_the_library(written(tmp_path, **SAME[what]))


@pytest.mark.parametrize("what", OTHER)
def test_declarations_that_make_another_tokenizer_are_refused_by_name(tmp_path, what):
    config, why = OTHER[what]
    with pytest.raises(CounterfoilError, match=why) as caught:
        Tokenizer.from_folder(written(tmp_path, **config))
    assert caught.value.code is Code.UNSUPPORTED
    assert ("[NEW]" in caught.value.detail) != ("<think>" in caught.value.detail)


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"x": token("a")}},
        {"added_tokens_decoder": {"1": {"content": 7}}},
        {"added_tokens_decoder": {"1": {"special": True}}},
        {"added_tokens_decoder": {"1": "a"}},
        {"additional_special_tokens": 7},
        {"additional_special_tokens": [[]]},
        {"extra_special_tokens": {"a": 7}},
        {"bos_token": {"spelling": "a"}},
    ],
    ids=str,
)
def test_declarations_that_make_no_sense_are_malformed(tmp_path, config):
    with pytest.raises(CounterfoilError) as caught:
        Tokenizer.from_folder(written(tmp_path, **config))
    assert caught.value.code is Code.MALFORMED
