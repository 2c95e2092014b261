"""No stranger's template runs forever, or takes all memory, however few its steps."""

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.text.template import ChatTemplate

CHAT = [{"role": "user", "content": "hello " * 150_000}]
NEST = (
    "{% set n = namespace(a=[1], b=[1], t=(1,)) %}{% for i in range(64) %}{% set n.a = [n.a, n.a] %}"
    "{% set n.b = [n.b, n.b] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)
"""Each of them has 2^64 items, in 64 lists."""
LOOP = "{% set c = messages[0].content %}{% set d = c ~ 'x' %}{% for i in range(90000) %}"
HOSTILE = {
    "compares": NEST + "{{ n.a == n.b }}",
    "sorts": NEST + "{{ [n.a, n.b] | sort | length }}",
    "looks for the largest": NEST + "{{ [n.a, n.b] | max }}",
    "hashes": NEST + "{{ {n.t: 1} | length }}",
    "doubles a list": "{% set n = namespace(a=[1]) %}{% for i in range(64) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "nests by a filter": "{% set n = namespace(a=[1]) %}{% for i in range(64) %}{% set n.a = [n.a] * 2 %}{% endfor %}{{ n.a }}",
    "repeats a text as JSON": "{{ ([messages[0].content] * 99999) | tojson | length }}",
    "writes repeated texts": "{{ [messages[0].content] * 99999 }}",
    "writes a namespace": "{{ namespace(a=[messages[0].content] * 99999) }}",
    "writes a view": "{{ {'a': [messages[0].content] * 99999}.items() }}",
    "changes copies": "{{ ([messages[0].content] * 99999) | map('upper') | list | length }}",
    "a filter": LOOP + "{% set x = c | upper %}{% endfor %}",
    "a method": LOOP + "{% set x = c.find('y') %}{% endfor %}",
    "a slice": LOOP + "{% set x = c[1:] %}{% endfor %}",
    "a comparison": LOOP + "{% set x = d == d[:-1] ~ 'x' %}{% endfor %}",
    "a search": LOOP + "{% set x = 'y' in c %}{% endfor %}",
    "a test": LOOP + "{% set x = c is upper %}{% endfor %}",
    "a joining": LOOP + "{% set x = c ~ c %}{% endfor %}",
    "a sum": LOOP + "{% set x = c + c %}{% endfor %}",
    "a macro": "{% macro f() %}{{ messages[0].content }}{% endmacro %}" + LOOP + "{% set x = f() %}{% endfor %}",
    "a long body": "{% for i in range(99999) %}" + "{% if i < 0 %}{% endif %}" * 500 + "{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_costs_much_in_few_steps_is_stopped(what):
    template = ChatTemplate(HOSTILE[what], {})
    with pytest.raises(CounterfoilError) as caught:
        template.render(CHAT)
    assert caught.value.code in {Code.INVALID_ARGUMENT, Code.UNSUPPORTED}
    assert "these roles" not in caught.value.detail


def test_a_long_conversation_is_rendered():
    turns = (
        "{% for m in messages %}<{{ m.role | upper }}>{{ m.content | trim | replace('\\r', '') }}"
    )
    think = "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% endif %}"
    source = turns + think + "{{ (messages | selectattr('role', 'eq', 'user') | list)[-1].role }}{% endfor %}"  # fmt: skip
    chat = [{"role": "user", "content": "hello " * 2500} for _ in range(256)]
    assert len(ChatTemplate(source, {}).render(chat)) > 3_800_000


def test_only_what_has_a_text_is_written():
    """The text of anything else is an address, which differs in every process."""
    for source in (
        "{{ messages | map('length') }}",
        "{{ [raise_exception] }}",
        "{{ namespace() }}",
    ):
        with pytest.raises(CounterfoilError, match="no fixed text") as caught:
            ChatTemplate(source, {}).render(CHAT)
        assert caught.value.code is Code.UNSUPPORTED
    written = ChatTemplate("{{ [1, 2.5, none, true, 'a'] }}{{ nothing }}{{ range(2) }}", {})
    assert written.render(CHAT) == "[1, 2.5, None, True, 'a']range(0, 2)"
