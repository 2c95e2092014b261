"""`part.json`: its bytes, and what is no such file."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.model.part_file import FORMAT, MAX_LEAVES, PART, PartFile, parse_part, read_part
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import LARGEST

LEAVES = tuple(bytes([index]) * 32 for index in range(5))
FILE = PartFile(LEAVES, {"a": 0, "c": 2})


def refused(saying: str, code: Code, call: Any, *arguments: Any) -> None:
    with pytest.raises(CounterfoilError, match=saying) as caught:
        call(*arguments)
    assert caught.value.code is code
    assert len(caught.value.detail) < 300
    assert caught.value.detail.isprintable()


def text(**changes: Any) -> bytes:
    leaves = [leaf.hex() for leaf in LEAVES]
    values = {"format": FORMAT, "leaves": leaves, "held": {"a": 0, "c": 2}}
    return json.dumps(values | changes).encode()


def test_the_file_is_what_the_protocol_says():
    assert FILE.encode() == text()
    assert parse_part(text()) == FILE


def test_names_may_be_listed_in_any_order():
    assert list(parse_part(text(held={"c": 2, "a": 0})).held.items()) == [("a", 0), ("c", 2)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 200_000,
        text()[:-1],
        text(format="counterfoil-model-part/v2"),
        text(more=1),
        text(leaves={}),
        text(leaves=[]),
        text(leaves=[3]),
        text(leaves=["A" * 64]),
        text(leaves=["00" * 31]),
        text(leaves=["00" * 33]),
        text(leaves=["00 " * 21 + "0"]),
        text(leaves=["\u0660" * 64]),
        text(leaves=["a" * (4 << 20)]),
        text(leaves=["00" * 32] * (MAX_LEAVES + 1)),
        text(held={}),
        text(held=[]),
        text(held={"a": 5}),
        text(held={"a": -1}),
        text(held={"a": True}),
        text(held={"a": 0.0}),
        text(held={"a": "0"}),
        text(held={"a": 1 << 70}),
        text(held={"a": 2, "c": 0}),
        text(held={"a": 1, "c": 1}),
        text().replace(b'"c"', b'"a"'),
        text().replace(b'{"format"', b'{"format": "x", "format"'),
        text().replace(b'"a": 0', b'"a": NaN'),
    ],
)
def test_anything_else_is_malformed(data):
    refused(PART, Code.MALFORMED, parse_part, data)


def test_a_folder_without_the_file_is_a_whole_checkpoint(tmp_path: Path):
    assert read_part(tmp_path) is None


def test_a_file_larger_than_any_is_not_read(tmp_path: Path):
    with (tmp_path / PART).open("wb") as file:
        file.truncate(LARGEST[PART] + 1)
    refused(PART, Code.MALFORMED, read_part, tmp_path)


TENSORS = {"a": LEAVES[0], "c": LEAVES[2]}
FILES = {"config.json": LEAVES[3], "tokenizer.json": LEAVES[4]}


def test_what_is_held_has_its_leaf_at_its_place_and_the_files_the_last():
    FILE.check_leaves(TENSORS, FILES)


@pytest.mark.parametrize(
    ("tensors", "files", "saying", "code"),
    [
        ({"a": LEAVES[0]}, FILES, "lacks the tensor c", Code.MALFORMED),
        (TENSORS | {"b": LEAVES[1]}, FILES, "has the tensor b", Code.MALFORMED),
        (TENSORS | {"\x1b[2J" * 99: LEAVES[1]}, FILES, "has the tensor", Code.MALFORMED),
        ({"a": LEAVES[2], "c": LEAVES[0]}, FILES, "the tensor a is not", Code.CORRUPT),
        (TENSORS | {"c": LEAVES[1]}, FILES, "the tensor c is not", Code.CORRUPT),
        (TENSORS, {"config.json": LEAVES[3]}, "config.json is not", Code.CORRUPT),
        (TENSORS, FILES | {"tokenizer.json": LEAVES[3]}, "tokenizer.json is not", Code.CORRUPT),
        (TENSORS, {str(n): LEAVES[4] for n in range(6)}, "0 is not", Code.CORRUPT),
    ],
)
def test_what_is_not_the_listed_one_is_named(tensors, files, saying, code):
    refused(saying, code, FILE.check_leaves, tensors, files)
