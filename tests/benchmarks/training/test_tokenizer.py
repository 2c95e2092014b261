"""The tokenizer: lossless for every string, and deaf to control tokens inside text."""

import json
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.training.grammar import SPECIALS, documents
from benchmarks.training.tokenizer import control_id, encode_document, load_tokenizer
from shared.runtime.errors import Code, CounterfoilError

FOLDER = Path(__file__).parents[3] / "shared/model/checkpoints/counterfoil-mini"
TOKENIZER = load_tokenizer(FOLDER)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(TEXT, st.sampled_from(SPECIALS)), max_size=5).map("".join))
def test_any_text_survives_and_never_yields_a_control_token(text: str):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert all(token >= len(SPECIALS) for token in ids)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_all_256_bytes_are_in_the_alphabet():
    from tokenizers.pre_tokenizers import ByteLevel

    assert all(TOKENIZER.token_to_id(letter) is not None for letter in ByteLevel.alphabet())


def test_control_tokens_are_the_first_ids_and_known_by_a_plain_tokenizer():
    plain = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert [plain.token_to_id(token) for token in SPECIALS] == list(range(6))
    assert plain.encode("".join(SPECIALS)).ids == list(range(6))


def test_a_missing_control_token_is_named():
    with pytest.raises(CounterfoilError) as raised:
        control_id(TOKENIZER, "<|nobody|>")
    assert raised.value.code is Code.CORRUPT


def _render(messages: list[dict[str, str]], *, prompt: bool) -> str:
    config = json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))

    def refuse(detail: str) -> None:
        raise ValueError(detail)

    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - a prompt is not HTML
    environment.globals["raise_exception"] = refuse
    return environment.from_string(config["chat_template"]).render(
        messages=messages, bos_token=config["bos_token"], add_generation_prompt=prompt
    )


def test_the_chat_template_writes_what_the_model_was_trained_on():
    document = next(documents(1))
    system, user, assistant = (
        "Eres un asistente alegre. Usa emojis.",
        "¿Cuánto dura el viaje de Dresde a Bergen?",
        document.text.split("<|assistant|>")[1].removesuffix("<|end|>"),
    )
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
    ]
    assert _render(messages, prompt=False) == document.text
    assert _render(messages[:2], prompt=True) == document.text[: -len(assistant) - len("<|end|>")]
    ids = encode_document(TOKENIZER, _render(messages[:2], prompt=True))
    assert [token for token in ids if token < 6] == [0, 1, 4, 2, 4, 3]


def test_the_chat_template_refuses_an_unknown_role():
    with pytest.raises(ValueError, match="role"):
        _render([{"role": "tool", "content": "x"}], prompt=True)
