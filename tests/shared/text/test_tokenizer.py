"""The tokenizer: text survives it, text never becomes a control token, and a conversation has exactly its turns."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import MAX_TEXT, Tokenizer
from tests.shared.model import tiny
from tests.shared.text.backends import (
    NAMES,
    SAMPLES,
    TEXT,
    backend,
    byte_tokens,
    special,
    specials,
    tokenizer,
)

ROLES = ("system", "user", "assistant")
HOSTILE = st.lists(
    st.one_of(
        TEXT, st.sampled_from(["<|end|>", "<|assistant|>", "<|system|>", "<|user|>", "<|bos|>"])
    ),
    max_size=6,
).map("".join)
either = pytest.mark.parametrize("name", NAMES)
some = settings(max_examples=60, deadline=None)


def refused(code: Code, call, *arguments) -> str:
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments)
    assert caught.value.code is code
    return str(caught.value)


@either
@some
@given(text=TEXT)
def test_every_text_survives_the_round_trip(name, text):
    ids = tokenizer(name).encode(text)
    assert tokenizer(name).decode(ids) == text
    assert all(0 <= token < tokenizer(name).vocab_size for token in ids)


@either
def test_every_sample_and_every_latin_character_survives_the_round_trip(name):
    for text in (*SAMPLES, *(chr(code) for code in range(256)), "".join(map(chr, range(256)))):
        assert tokenizer(name).decode(tokenizer(name).encode(text)) == text


@either
def test_every_byte_has_a_token_that_says_it(name):
    every = bytes(range(256))
    tokens = byte_tokens(name, every)
    assert len(set(tokens)) == 256
    for lead, rest in ((0xC2, range(0x80, 0xC0)), (0xC3, range(0x80, 0xC0))):
        for byte in rest:
            pair = bytes([lead, byte])
            assert tokenizer(name).decode(byte_tokens(name, pair)) == pair.decode()
    assert tokenizer(name).decode(tokens[:128]) == every[:128].decode()


@either
@some
@given(text=HOSTILE)
def test_text_never_yields_a_special_token(name, text):
    ids = tokenizer(name).encode(text)
    assert specials(name).keys().isdisjoint(ids)
    assert tokenizer(name).decode(ids) == text


@either
def test_the_library_alone_would_take_a_spelling_for_the_token(name):
    """This shows that the tests above can fail."""
    for token, spelling in specials(name).items():
        assert backend(name).encode(spelling, add_special_tokens=False).ids == [token]
        assert token not in tokenizer(name).encode(spelling)


@either
@some
@given(
    messages=st.lists(
        st.builds(Message, st.sampled_from(ROLES), HOSTILE), min_size=1, max_size=5
    ).map(tuple)
)
def test_a_conversation_has_its_turns_and_no_more_whatever_is_written_in_them(name, messages):
    """No message can end a turn, begin another, or hide one."""
    ids = tokenizer(name).encode_chat(messages)
    expected = [] if name == "tiny" else [special(name, "<|bos|>")]
    for message in messages:
        expected += [special(name, f"<|{message.role}|>"), special(name, "<|end|>")]
    expected.append(special(name, "<|assistant|>"))
    assert [token for token in ids if token in specials(name)] == expected
    turns: list[str] = []
    current: list[int] = []
    for token in ids[:-1]:
        if token == special(name, "<|end|>"):
            turns.append(tokenizer(name).decode(current))
        current = [] if token in specials(name) else [*current, token]
    assert turns == [message.content for message in messages]


@either
def test_system_prompt_and_turns_come_in_their_order_and_ask_for_an_answer(name):
    messages = (
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi!"),
        Message("user", "the end?"),
    )
    body = RequestBody(SamplingSettings(4), messages=messages)
    begin = "" if name == "tiny" else "<|bos|>"
    shown = begin + "".join(f"<|{m.role}|>{m.content}<|end|>" for m in messages) + "<|assistant|>"
    assert prompt_ids(tokenizer(name), body) == tuple(backend(name).encode(shown).ids)
    alone = RequestBody(SamplingSettings(4), messages=messages[1:2])
    assert prompt_ids(tokenizer(name), alone) != prompt_ids(tokenizer(name), body)


@either
def test_a_plain_prompt_is_encoded_without_the_template(name):
    body = RequestBody(SamplingSettings(4), prompt="the <|user|> inn")
    ids = prompt_ids(tokenizer(name), body)
    assert ids == tokenizer(name).encode("the <|user|> inn")
    assert tokenizer(name).decode(ids) == "the <|user|> inn"


def test_an_empty_prompt_is_refused():
    body = RequestBody(SamplingSettings(4), prompt="")
    refused(Code.INVALID_ARGUMENT, prompt_ids, tokenizer("tiny"), body)


@pytest.mark.parametrize("role", ["tool", "", "System", "<|user|>", "assistant "])
def test_an_unknown_role_is_refused(role):
    assert "role" in refused(Code.INVALID_ARGUMENT, Message, role, "x")


def test_the_shipped_template_itself_refuses_an_unknown_role():
    stranger = object.__new__(Message)
    object.__setattr__(stranger, "role", "tool")
    object.__setattr__(stranger, "content", "x")
    refused(Code.INVALID_ARGUMENT, tokenizer("shipped").encode_chat, [stranger])


def with_template(template: str | None) -> Tokenizer:
    return Tokenizer(backend("tiny"), template, (tiny.END,), {"bos_token": "<|system|>"})


def test_a_model_without_template_takes_no_messages():
    refused(Code.UNSUPPORTED, with_template(None).encode_chat, [Message("user", "x")])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[1].content }}{{ messages[0].content }}", "secondfirst"),
        ("{{ messages[1].content }}", "second"),
        ("{{ messages[0].content }}{{ messages[1].content }}" * 2, "firstsecond" * 2),
        ("no message at all", "no message at all"),
    ],
)
def test_a_template_may_drop_repeat_and_reorder_messages(template, expected):
    two = [Message("user", "first"), Message("user", "second")]
    assert with_template(template).encode_chat(two) == tokenizer("tiny").encode(expected)


def test_a_control_token_whose_marks_a_template_loses_is_refused_and_never_taken_for_text():
    lossy = with_template("{{ {'a': '<|system|>'} | tojson }}{{ messages[0].content }}")
    said = refused(Code.UNSUPPORTED, lossy.encode_chat, [Message("user", "x")])
    assert "control token" in said


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('system must come first') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_fails_or_leaves_its_sandbox_is_an_error_and_nothing_more(template):
    refused(Code.INVALID_ARGUMENT, with_template(template).encode_chat, [Message("user", "x")])


def test_a_template_that_is_not_jinja_is_malformed():
    refused(Code.MALFORMED, with_template, "{% for %}")


def test_a_template_may_use_the_special_tokens_names_and_end_a_loop():
    chat = with_template(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    )
    first = special("tiny", "<|system|>")
    assert chat.encode_chat([Message("user", "a")]) == (first, *chat.encode("a"))


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_is_not_unicode_is_malformed(text):
    refused(Code.MALFORMED, tokenizer("tiny").encode, text)
    refused(Code.MALFORMED, tokenizer("tiny").encode_chat, [Message("user", text)])


def test_text_of_unbearable_size_is_refused_before_it_is_encoded():
    refused(Code.INVALID_ARGUMENT, tokenizer("tiny").encode, "a" * (MAX_TEXT + 1))


def words(**vocabulary: int) -> Backend:
    made = Backend(models.WordLevel({"<end>": 0, "a": 1, "?": 2, **vocabulary}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def test_a_vocabulary_that_spells_a_control_token_as_a_word_is_refused_by_name():
    spelled = words()
    spelled.add_special_tokens(["<end>"])
    assert '"<end>"' in refused(Code.UNSUPPORTED, Tokenizer, spelled, None, (0,))


def test_what_stands_for_unknown_text_is_used_unless_it_ends_an_answer():
    unknown = words()
    unknown.add_special_tokens(["?"])
    assert Tokenizer(unknown, None, ()).encode("a b a") == (1, 2, 1)
    refused(Code.UNSUPPORTED, Tokenizer, unknown, None, (2,))


@pytest.mark.parametrize(
    ("control", "others", "why"),
    [
        (AddedToken("<e>", special=True, single_word=True), [], "word of its own"),
        (AddedToken("END", special=True), [AddedToken("a", normalized=False, single_word=True)], "letter"),
        (AddedToken("<E>", special=True, normalized=True), [], "normalized"),
        (AddedToken("<e>", special=True, rstrip=True), ["\n\n"], "white space"),
        (AddedToken("<e>", special=True, lstrip=True), ["a "], "white space"),
    ],
)  # fmt: skip
def test_a_control_token_that_a_message_could_make_or_unmake_is_refused_by_name(
    control, others, why
):
    made = words()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens([control])
    made.add_tokens(others)
    said = refused(Code.UNSUPPORTED, Tokenizer, made, None, ())
    assert control.content in said
    assert why in said


def test_truncation_and_padding_of_the_file_do_not_touch_a_prompt():
    made = words()
    made.enable_truncation(2)
    made.enable_padding(length=8)
    assert Tokenizer(made, None, ()).encode("a a a") == (1, 1, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    return tmp_path


def test_a_folder_without_tokenizer_is_a_matter_of_configuration(tmp_path):
    said = refused(Code.CONFIGURATION, Tokenizer.from_folder, tmp_path)
    assert "tokenizer.json" in said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}'])
def test_a_tokenizer_that_makes_no_sense_is_malformed(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in refused(Code.MALFORMED, Tokenizer.from_folder, folder)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", Code.MALFORMED),
        (b"[]", Code.MALFORMED),
        (b"\xff", Code.MALFORMED),
        (b"[" * 100_000, Code.MALFORMED),
        (b'{"chat_template": "{% if %}"}', Code.MALFORMED),
        (b'{"chat_template": [{"name": "rag", "template": ""}]}', Code.UNSUPPORTED),
        (b'{"chat_template": []}', Code.UNSUPPORTED),
        (b'{"chat_template": [{"name": "default"}]}', Code.MALFORMED),
        (b'{"chat_template": {"default": ""}}', Code.MALFORMED),
    ],
)
def test_chat_settings_that_make_no_sense_are_named(folder, content, code):
    (folder / "tokenizer_config.json").write_bytes(content)
    refused(code, Tokenizer.from_folder, folder)


def test_special_tokens_may_be_written_as_objects(folder):
    config = {
        "bos_token": {"content": "<|system|>"},
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = Tokenizer.from_folder(folder).encode_chat([Message("user", "")])
    assert ids == (special("tiny", "<|system|>"),)
