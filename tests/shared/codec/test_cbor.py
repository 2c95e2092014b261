"""The codec against RFC 8949 Appendix A, against another implementation, and against hostile bytes."""

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.codec import cbor
from shared.codec.cbor import Tag, decode, encode
from shared.runtime.errors import Code, CounterfoilError

# RFC 8949 Appendix A, all examples whose values exist here and that are deterministic.
APPENDIX_A = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (Tag(0, "2013-03-21T20:04:00Z"), "c074323031332d30332d32315432303a30343a30305a"),
    (Tag(1, 1363896240), "c11a514b67b0"),
    (Tag(23, bytes.fromhex("01020304")), "d74401020304"),
    (Tag(24, bytes.fromhex("6449455446")), "d818456449455446"),
    (
        Tag(32, "http://www.example.com"),
        "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
    ),
    (b"", "40"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    (
        {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
        "a56161614161626142616361436164614461656145",
    ),
]

REFUSED = {
    "nothing": "",
    "trailing byte": "0000",
    "one-byte integer that fits the head": "1817",
    "two-byte integer that fits one": "1900ff",
    "four-byte integer that fits two": "1a0000ffff",
    "eight-byte integer that fits four": "1b00000000ffffffff",
    "long negative integer": "3800",
    "negative integer below -2^63": "3b8000000000000000",
    "long length of bytes": "580161",
    "long length of text": "780161",
    "long length of an array": "980100",
    "long length of a map": "b8010000",
    "long tag number": "d80100",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f01ff",
    "indefinite map": "bf0101ff",
    "a break alone": "ff",
    "reserved length 28": "1c",
    "reserved length 30": "fe",
    "half float": "f93c00",
    "float": "fa47c35000",
    "double": "fb3ff199999999999a",
    "NaN": "f97e00",
    "undefined": "f7",
    "simple value 16": "f0",
    "simple value 255": "f8ff",
    "simple value of two bytes that fits one": "f814",
    "duplicate key": "a201000100",
    "keys out of order": "a202000100",
    "keys by length first, the older rule": "a3616100626161001818" + "00",
    "null as a key": "a1f600",
    "a boolean as a key": "a1f500",
    "an array as a key": "a18000",
    "a tag as a key": "a1c10000",
    "truncated head": "19ff",
    "truncated bytes": "430102",
    "truncated text": "636161",
    "truncated array": "8201",
    "map without its last value": "a101",
    "tag without content": "c1",
    "invalid UTF-8": "61ff",
    "overlong UTF-8": "62c080",
    "surrogate in UTF-8": "63eda080",
    "array that announces 2^64-1 items": "9bffffffffffffffff",
    "map that announces 2^63 pairs": "bb8000000000000000",
    "bytes that announce 2^64-1": "5bffffffffffffffff",
}

integers = st.integers(cbor.MIN_INT, cbor.MAX_INT)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.one_of(integers, texts, st.binary(max_size=40), st.booleans(), st.none())
keys = st.one_of(integers, texts, st.binary(max_size=40))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(keys, inner, max_size=5),
        st.builds(Tag, st.integers(0, cbor.MAX_INT), inner),
    ),
    max_leaves=20,
)


def refused(data: bytes, **limits: int) -> str:
    with pytest.raises(CounterfoilError) as caught:
        decode(data, **limits)
    assert caught.value.code is Code.MALFORMED
    return caught.value.detail


@pytest.mark.parametrize(("value", "encoded"), APPENDIX_A, ids=lambda x: str(x)[:24])
def test_appendix_a_both_ways(value, encoded):
    assert encode(value).hex() == encoded
    decoded = decode(bytes.fromhex(encoded))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("encoded", REFUSED.values(), ids=REFUSED.keys())
def test_bytes_that_the_encoder_would_not_write_are_refused(encoded):
    assert refused(bytes.fromhex(encoded)).startswith("CBOR: ")


def test_bounds_of_integers():
    assert decode(encode(-(2**63))) == -(2**63)
    for outside in (2**64, -(2**63) - 1):
        with pytest.raises(CounterfoilError):
            encode(outside)


def test_keys_are_sorted_by_the_bytes_of_their_encoding():
    # RFC 8949 §4.2.1's own example, without the keys that do not exist here
    shuffled = {"aa": 5, -1: 3, 100: 2, "z": 4, 10: 1, b"\x01": 6}
    decoded = decode(encode(shuffled))
    assert isinstance(decoded, dict)
    assert list(decoded) == [10, 100, -1, b"\x01", "z", "aa"]


@given(values)
@settings(max_examples=200, deadline=None)
def test_every_value_survives_and_another_implementation_reads_it(value):
    data = encode(value)
    assert decode(data) == value
    assert encode(decode(data)) == data
    if not has_tag(value):
        assert cbor2.loads(data) == value


def has_tag(value: object) -> bool:
    if isinstance(value, Tag):
        return True
    inner = [*value.values()] if isinstance(value, dict) else value
    return isinstance(inner, list) and any(has_tag(item) for item in inner)


def check_canonical_or_malformed(data: bytes) -> None:
    try:
        value = decode(data)
    except CounterfoilError as error:
        code = error.code
    else:
        assert encode(value) == data
        return
    assert code is Code.MALFORMED


@given(st.binary(max_size=64))
@settings(max_examples=600, deadline=None)
@example(bytes.fromhex("a2fb3ff199999999999a0001"))
@example(b"\xd8\x1d\x00")  # a shared reference, for decoders that know them
def test_any_bytes_are_either_canonical_or_malformed(data):
    check_canonical_or_malformed(data)


@given(values, st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_never_gives_a_second_encoding(value, data):
    original = encode(value)
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= data.draw(st.integers(1, 255))
    check_canonical_or_malformed(bytes(changed))


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x00", b"\xc1"], ids=["array", "map", "tag"])
def test_nesting_bombs_are_refused_without_recursion(opening):
    assert "nested too deeply" in refused(opening * 200_000 + b"\x00")


def test_depth_limit_is_the_same_in_both_directions():
    deepest: cbor.Value = 0
    for _ in range(cbor.MAX_DEPTH):
        deepest = [deepest]
    assert decode(encode(deepest)) == deepest
    with pytest.raises(CounterfoilError):
        encode([deepest])
    assert "nested" in refused(b"\x81" * (cbor.MAX_DEPTH + 1) + b"\x00")
    assert decode(encode(0), max_depth=0) == 0
    assert "nested" in refused(b"\x80", max_depth=0)


@pytest.fixture
def made(monkeypatch):
    """Count the values that the decoder begins to create."""
    counted = [0]
    item = cbor._item

    def counting(*args):
        counted[0] += 1
        return item(*args)

    monkeypatch.setattr(cbor, "_item", counting)
    return counted


MIB = 2**20
BOMBS = {
    "arrays": b"\x80" * MIB,
    "maps": b"\xa0" * MIB,
    "byte strings": b"\x40" * MIB,
    "integers": b"\x00" * MIB,
    "tags": b"\xc0\x00" * (MIB // 2),
    "long integers": (b"\x1b" + b"\xff" * 8) * (MIB // 9),
    "pairs": b"\x81\x80" * (MIB // 2),
    "arrays of arrays": (b"\x90" + b"\x80" * 16) * (MIB // 17),
}
MEMBERS = {"tags": 2, "long integers": 9, "pairs": 2, "arrays of arrays": 17 * 64}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_more_than_the_permitted_items_are_made(name, made):
    members = MIB // MEMBERS.get(name, 1)
    data = bytearray()
    cbor._write_head(data, 4, members)
    data += BOMBS[name]
    assert "items" in refused(data)
    assert made[0] <= cbor.MAX_ITEMS


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (0, 1),
        ("text", 1),
        ([], 1),
        ([1, [2, 3]], 5),
        ({"a": 1, "b": [2]}, 6),
        (Tag(18, [b""]), 3),
        (Tag(1, Tag(2, 0)), 3),
    ],
    ids=repr,
)
def test_every_value_is_an_item_and_exactly_the_permitted_number_decodes(value, items, made):
    data = encode(value)
    assert decode(data, max_items=items) == value
    assert made[0] == items
    assert f"more than the permitted {items - 1} items" in refused(data, max_items=items - 1)


@pytest.mark.parametrize(
    ("value", "nested"),
    [(0, 0), ([1, 2], 1), ([[], []], 3), ({"a": [], "b": {}}, 3), (Tag(1, Tag(2, [])), 3)],
    ids=repr,
)
def test_arrays_maps_and_tags_are_counted_apart(value, nested):
    data = encode(value)
    assert decode(data, max_nested=nested) == value
    if nested:
        assert "arrays, maps and tags" in refused(data, max_nested=nested - 1)


def test_size_limit_is_checked_before_anything_is_read():
    assert "exceed the limit of 3" in refused(b"\x43abc", max_bytes=3)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        1j,
        {1.5: 0},
        {None: 0},
        {True: 0},
        {(1,): 0},
        {1, 2},
        pytest.param(object(), id="object"),
        "\ud800",
        bytearray(b"x"),
        Tag(-1, 0),
        Tag(2**64, 0),
    ],
    ids=repr,
)
def test_values_that_do_not_exist_here_are_refused(value):
    with pytest.raises(CounterfoilError) as caught:
        encode(value)
    assert caught.value.code is Code.MALFORMED


def test_tuples_are_written_like_lists():
    assert encode((1, (2,))) == encode([1, [2]])
