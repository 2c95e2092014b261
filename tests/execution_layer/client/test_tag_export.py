"""The tag book of an archive: every order's tags under the order's own value, and never a prompt."""

import stat
from dataclasses import replace

import pytest

from execution_layer.client.tag_export import book_of, write_book
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import load_or_create_ed25519
from shared.statements.cose import sign
from shared.statements.tag_book import TagBook
from shared.statements.tag_key_file import load_tag_key
from shared.statements.tags import TagKey
from tests.vectors.samples import SAMPLES, octets

KEY = TagKey(octets("tag key"))
SEARCH = {"team": "search"}


@pytest.fixture
def ordered(tmp_path):
    """Return an order statement with a given blinded value."""
    value, _, issuer = SAMPLES["order"]
    key = load_or_create_ed25519(tmp_path / "tenant.pem")

    def make(cost_centre):
        return sign(replace(value, cost_centre=cost_centre), key=key, issuer=issuer)

    return make


async def test_the_archive_of_a_client_resolves_its_own_orders(world, tmp_path):
    async with world.node(), world.client() as client:
        tags = {"team": "search", "project": "Zürich"}
        await client.generate(prompt="a secret plan", max_tokens=2, tags=tags)
        await client.generate(prompt="a secret plan", max_tokens=2, cost_centre="sales", n=2)
        await client.generate(prompt="a secret plan", max_tokens=2)
        exported = book_of("acme", client.archive.tagged())
    assert exported.left_out == 0
    written = write_book(tmp_path / "tags.json", exported.book, [])
    key = load_tag_key(world.folder / "client" / "tags.key")
    assert written == TagBook.of(key, "acme", [tags, {"cost_centre": "sales"}])
    assert TagBook.load(tmp_path / "tags.json") == written
    text = (tmp_path / "tags.json").read_text()
    assert "secret plan" not in text
    assert key.raw.hex() not in text
    assert stat.S_IMODE((tmp_path / "tags.json").stat().st_mode) == 0o600


def test_values_of_former_keys_and_of_the_former_rule_are_resolved_too(ordered):
    old = octets("a value under a key of its transcript")
    orders = [(ordered(old), SEARCH), (ordered(KEY.blind("acme", SEARCH)), SEARCH)]
    book = book_of("acme", orders).book
    assert book.tags_of(old) == book.tags_of(KEY.blind("acme", SEARCH)) == SEARCH


def test_a_former_tag_outside_the_limits_is_counted_and_left_out(ordered):
    orders = [(ordered(octets("old")), {"cost_centre": text}) for text in ("x" * 129, "", "a\nb")]
    exported = book_of("acme", [*orders, (ordered(octets("new")), SEARCH)])
    assert exported.left_out == 3
    assert exported.book.entries == {octets("new"): SEARCH}


def test_books_of_other_machines_are_included_and_the_old_file_only_on_request(tmp_path):
    out, other = tmp_path / "tags.json", tmp_path / "other.json"
    one, two, three = ({"team": name} for name in ("one", "two", "three"))
    write_book(out, TagBook.of(KEY, "acme", [one]), [])
    write_book(other, TagBook.of(KEY, "acme", [two]), [])
    new = TagBook.of(KEY, "acme", [three])
    assert write_book(out, new, [out, other]) == TagBook.of(KEY, "acme", [one, two, three])
    assert write_book(out, new, []) == TagBook.load(out) == new


def test_a_book_that_cannot_be_merged_leaves_the_file_as_it_is(tmp_path):
    out, other = tmp_path / "tags.json", tmp_path / "other.json"
    mine = write_book(out, TagBook.of(KEY, "acme", [SEARCH]), [])
    write_book(other, TagBook.of(KEY, "globex", [SEARCH]), [])
    with pytest.raises(CounterfoilError) as caught:
        write_book(out, mine, [other])
    assert caught.value.code is Code.CONFLICT
    other.write_text("{}")
    with pytest.raises(CounterfoilError) as caught:
        write_book(out, mine, [other])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert TagBook.load(out) == mine
