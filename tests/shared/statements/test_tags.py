"""Tags: equal ones join under one key and tenant, nothing else does; what is outside the limits is refused by name."""

import hmac
from hashlib import sha256

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec.hashing import framing
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.tags import MAX_TAGS, TagKey, canonical_tags
from tests.vectors.files import load
from tests.vectors.samples import octets

VECTORS = load("tags")
KEY = TagKey(octets("tag key"))
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,62}", fullmatch=True)
VALUES = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=128).filter(
    str.isprintable
)
TAGS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=MAX_TAGS)


@pytest.mark.parametrize("vector", VECTORS["blinded"], ids=lambda vector: str(vector["tags"])[:40])
def test_a_published_value_is_the_mac_of_the_tenant_and_the_canonical_tags(vector):
    key = bytes.fromhex(VECTORS["keys"][vector["key"]])
    encoded = bytes.fromhex(vector["encoded"])
    assert cbor2.loads(encoded) == canonical_tags(vector["tags"])
    label, tenant = b"counterfoil/v1/cost-centre", vector["tenant"].encode()
    framed = bytes([len(label)]) + label
    for part in (tenant, encoded):
        framed += len(part).to_bytes(4, "big") + part
    assert hmac.digest(key, framed, "sha256").hex() == vector["cost_centre"]
    assert TagKey(key).blind(vector["tenant"], vector["tags"]).hex() == vector["cost_centre"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_tags_outside_the_limits_are_refused(vector):
    with pytest.raises(CounterfoilError) as caught:
        KEY.blind("acme", vector["tags"])
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.detail.isprintable()


@given(TAGS, TAGS)
def test_values_are_equal_exactly_where_the_tags_are(one, other):
    assert (KEY.blind("acme", one) == KEY.blind("acme", other)) is (one == other)
    assert KEY.blind("acme", dict(reversed(one.items()))) == KEY.blind("acme", one)


@given(TAGS)
def test_neither_another_tenant_nor_another_key_joins(tags):
    values = {
        KEY.blind("acme", tags),
        KEY.blind("globex", tags),
        TagKey(octets("another tag key")).blind("acme", tags),
        TagKey(bytes(32)).blind("acme", tags),
    }
    assert len(values) == 4


def test_two_spellings_of_one_character_are_one_value():
    assert KEY.blind("acme", {"team": "Zu\u0308rich"}) == KEY.blind("acme", {"team": "Zürich"})
    assert canonical_tags({"team": "u\u0308" * 128}) == {"team": "ü" * 128}


def test_a_guess_is_not_confirmed_without_the_key():
    told = KEY.blind("acme", {"team": "search"})
    parts = ("cost-centre", b"acme", cbor2.dumps({"team": "search"}))
    guesses = {sha256(framing(*parts)).digest(), hmac.digest(b"", framing(*parts), "sha256")}
    assert told not in guesses
    assert hmac.digest(octets("tag key"), framing(*parts), "sha256") == told


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_none(size):
    with pytest.raises(CounterfoilError, match="32 bytes"):
        TagKey(bytes(size))


def test_a_key_does_not_print_itself():
    assert KEY.raw.hex() not in repr(KEY) + KEY.fingerprint
    assert str(KEY.raw) not in repr(KEY)


def test_keys_are_told_apart_by_their_fingerprints():
    assert len(KEY.fingerprint) == 16
    assert KEY.fingerprint == TagKey(octets("tag key")).fingerprint
    assert KEY.fingerprint != TagKey(octets("another tag key")).fingerprint
