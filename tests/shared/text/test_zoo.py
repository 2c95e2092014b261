"""A conversation has the tokens that transformers gives it, whatever the template and the tokenizer do.

The exception is control tokens spelled in a message: they are text.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message
from tests.shared.text import zoo

some = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.one_of(  # nothing that spells, or composes with, a control token
    st.sampled_from(
        [
            "", " ", "\n\nthe inn\n", "  the  ", "<think>\nthe inn\n</think>\n\nIs it?", "</think>", "a</think>b</think>\nc",
            "CAFÉ Cafe\u0301 e\u0301", "\x1cthe\x1c", "the\u00a0inn\u3000", "def f(x):\n    return x\n\n\n",
            '{"a": "<b>"}', "{{ messages }}", "thethe the", "inn in\u200b", "😀🇫🇷 漢字", "▁the ▁", "ß ŉ İ ﬁ", "|", "|>", "<",
        ]
    ),
    st.text("the in\n<>|{}/é\u0301 😀", max_size=24),
)  # fmt: skip
SPELLED = st.lists(
    st.sampled_from(["<|", "turn", "|>", "<|turn|>", "<|end|>", "<s>", "<|turn", "\n", "<|end", " ", "the", ">", "x", "\u0338"]),
    max_size=6,
).map("".join)  # fmt: skip
ROLES = st.sampled_from(["user", "assistant"])


def chats(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    turns = st.lists(text, min_size=1, max_size=4)
    return st.tuples(st.none() | text, turns).map(
        lambda drawn: (
            ([] if drawn[0] is None else [("system", drawn[0])])
            + [(("user", "assistant")[at % 2], said) for at, said in enumerate(drawn[1])]
        )
    )


def ids(kind: str, template: str, chat: list[tuple[str, str]]) -> list[int] | None:
    """Return our tokens; None if the template refuses the conversation."""
    try:
        return list(zoo.ours(kind, template).encode_chat([Message(*turn) for turn in chat]))
    except CounterfoilError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017
        assert "these roles" in str(error)  # noqa: PT017
        return None


def library(kind: str, template: str, chat: list[tuple[str, str]]) -> list[int] | None:
    try:
        found = zoo.theirs(kind).apply_chat_template(
            [{"role": role, "content": content} for role, content in chat],
            chat_template=zoo.TEMPLATES[template],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except (TemplateError, IndexError):
        return None
    return list(found)


@pytest.mark.parametrize("template", zoo.TEMPLATES)
@some
@given(kind=st.sampled_from(sorted(zoo.KINDS)), chat=chats(TEXT))
def test_a_chat_has_the_librarys_tokens(template, kind, chat):
    assert ids(kind, template, chat) == library(kind, template, chat)


@pytest.mark.parametrize("kind", zoo.KINDS)
@some
@given(template=st.sampled_from(sorted(zoo.TEMPLATES)), chat=chats(TEXT))
def test_every_tokenizer_has_the_librarys_tokens(kind, template, chat):
    assert ids(kind, template, chat) == library(kind, template, chat)


@pytest.mark.parametrize("template", zoo.PLAIN_TEMPLATES)
@some
@given(kind=st.sampled_from(sorted(set(zoo.KINDS) - {"longest"})), chat=chats(SPELLED))
def test_no_message_makes_or_unmakes_a_control_token(template, kind, chat):
    control = {entry.content for entry in zoo.KINDS[kind] if entry.special}
    numbers = {zoo.backend(kind).token_to_id(spelling) for spelling in control}
    harmless = [(role, "x") for role, _ in chat]
    made, expected = ids(kind, template, chat), library(kind, template, harmless)
    assert made is not None
    assert expected is not None
    assert [t for t in made if t in numbers] == [t for t in expected if t in numbers]


@pytest.mark.parametrize("kind", zoo.KINDS)
@some
@given(text=TEXT)
def test_a_plain_prompt_has_the_librarys_tokens(kind, text):
    expected = zoo.theirs(kind)(text)["input_ids"] if text else []
    assert list(zoo.ours(kind, "turns").encode_prompt(text)) == expected
