"""JSON from a stranger has one meaning, or none."""

import pytest

from shared.codec.strict_json import strict_json


def test_json_is_read():
    assert strict_json('{"é": [1, 2.5, null, {"a": "b"}]}'.encode()) == {
        "é": [1, 2.5, None, {"a": "b"}]
    }


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}',
        b'[{"x": {"a": 1, "a": 2}}]',
        b"NaN",
        b'{"a": -Infinity}',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"",
    ],
)
def test_what_has_two_meanings_or_none_is_refused(data):
    with pytest.raises(ValueError):
        strict_json(data)


def test_what_is_nested_too_deeply_is_refused():
    with pytest.raises(RecursionError):
        strict_json(b"[" * 200_000)
