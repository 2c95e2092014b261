"""Padding: every length has one class, and only what `pad` writes is removed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.envelope.padding import is_size_class, pad, padded_size, unpad
from shared.runtime.errors import Code, CounterfoilError


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (0, 256),
        (255, 256),
        (256, 512),
        (65_535, 65_536),
        (65_536, 131_072),
        (131_071, 131_072),
        (131_072, 196_608),
    ],
)
def test_classes_double_up_to_64_kib_and_are_its_multiples_above(length, size):
    assert padded_size(length, 256) == size
    assert is_size_class(size, 256)
    assert not is_size_class(size - 1, 256)
    assert not is_size_class(size + 1, 256)


def test_no_class_is_below_the_smallest():
    assert not is_size_class(0, 64)
    assert not is_size_class(32, 64)
    assert is_size_class(64, 64)
    assert not is_size_class(98_304, 64)


@settings(max_examples=100)
@given(data=st.binary(max_size=700), smallest=st.sampled_from([64, 256]))
def test_padding_comes_off_again(data, smallest):
    padded = pad(data, smallest)
    assert len(padded) == padded_size(len(data), smallest)
    assert unpad(padded, smallest) == data


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(64),
        b"\x80",
        b"\x80" + bytes(62),
        b"\x80" + bytes(64),
        b"x" * 64,
        b"x" * 63 + b"\x81",
        b"ab\x80" + bytes(125),
        b"\x80" + bytes(62) + b"\x01",
    ],
)
def test_anything_else_is_unreadable(padded):
    with pytest.raises(CounterfoilError) as caught:
        unpad(padded, 64)
    assert caught.value.code is Code.UNREADABLE
