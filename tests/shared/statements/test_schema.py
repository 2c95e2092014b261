"""Records: each rule refuses what it must, with the place in the message."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import pytest

from shared.codec import cbor
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.rules import Count, Either, Octets, Text, Whole
from shared.statements.schema import Boolean, Embedded, Record


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner(Record):
    n: Annotated[int, Whole(9, 1)]


@dataclass(frozen=True, slots=True)
class Sample(Record):
    flag: Boolean
    colour: Colour
    inner: Inner
    embedded: Annotated[Inner, Embedded(Inner, 8)]
    many: Annotated[tuple[Annotated[int, Whole(9)], ...], Count(1, 2)]
    inners: Annotated[tuple[Inner, ...], Count(0, 2)]
    table: Annotated[
        dict[Annotated[bytes, Octets(2, 2)], Annotated[str, Text(4, line=True)]], Count(1, 2)
    ]
    either: Annotated[str | int, Either({int: Whole(9), str: Text(2)})]


GOOD = Sample(
    flag=True,
    colour=Colour.RED,
    inner=Inner(1),
    embedded=Inner(2),
    many=(1,),
    inners=(Inner(3), Inner(4)),
    table={b"ab": "text"},
    either="x",
)
PAYLOAD = GOOD.to_payload()


def refused(call):
    with pytest.raises(CounterfoilError) as caught:
        call()
    assert caught.value.code is Code.MALFORMED
    return caught.value.detail


def test_a_record_survives_the_wire():
    assert Sample.from_cbor(GOOD.to_cbor(), max_bytes=200) == GOOD
    assert PAYLOAD["embedded"] == Inner(2).to_cbor()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("flag", [1, 0, "true", b""]),
        ("colour", ["green", "RED", 1, b"red", ["red"]]),
        ("inner", [1, [], {}, {"n": 0}, {"n": 10}, {"n": 1, "m": 1}, {"n": True}]),
        (
            "embedded",
            [{"n": 1}, b"", b"\xa1", b"\x01", cbor.encode({"n": 0}), cbor.encode([1]) * 9],
        ),
        ("many", [1, {}, [], [1, 2, 3], [10], [True], [None], "12", b"12"]),
        ("inners", [{}, [1], [{"n": 1}] * 3]),
        ("table", [[], {}, {b"a": "x"}, {"ab": "x"}, {b"ab": 1}, {b"ab": "x" * 5}, {b"ab": "\n"}]),
        ("table", [{b"ab": "", b"cd": "", b"ef": ""}]),
        ("either", [10, "abc", True, b"x", None, [], -1]),
    ],
)
def test_a_value_that_a_rule_excludes_is_refused_with_its_place(field, wrong):
    for value in wrong:
        detail = refused(lambda value=value: Sample.from_payload({**PAYLOAD, field: value}))
        assert field in detail or "inner" in detail


def test_values_made_here_are_checked_as_strictly():
    def changed(**members: Any) -> Sample:
        names = Sample.__dataclass_fields__
        return Sample(**{name: members.get(name, getattr(GOOD, name)) for name in names})

    wrong: list[dict[str, Any]] = [
        {"flag": 1},
        {"colour": "red"},
        {"inner": {"n": 1}},
        {"embedded": Inner(2).to_cbor()},
        {"many": [1]},
        {"many": ()},
        {"many": (1, 2, 3)},
        {"inners": (1,)},
        {"table": ()},
        {"table": ((b"ab", "x"),)},
        {"table": {}},
        {"either": 10},
        {"either": "abc"},
    ]
    assert changed() == GOOD
    for members in wrong:
        refused(lambda members=members: changed(**members))


def test_bytes_that_are_no_map_are_no_record():
    for data in (b"", b"\x01", cbor.encode([1]), GOOD.to_cbor() + b"\x00"):
        refused(lambda data=data: Sample.from_cbor(data, max_bytes=200))
    refused(lambda: Sample.from_cbor(GOOD.to_cbor(), max_bytes=20))


FULLEST = Sample(
    flag=True,
    colour=Colour.RED,
    inner=Inner(1),
    embedded=Inner(2),
    many=(1, 2),
    inners=(Inner(3), Inner(4)),
    table={b"ab": "text", b"cd": "text"},
    either="x",
)


def test_the_fullest_record_decodes_with_its_own_budget_and_with_no_item_less():
    data = FULLEST.to_cbor()
    assert Sample.from_cbor(data, max_bytes=200) == FULLEST
    assert cbor.decode(data, max_items=Sample.max_items()) == FULLEST.to_payload()
    detail = refused(lambda: cbor.decode(data, max_items=Sample.max_items() - 1))
    assert "items" in detail
    nested = Sample.max_nested()
    assert cbor.decode(data, max_nested=nested) == FULLEST.to_payload()
    assert "arrays" in refused(lambda: cbor.decode(data, max_nested=nested - 1))


def test_a_record_cannot_be_changed():
    with pytest.raises(AttributeError):
        GOOD.either = "y"  # type: ignore[misc]  # that it fails is the point
