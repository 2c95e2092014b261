from enum import StrEnum

import pytest

from shared.codec.cbor import Value
from shared.codec.fields import Reader
from shared.runtime.errors import Code, CounterfoilError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


WHOLE: dict[str, Value] = {
    "v": 1,
    "n": 7,
    "b": b"\x01" * 32,
    "t": "text",
    "yes": True,
    "name": "acme-1",
    "colour": "red",
    "list": [b"\x02" * 32, b"\x03" * 32],
    "map": {b"\x04" * 32: b"\x05" * 32},
    "inner": {"x": 1},
    "rows": [{"x": 1}, {"x": 2}],
}


def read_all(value: Value) -> tuple[object, ...]:
    read = Reader(value, "thing")
    read.version()
    found = (
        read.int("n", 0, 9),
        read.bytes("b", length=32),
        read.text("t", 8),
        read.bool("yes"),
        read.name("name"),
        read.choice("colour", Colour),
        read.list_of("list", bytes, length=32, min_items=1, max_items=2),
        read.map_of("map", bytes, bytes, key_length=32, length=32),
        read.optional_int("absent"),
        read.optional_bytes("absent"),
        read.optional_text("absent"),
    )
    inner = read.reader("inner")
    assert inner.int("x") == 1
    inner.done()
    assert [row.int("x") for row in read.readers("rows", max_items=2)] == [1, 2]
    read.done()
    return found


def test_every_kind_of_field_is_read():
    found = read_all(WHOLE)
    assert found[0] == 7
    assert found[5] is Colour.RED
    assert found[8:] == (None, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 10}, "thing.n: 10 is outside 0 … 9"),
        ({"n": True}, "thing.n: must be an integer"),
        ({"n": "7"}, "thing.n: must be an integer"),
        ({"b": b"\x01" * 31}, "thing.b: has 31 bytes instead of 32"),
        ({"b": "text"}, "thing.b: must be a byte string"),
        ({"t": "too long text"}, "thing.t: has 13 characters, more than 8"),
        ({"t": b"x"}, "thing.t: must be text"),
        ({"yes": 1}, "thing.yes: must be a boolean"),
        ({"name": "Acme"}, "thing.name: is not a name"),
        ({"name": "acme\n"}, "thing.name: is not a name"),
        ({"colour": "green"}, "thing.colour: must be one of red, blue"),
        ({"colour": 1}, "thing.colour: must be text"),
        ({"list": []}, "thing.list: has 0 items"),
        ({"list": [b"\x02" * 32] * 3}, "thing.list: has 3 items"),
        ({"list": [b"\x02" * 32, 5]}, "thing.list[1]: must be a byte string"),
        ({"list": [b"\x02"]}, "thing.list[0]: has 1 bytes instead of 32"),
        ({"list": {}}, "thing.list: must be an array"),
        ({"map": []}, "thing.map: must be a map"),
        ({"map": {"k": b"\x05" * 32}}, "a key of thing.map: must be a byte string"),
        ({"map": {b"\x04" * 32: 1}}, "a value of thing.map: must be a byte string"),
        ({"inner": 1}, "thing.inner: expected a map"),
        ({"rows": [1]}, "thing.rows[0]: expected a map"),
        ({"more": 1}, "thing: unknown fields more"),
        ({"\x1b[2J" + "x" * 99: 1}, "thing: unknown fields ?[2J" + "x" * 36),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(CounterfoilError) as caught:
        read_all(WHOLE | change)
    assert caught.value.code is Code.MALFORMED
    assert message in caught.value.detail


@pytest.mark.parametrize("key", sorted(WHOLE))
def test_a_missing_field_is_refused_by_name(key):
    with pytest.raises(CounterfoilError, match=rf"thing\.{key}: is missing"):
        read_all({k: v for k, v in WHOLE.items() if k != key})


def test_another_version_is_unsupported():
    with pytest.raises(CounterfoilError) as caught:
        Reader({"v": 2}, "thing").version()
    assert caught.value.code is Code.UNSUPPORTED


def test_only_a_map_can_be_read():
    with pytest.raises(CounterfoilError, match="thing: expected a map"):
        Reader([1], "thing")
