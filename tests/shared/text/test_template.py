"""Chat templates: the same prompt everywhere at any time, and every template ends."""

from pathlib import Path

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.text.budget import MAX_STEPS
from shared.text.template import ChatTemplate
from shared.text.tokenizer import Tokenizer
from tests.shared.model import tiny

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def marks(source: str, **names: str) -> str:
    """Render, with a point for every character that is not the template's."""
    text = ChatTemplate(source, names).render(CHAT)
    return "".join(
        written if mark else "." for written, mark in zip(text[:], text.marks, strict=True)
    )


def rendered(source: str, **names: str) -> str:
    return ChatTemplate(source, names).render(CHAT)


def refused(code: Code, source: str, saying: str = "template") -> None:
    with pytest.raises(CounterfoilError, match=saying) as caught:
        rendered(source)
    assert caught.value.code is code


def test_a_template_that_wants_the_time_is_refused_by_name():
    refused(Code.UNSUPPORTED, "{{ strftime_now('%Y') }}", "strftime_now")
    refused(Code.UNSUPPORTED, "{% set now = strftime_now %}{{ now('%Y') }}", "strftime_now")


def test_a_template_that_can_do_without_the_time_does():
    """Like Llama 3.2's: it has a fixed date for when there is no clock."""
    source = (
        "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    )
    assert rendered(source) == "26 Jul 2024"


@pytest.mark.parametrize("source", ["{% for %}", "{% endgeneration %}", "{{ a | }}"])
def test_what_is_not_a_template_is_malformed(source):
    refused(Code.MALFORMED, source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ [1, 2] | random }}", "'random'"),
        ("{{ 'x' | center(1000000000) }}", "'center'"),
        ("{{ '%1000000000d' | format(1) }}", "'format'"),
        ("{{ [1] | batch(1000000000, 0) }}", "'batch'"),
        ("{{ 'x' | nothing }}", "'nothing'"),
        ("{{ 'x'.ljust(1000000000) }}", "'ljust'"),
        ("{{ '{:1000000000}'.format(1) }}", "'format'"),
        ("{{ messages[0].content.expandtabs(1000000000) }}", "'expandtabs'"),
        ("{{ 9 ** 9 ** 9 }}", r"\*\*"),
        ("{{ 'x' * 10 ** 9 }}", r"\*\*"),
        ("{% include 'x' %}", "another file"),
        ("{% import 'x' as y %}", "another file"),
        ("{% from 'x' import y %}", "another file"),
        ("{% extends 'x' %}", "another file"),
    ],
)
def test_what_no_template_may_do_is_refused_by_name_when_it_is_compiled(source, name):
    for hidden in (source, "{% if false %}" + source + "{% endif %}"):
        with pytest.raises(CounterfoilError, match=name) as caught:
            ChatTemplate(hidden, {})
        assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%1000000000d' % 1 }}",
        "{% set n = namespace(__class__=1) %}{% set n.__init__ = 2 %}",
    ],
)
def test_what_is_seen_when_it_happens_is_refused_by_name_too(source):
    refused(Code.UNSUPPORTED, source, "uses the operator %|names something")


def test_there_is_no_other_randomness():
    refused(Code.INVALID_ARGUMENT, "{{ lipsum() }}")


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100001) %}{% endfor %}",
        NESTED,
        "{% set s = 'x' * 1000 %}{% for a in s %}{% for b in s %}{{ b }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for m in [messages] * 2 recursive %}{{ loop([m, m]) }}{% endfor %}",
        "{% for m in range(99999) if m > 0 %}{% for b in range(9) %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = (n.s | tojson).join([n.s, n.s, n.s]) %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
        "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ ('x' * 1000000) | list }}",
        "{{ 'x'['ljust'](1000000000) }}",
        "{{ 'x' | attr('ljust')(1000000000) }}",
        "{{ messages[0].content.marks }}{{ messages[0].content.written('x') }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_hostile_template_ends_in_an_error(source):
    refused(Code.INVALID_ARGUMENT, source)


def test_every_rendering_has_all_its_steps():
    template = ChatTemplate(f"{{% for i in range({MAX_STEPS - 1}) %}}{{% endfor %}}ok", {})
    assert [template.render(CHAT) for _ in range(2)] == ["ok", "ok"]


def test_counting_changes_nothing_that_a_template_sees_of_its_loop():
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ '.' if loop.last }}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% if loop.first %}{% continue %}{% endif %}"
        "{{ loop.previtem.role }}{% else %}none{% endfor %}"
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(7 * 6) }}{{ 7 % 4 }}"
    )
    assert rendered(source) == "1/2hello2/2.hiuser[42]3"


def test_json_is_written_as_it_is_and_not_for_html():
    assert rendered("{{ {'é': '<'} | tojson }}") == '{"é": "<"}'


def test_tools_and_documents_are_given_as_none():
    source = "{{ tools is none }} {{ documents is none }} {{ unheard is defined }} {{ bos_token }}"
    assert rendered(source, bos_token="<s>") == "True True False <s>"


@pytest.mark.parametrize("content", [b"\xff", b"{% if %}"])
def test_a_template_file_that_makes_no_sense_is_malformed(tmp_path: Path, content: bytes):
    folder = tiny.write_folder(tmp_path, hidden_size=32, intermediate_size=32, head_dim=32)
    (folder / "chat_template.jinja").write_bytes(content)
    with pytest.raises(CounterfoilError, match="template") as caught:
        Tokenizer.from_folder(folder)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<{{ messages[0].role }}>{{ messages[0].content }}|", "<user>.....|"),
        ("{{ 'a' + messages[0].content ~ 'b' }}{{ bos_token }}", "a.....b<s>"),
        ("{{ messages[0].content | replace('l', '<s>') }}", "..<s><s>."),
        ("{{ ['a', messages[0].content] | join(',') }}{{ ('x ' * 2) | trim }}", "a,.....x x"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[1].content) }}", "[..]"),
        ("{% set x %}a{{ messages[1].content }}{% endset %}{{ x[1:] }}{{ x[0] }}", "..a"),
        ("{{ ('-' ~ messages[0].content ~ '-').split('l')[0] }}", "-.."),
        ("{{ messages[0].role | upper }}{{ messages[0].content | upper }}", "USER....."),
        # Text computed in any other way belongs to nobody, and so not to the template.
        ("{{ 'a' | tojson }}{{ 7 }}{{ ['a'] }}{{ 'a' | e }}{{ 'ß' | upper }}", "............"),
    ],
)
def test_a_template_tells_what_it_wrote_from_what_it_was_given(source, expected):
    assert marks(source, bos_token="<s>") == expected
