"""Strings with marks: as text they are strings, and each character keeps its mark wherever it is copied to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.text.marked import MAX_RENDERED, Marked, TooLongError, concat

some = settings(max_examples=60, deadline=None)
PIECES = st.lists(st.tuples(st.text("abAB ,\n\tßé", max_size=5), st.booleans()), max_size=4)
MARKED = PIECES.map(
    lambda pieces: concat(Marked.written(text) if own else Marked(text) for text, own in pieces)
)
SEPARATORS = st.sampled_from([None, " ", ",", "ab", "aba", "\n"])


OPERATIONS = {
    "strip": lambda s, sep: s.strip(sep),
    "lstrip": lambda s, sep: s.lstrip(sep),
    "rstrip": lambda s, sep: s.rstrip(sep),
    "split": lambda s, sep: s.split(sep),
    "split once": lambda s, sep: s.split(sep, 1),
    "rsplit": lambda s, sep: s.rsplit(sep),
    "rsplit once": lambda s, sep: s.rsplit(sep, 1),
    "partition": lambda s, sep: s.partition(sep or "b"),
    "rpartition": lambda s, sep: s.rpartition(sep or "b"),
    "lines": lambda s, _: s.splitlines(),
    "whole lines": lambda s, _: s.splitlines(True),
    "replace": lambda s, sep: s.replace(sep or "a", "xyz"),
    "replace once": lambda s, sep: s.replace(sep or "a", "xyz", 1),
    "replace nothing": lambda s, _: s.replace("", "-"),
    "prefix": lambda s, sep: s.removeprefix(sep or "a"),
    "suffix": lambda s, sep: s.removesuffix(sep or "a"),
    "slice": lambda s, _: (s[1:], s[:-1], s[::-1], s[1:5:2]),
    "index": lambda s, _: (s[0], s[-1]) if s else (),
    "each": lambda s, _: list(s),
    "times": lambda s, _: s * 2 + 2 * s + "x",
    "added": lambda s, _: "ab" + s,
    "join": lambda s, _: s.join(["a", "b", "c"]),
    "cases": lambda s, _: [s.lower(), s.upper(), s.title(), s.capitalize()],
    "str": lambda s, _: str(s),
}


@pytest.mark.parametrize("name", OPERATIONS)
@some
@given(text=MARKED, separator=SEPARATORS)
def test_as_text_it_is_a_string(name, text, separator):
    operation = OPERATIONS[name]
    assert operation(text, separator) == operation("".join(text), separator)


@pytest.mark.parametrize("name", OPERATIONS)
@some
@given(text=MARKED, separator=SEPARATORS)
def test_marks_go_with_the_characters(name, text, separator):
    """Each part has as many marks as characters, and those of its own are where they were in the whole."""
    found = OPERATIONS[name](text, separator)
    for part in [found] if isinstance(found, str) else found:
        assert isinstance(part, Marked)
        assert len(part.marks) == len(part)
        assert part.marks.count(1) <= 4 * text.marks.count(1)


@some
@given(pieces=st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.booleans()), max_size=5))
def test_parts_of_a_whole_have_the_marks_that_they_had_there(pieces):
    whole = concat(Marked.written(text) if own else Marked(text) for text, own in pieces)
    joined = Marked.written(" ").join(
        Marked.written(text) if own else Marked(text) for text, own in pieces
    )
    expected = [(text, bytes([own]) * len(text)) for text, own in pieces]
    for split in (joined.split(" "), joined.split(), joined.rsplit(" ")):
        assert [(str(part), part.marks) for part in split] == (expected or [("", b"")] * len(split))
    assert whole.marks == b"".join(mark for _, mark in expected)
    assert joined.replace(" ", "").marks == whole.marks


def test_a_repeated_part_is_found_where_it_is():
    text = Marked.written("ab") + Marked("ba") + Marked.written("ab")
    assert [part.marks for part in text.split("ab")] == [b"", b"\0\0", b""]
    assert text.partition("bb")[2].marks == b"\0\1\1"


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s * 8,
        lambda s: s + s + s,
        lambda s: s.join([s, s, s]),
        lambda s: s.replace("x", "xxx"),
        lambda s: s.replace("", "xxx"),
        lambda s: s.split("x"),
        list,
        lambda s: (s[:99] + " x" * 300_000).split(),
        lambda s: (s[:99] + "\n" * 300_000).splitlines(),
    ],
)
def test_nothing_is_longer_than_any_prompt(make):
    with pytest.raises(TooLongError):
        make(Marked("x" * (MAX_RENDERED // 2)))


def test_only_strings_are_joined():
    with pytest.raises(TypeError):
        Marked("a") + 1
    with pytest.raises(TypeError):
        Marked("a").join(["a", 1])
