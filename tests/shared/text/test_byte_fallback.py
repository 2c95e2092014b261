"""Tokenizers with byte fallback (as Llama 2's and Mistral's), against transformers: prompts, chats, and streamed text."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.text.prompt import prompt_ids
from shared.text.stream import REPLACEMENT, TextStream, stop_length, text_of
from shared.text.tokenizer import Tokenizer

SPECIALS = ("<unk>", "<s>", "</s>", "<|user|>", "<|end|>")
PIECES = ("he", "ll", "▁he", "▁hell", "▁hello", "in", "▁in", "the", "▁the")
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzINST[]/.,!\n"
KINDS = ("prepend", "metaspace")
either = pytest.mark.parametrize("kind", KINDS)
some = settings(max_examples=80, deadline=None)
INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no ' + m['role']) }}{% endif %}{% endfor %}"
)
TURNS = (
    "{% for m in messages %}{{ '<|user|>\n' if m.role == 'user' else '' }}{{ m.content }}<|end|>\n"
    "{% endfor %}{% if tools is not none %}tools!{% endif %}"
    "{% if add_generation_prompt %}{{ {'a': '<'} | tojson }}{% endif %}"
)


@cache
def backend(kind: str) -> Backend:
    vocabulary = {token: at for at, token in enumerate(SPECIALS)}
    for piece in (*(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS):
        vocabulary[piece] = len(vocabulary)
    merges = [("h", "e"), ("l", "l"), ("▁", "he"), ("▁he", "ll"), ("▁hell", "o"), ("i", "n")]
    merges += [("▁", "in"), ("t", "he"), ("▁", "the")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    model = models.BPE(
        vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    made = Backend(model)
    if kind == "prepend":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@cache
def ours(kind: str, template: str = INST) -> Tokenizer:
    return Tokenizer(backend(kind), template, (2,), NAMES)


@cache
def theirs(kind: str, template: str = INST) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend(kind),
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **NAMES,
    )


TEXT = st.one_of(
    st.sampled_from(["hello in the inn", " hello", "é漢😀 hello", "\n", "a  b", "[/INST] hello"]),
    st.text("helotin é漢😀\n", max_size=20),
)
PLAIN = TEXT.filter(lambda text: text == text.strip())
CHATS = st.lists(TEXT, min_size=1, max_size=4).map(
    lambda texts: [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)
    ]
)


def messages(chat: list[dict[str, str]]) -> list[Message]:
    return [Message(turn["role"], turn["content"]) for turn in chat]


@either
@pytest.mark.parametrize("template", [INST, TURNS], ids=["plain marks", "special marks"])
@some
@given(chat=CHATS)
def test_a_chat_has_the_tokens_that_transformers_gives_it(kind, template, chat):
    expected = theirs(kind, template).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(ours(kind, template).encode_chat(messages(chat))) == expected


@either
@some
@given(text=TEXT.filter(bool))
def test_a_plain_prompt_has_the_tokens_that_transformers_gives_it(kind, text):
    body = RequestBody(SamplingSettings(4), prompt=text)
    ids = list(prompt_ids(ours(kind), body))
    assert ids == theirs(kind)(text)["input_ids"]
    assert ids[0] == 1
    assert list(ours(kind).encode(text)) == ids[1:]


@either
@pytest.mark.parametrize("spelling", ["<s>", "</s>", "<|end|>", "<|user|>", "<0x41>"])
def test_a_control_tokens_spelling_in_a_message_is_text(kind, spelling):
    ids = ours(kind, TURNS).encode_chat([Message("user", f"x{spelling}y")])
    assert [token for token in ids if token < len(SPECIALS)] == [3, 4]
    assert spelling in ours(kind).decode(ids)


@either
@some
@given(text=TEXT)
def test_text_decodes_as_transformers_does_it(kind, text):
    ids = ours(kind).encode(text)
    assert ours(kind).decode(ids) == theirs(kind).decode(ids)


def byte(value: int) -> int:
    return len(SPECIALS) + value


def pushed(tokens: list[int], kind: str = "prepend") -> list[str]:
    stream = TextStream(ours(kind))
    return [*(stream.push(token) for token in tokens), stream.flush()]


def test_a_character_is_shown_with_its_last_byte_and_never_taken_back():
    tokens = [byte(value) for value in "aé漢😀é".encode()]
    assert pushed(tokens) == ["a", "", "é", "", "", "漢", "", "", "", "😀", "", "é", ""]
    assert "".join(pushed([*tokens, byte(0xFF)])) == "aé漢😀é" + REPLACEMENT


def test_the_library_alone_would_take_characters_back():
    """This shows that the tests here can fail."""
    ids = [byte(value) for value in "é".encode()]
    assert backend("prepend").decode(ids) == "é"
    assert backend("prepend").decode([*ids, byte(0xE2)]) == REPLACEMENT * 3
    assert ours("prepend").decode([*ids, byte(0xE2)]) == "é" + REPLACEMENT


TOKENS = st.lists(
    st.one_of(
        st.integers(0, 330).filter(lambda token: token != 2),
        st.sampled_from([byte(value) for value in b"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff A"]),
    ),
    max_size=40,
)


@either
@some
@given(tokens=TOKENS)
@example(tokens=[byte(0xC3), 3, byte(0xA9)])
@example(tokens=[byte(0xF0), byte(0x9F), *[3] * 12, byte(0x98), byte(0x80)])
def test_any_tokens_stream_to_what_they_decode_to_at_once(kind, tokens):
    chosen = ours(kind)
    assert "".join(pushed(tokens, kind)) == chosen.decode(tokens)
    assert text_of(chosen, tokens, ()) == chosen.decode(tokens)


@either
@some
@given(text=TEXT)
def test_text_that_is_given_in_bytes_only_streams_whole(kind, text):
    tokens = [byte(value) for value in text.encode()]
    parts = pushed(tokens, kind)
    assert "".join(parts) == text.removeprefix(" ")
    assert not any(REPLACEMENT in part for part in parts)


def test_a_stop_string_is_found_at_the_byte_that_completes_it():
    tokens = [byte(value) for value in "a漢b".encode()]
    assert stop_length(ours("prepend"), tokens, ("漢",)) == 4


def test_a_folder_of_transformers_is_read_as_transformers_reads_it(tmp_path: Path):
    theirs("prepend").save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == INST
    read = Tokenizer.from_folder(tmp_path)
    chat = [{"role": "user", "content": "hello"}]
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = again.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert list(read.encode_chat(messages(chat))) == expected
    assert list(read.encode_prompt("hello")) == again("hello")["input_ids"]


def test_the_templates_file_goes_before_the_settings_and_the_default_before_others(tmp_path: Path):
    backend("prepend").save(str(tmp_path / "tokenizer.json"))
    several = [{"name": "rag", "template": "b"}, {"name": "default", "template": "{{ 'a' }}"}]
    settings_file, file = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    settings_file.write_text(json.dumps({"chat_template": several, **NAMES}))

    def first() -> str:
        template = Tokenizer.from_folder(tmp_path)._template
        assert template is not None
        return template.render([])

    assert first() == "a"
    file.write_text("{{ bos_token }}file")
    assert first() == "<s>file"
