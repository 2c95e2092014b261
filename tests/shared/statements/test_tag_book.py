"""Tag books: read strictly, resolved exactly, merged only where they agree."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.statements import tag_book
from shared.statements.tag_book import TagBook
from shared.statements.tags import TagKey
from tests.vectors.files import load
from tests.vectors.samples import octets

KEY = TagKey(octets("tag key"))
SEARCH, SALES = {"team": "search", "project": "x"}, {"cost_centre": "sales"}
BOOK = TagBook.of(KEY, "acme", [SEARCH, SALES])
VALUE = KEY.blind("acme", SEARCH)
HEX = VALUE.hex()


def refusal(data):
    with pytest.raises(CounterfoilError) as caught:
        TagBook.parse(data if isinstance(data, bytes) else data.encode())
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.detail.isprintable()
    return caught.value.detail


def test_a_holder_of_the_key_reads_the_candidates_and_nothing_else():
    assert BOOK.tags_of(VALUE) == SEARCH
    assert BOOK.tags_of(KEY.blind("acme", SALES)) == SALES
    assert BOOK.tags_of(KEY.blind("acme", {"team": "search"})) == {}
    assert BOOK.tags_of(KEY.blind("globex", SEARCH)) == {}
    assert BOOK.tags_of(None) == {}


@given(st.integers(0, 31), st.integers(1, 255))
def test_a_mutated_byte_is_not_resolved(place, change):
    mutated = bytearray(VALUE)
    mutated[place] ^= change
    assert BOOK.tags_of(bytes(mutated)) == {}


def test_what_a_book_returns_cannot_change_it():
    with pytest.raises(TypeError):
        BOOK.tags_of(VALUE)["team"] = "sales"  # type: ignore[index]  # read-only
    assert BOOK.tags_of(VALUE) == SEARCH


def test_a_written_book_is_read_back(tmp_path):
    file = tmp_path / "tags.json"
    file.write_bytes(BOOK.encode())
    assert TagBook.load(file) == BOOK
    assert json.loads(file.read_text()) == {
        "tenant": "acme",
        "tags": {HEX: SEARCH, KEY.blind("acme", SALES).hex(): SALES},
    }
    empty = TagBook("acme", {})
    assert TagBook.parse(empty.encode()) == empty


def test_the_published_book_is_read():
    book = TagBook.parse(load("tags")["book"].encode())
    assert book.tenant == "acme"
    assert book.tags_of(VALUE) == SEARCH


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"9" * 10_000,
        '{"tenant": "acme"}',
        '{"tags": {}}',
        '{"tenant": "acme", "tags": {}, "note": 1}',
        '{"tenant": "acme", "tags": {}, "tags": {}}',
        '{"tenant": "acme", "tags": {}} x',
        '{"tenant": "acme", "tags": []}',
        '{"tenant": 5, "tags": {}}',
        '{"tenant": "Acme", "tags": {}}',
        '{"tenant": "a\\u001b[2J", "tags": {}}',
        '{"tenant": "acme", "tags": NaN}',
    ],
    ids=lambda data: str(data)[:40],
)
def test_what_is_not_a_tag_book_is_refused(data):
    refusal(data)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (f'"{HEX.upper()}": {{"team": "x"}}', "64 lower-case hexadecimal digits"),
        (f'"{HEX[2:]}": {{"team": "x"}}', "64 lower-case hexadecimal digits"),
        ('"\\u001b": {"team": "x"}', "64 lower-case hexadecimal digits"),
        (f'"{HEX}": {{}}', "1 to 16 tags, not 0"),
        (f'"{HEX}": "x"', "are not an object"),
        (f'"{HEX}": null', "are not an object"),
        (f'"{HEX}": {{"team": 5}}', "the tag team must be text"),
        (f'"{HEX}": {{"team": {{"a": "b"}}}}', "the tag team must be text"),
        (f'"{HEX}": {{"Team": "x"}}', "cannot be the name of a tag"),
        (f'"{HEX}": {{"\\u001b[2J": "x"}}', "cannot be the name of a tag"),
        (f'"{HEX}": {{"team": "\\ud800"}}', "U+D800"),
        (f'"{HEX}": {{"team": "\\u001b[2J"}}', "U+001B"),
        (f'"{HEX}": {{"team": "{"x" * 129}"}}', "128 characters"),
        (f'"{HEX}": {{"team": "Zu\\u0308rich"}}', "NFC"),
        (f'"{HEX}": {{"team": "a", "team": "b"}}', "every member once"),
        (f'"{HEX}": {{"team": "a"}}, "{HEX}": {{"team": "b"}}', "every member once"),
    ],
)
def test_an_entry_outside_the_limits_refuses_the_whole_file(entries, told):
    good = f'"{"00" * 32}": {{"team": "x"}}'
    assert told in refusal(f'{{"tenant": "acme", "tags": {{{good}, {entries}}}}}')


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 300))
def test_spoiled_bytes_are_refused_or_are_a_book_that_writes_itself(junk, at):
    data = BOOK.encode()
    try:
        found = TagBook.parse(data[:at] + junk + data[at + len(junk) :])
    except CounterfoilError as error:
        code = error.code
    else:
        code = None
        assert TagBook.parse(found.encode()) == found
    assert code in {None, Code.INVALID_ARGUMENT}


def test_a_file_is_named_with_what_is_wrong(tmp_path):
    file = tmp_path / "tags.json"
    with pytest.raises(CounterfoilError) as caught:
        TagBook.load(file)
    assert caught.value.code is Code.NOT_FOUND
    file.write_text("{}")
    with pytest.raises(CounterfoilError) as caught:
        TagBook.load(file)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert str(file) in caught.value.detail


def test_a_book_that_is_too_long_is_neither_read_nor_written(monkeypatch, tmp_path):
    monkeypatch.setattr(tag_book, "MAX_BYTES", len(BOOK.encode()))
    assert TagBook.parse(BOOK.encode()) == BOOK
    assert "at most" in refusal(BOOK.encode() + b" ")
    file = tmp_path / "tags.json"
    file.write_bytes(BOOK.encode() + b" " * 1000)
    with pytest.raises(CounterfoilError, match="at most"):
        TagBook.load(file)
    with pytest.raises(CounterfoilError, match="3 entries"):
        BOOK.merged(TagBook.of(KEY, "acme", [{"team": "sales"}])).encode()


def test_books_are_merged_where_they_agree():
    more = TagBook.of(KEY, "acme", [SALES, {"team": "sales"}])
    both = BOOK.merged(more)
    assert both == more.merged(BOOK)
    assert len(both.entries) == 3


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (TagBook("globex", {}), "acme, another of globex"),
        (TagBook("acme", {VALUE: SALES}), HEX),
    ],
    ids=["another tenant", "another reading"],
)
def test_books_that_contradict_each_other_are_not_merged(other, told):
    with pytest.raises(CounterfoilError) as caught:
        BOOK.merged(other)
    assert caught.value.code is Code.CONFLICT
    assert told in caught.value.detail
