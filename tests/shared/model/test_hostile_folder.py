"""A model folder from a stranger: whatever is in a file's place is refused by name, quickly and with little memory."""

import errno
import io
import json
import os
import signal
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from click.testing import CliRunner

from shared.model import root as root_module
from shared.model import shards as shards_module
from shared.model import weights as weights_module
from shared.model.cli import model as model_command
from shared.model.config import ModelConfig
from shared.model.cpu import CpuLayers
from shared.model.part_file import PART
from shared.model.root import model_root
from shared.model.shards import INDEX, MAX_HEADER, read_exactly
from shared.model.weights import expected_shapes
from shared.runtime import reading
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import LARGEST
from shared.text.generation import GenerationDefaults
from shared.text.tokenizer import Tokenizer
from tests.shared.model import tiny
from tests.shared.model.test_decoder import one_pass

WEIGHTS = "model.safetensors"
SMALL = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32}
TEXT = (model_root, Tokenizer.from_folder)
READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "config.json": (model_root, tiny.load),
    "generation_config.json": (model_root, tiny.load, GenerationDefaults.from_folder),
    "tokenizer.json": TEXT,
    "tokenizer_config.json": TEXT,
    "chat_template.jinja": TEXT,
    INDEX: (model_root, tiny.load),
    PART: (model_root, tiny.load),
    WEIGHTS: (model_root, tiny.load),
}
"""What reads each file."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", **SMALL)


@pytest.fixture(autouse=True)
def watch() -> Iterator[None]:
    """End a test that hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(read: Callable[[Path], object], folder: Path, saying: str, *codes: Code) -> None:
    with pytest.raises(CounterfoilError) as caught:
        read(folder)
    assert saying in caught.value.detail
    assert caught.value.code in (codes or set(Code))
    assert len(caught.value.detail) < 1000
    assert caught.value.detail.isprintable()


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)  # the path itself may be too long
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


THINGS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a link to a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("/nonexistent/blob"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": Path.mkdir,
    "a socket": listen,
    "a link to a terminal": lambda path: path.symlink_to(os.ttyname(os.openpty()[1])),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_not_a_regular_file_is_refused_unread(folder, name, thing):
    (folder / name).unlink(missing_ok=True)
    THINGS[thing](folder / name)
    for read in READERS[name]:
        refused(read, folder, name, Code.CONFIGURATION, Code.CORRUPT)


@pytest.mark.parametrize("command", ["show", "profile", "fetch"])
@pytest.mark.parametrize("thing", THINGS)
def test_no_command_waits_for_what_is_not_a_regular_file(folder, command, thing):
    for name in ("config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
        THINGS[thing](folder / name)
        done = CliRunner().invoke(model_command, [command, str(folder)])
        assert isinstance(done.exception, CounterfoilError)
        assert done.exception.code is Code.CONFIGURATION
        assert name in done.exception.detail
        if (folder / name).is_dir():
            (folder / name).rmdir()
        else:
            (folder / name).unlink()
        (folder / "config.json").write_text(json.dumps(tiny.config_json(**SMALL)))


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_may_not_be_read_is_an_error_that_names_it(folder, name, monkeypatch):
    """Root may read everything, so the system's answer is made up."""
    (folder / name).touch()
    opened = os.open

    def refuse(path, *rest, **named):
        if str(path).endswith(f"/{name}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    for read in READERS[name]:
        refused(read, folder, f"{name} cannot be read: Permission denied", Code.CONFIGURATION)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_has_to_be_waited_for_is_an_error_that_names_it(folder, name, monkeypatch):
    """Some regular files of /proc have nothing to read at the moment: `read` returns None then."""

    class Waiting(io.BytesIO):
        def read(self, *_: object) -> None:  # type: ignore[override]
            return None

    (folder / name).touch()
    opened = reading.open_regular

    def waiting(path):
        return Waiting(bytes(16)) if path.name == name else opened(path)

    for module in (reading, shards_module):
        monkeypatch.setattr(module, "open_regular", waiting)
    for read in READERS[name]:
        refused(read, folder, f"{name} cannot be read", Code.CONFIGURATION)


@pytest.mark.parametrize("name", READERS)
def test_links_to_regular_files_are_followed_as_the_hubs_cache_needs_it(folder, name, tmp_path):
    if not (folder / name).exists():
        if name in (INDEX, PART):
            return
        (folder / name).write_text("{}")
    expected = model_root(folder)
    (folder / name).rename(tmp_path / "blob")
    (folder / name).symlink_to(tmp_path / "blob")
    assert model_root(folder) == expected
    tiny.load(folder)
    Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", LARGEST)
def test_a_file_that_is_larger_than_any_of_its_kind_is_refused(folder, name):
    with (folder / name).open("ab") as file:
        file.truncate(1 << 40)  # sparse
    for read in READERS[name]:
        refused(read, folder, name, Code.MALFORMED)


JSONS = {
    "not a number": '{"a": NaN}',
    "no end": '{"a": -Infinity}',
    "more than a float holds": '{"a": 1e999}',
    "a number of 100,000 digits": '{"a": ' + "9" * 100_000 + "}",
    "deep": '{"a": ' * 100_000,
    "deep lists": '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}",
    "a name twice": '{"a": 1, "a": 2}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "an escape for terminals, twice": '{"\\u001b[2J": 1, "\\u001b[2J": 2}',
    "a lone surrogate, twice": '{"\\ud800": 1, "\\ud800": 2}',
    "a list": "[]",
}


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", INDEX]
)
@pytest.mark.parametrize("what", JSONS)
def test_json_that_readers_understand_differently_or_not_at_all_is_malformed(folder, name, what):
    text = JSONS[what]
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in READERS[name]:
        if read is model_root and name != INDEX:
            continue  # it hashes the file as it is
        refused(read, folder, name, Code.MALFORMED)


def test_a_file_full_of_small_objects_takes_little_memory(folder):
    (folder / "config.json").write_text("[" + "{}," * (LARGEST["config.json"] // 3 - 1) + "{}]")
    tracemalloc.start()
    try:
        refused(tiny.load, folder, "config.json", Code.MALFORMED)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (name, value)
            for name in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "intermediate_size",
                "max_position_embeddings",
            )
            for value in (0, -1, True, 1.0, "16", 2**24, 10**9, 2**63, 10**400)
        ),
        *(("rope_theta", value) for value in (1e-30, 0.5, 0, -1.0, True, 10**400, 1e300)),
        *(("rms_norm_eps", value) for value in (1e-46, 0, -1e-6, 2.0, True, "1e-6")),
        ("rope_scaling", {"rope_type": "linear", "factor": 1e-30}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e-30}),
        ("eos_token_id", [10**9]),
        ("eos_token_id", [True]),
        ("layer_types", ["full_attention"] * 10**4),
    ],
)
def test_a_size_that_no_model_has_is_named(folder, field, value):
    (folder / "config.json").write_text(json.dumps(tiny.config_json(**SMALL) | {field: value}))
    refused(tiny.load, folder, field.partition("_parameters")[0], Code.MALFORMED)


def test_names_from_the_file_reach_no_terminal_as_they_are(folder):
    for name in ("\x1b[2J\x1b[H", "\ud800", "x" * 100_000, "a\nb"):
        text = json.dumps(tiny.config_json(**SMALL) | {name: "\x1b[2J" + "y" * 10_000})
        (folder / "config.json").write_text(text)
        refused(tiny.load, folder, "config.json", Code.UNSUPPORTED)


def test_a_long_context_takes_memory_only_where_it_is_used(folder):
    """Angles of 2^22 positions and wide heads would be gigabytes."""
    tiny.write_folder(folder, **SMALL | {"head_dim": 512, "max_position_embeddings": 1 << 22})
    decoder = tiny.load(folder)
    assert decoder.config.max_positions == 1 << 22
    layers = decoder.stage._layers
    assert isinstance(layers, CpuLayers)
    assert layers._angles[0].size < 1 << 22


def spoil(folder: Path, header: Any, size: int | None = None, *, extra: int = 0) -> None:
    """Write a header of our own with no tensors after it; `size` and `extra` falsify it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text) if size is None else size) + text)
        file.truncate(file.tell() + extra)


def tensor(shape: list[Any], first: Any, last: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}}


HEADERS: dict[str, tuple[Any, int | None, int]] = {
    "longer than the file": ({}, 1 << 20, 0),
    "longer than any": ({}, MAX_HEADER + 1, MAX_HEADER + 1),
    "longer than an integer": ({}, 2**64 - 1, 0),
    "as long as an integer wraps": ({}, 2**64 - 8, 0),
    "deep": (b'{"t":' * 100_000, None, 0),
    "sizes whose product wraps to what is there": (tensor([2**32, 2**32, 4], 0, 16), None, 16),
    "an offset that wraps": (tensor([4], 2**64 - 16, 2**64), None, 16),
    "offsets in floating point": (tensor([4], 0.0, 16.0), None, 16),
    "offsets that are not numbers": (tensor([4], False, 16), None, 16),
    "a size that is not a number": (tensor([True, 4], 0, 16), None, 16),
    "a negative size": (tensor([-1, -4], 0, 16), None, 16),
    "fewer bytes than its shape": (tensor([5], 0, 16), None, 16),
    "more bytes than its shape": (tensor([3], 0, 16), None, 16),
    "an unknown dtype": (tensor([4], 0, 16, "F33"), None, 16),
    "a dtype that is not text": (tensor([4], 0, 16, ["F32"]), None, 16),
    "many dimensions": (tensor([1] * 100_000, 0, 4), None, 4),
    "no shape": ({"t": {"dtype": "F32", "data_offsets": [0, 4]}}, None, 4),
    "more than a tensor": ({"t": {**tensor([1], 0, 4)["t"], "more": 1}}, None, 4),
    "a name that is not text": (
        b'{"\\ud800": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        None,
        4,
    ),
    "a tensor that is a number": ({"t": 3}, None, 0),
    "not a number": (b'{"t": NaN}', None, 0),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_makes_no_sense_is_corrupt_before_a_tensor_is_read(folder, what):
    header, size, extra = HEADERS[what]
    spoil(folder, header, size, extra=extra)
    for read in READERS[WEIGHTS]:
        refused(read, folder, WEIGHTS, Code.CORRUPT)


@pytest.fixture
def unread(monkeypatch) -> None:
    """Fail where a tensor is read."""

    def read(*_: object) -> None:
        raise AssertionError("a tensor was read")

    for module in (weights_module, root_module):
        monkeypatch.setattr(module, "read_exactly", read)


@pytest.mark.usefixtures("unread")
def test_tensors_are_compared_with_the_configuration_before_one_is_read(folder):
    spoil(folder, tensor([1 << 36], 0, 4 << 36), extra=4 << 36)  # sparse
    refused(tiny.load, folder, "no tensor", Code.MALFORMED)


@pytest.mark.usefixtures("unread")
def test_a_checkpoint_larger_than_the_machines_memory_is_refused_unread(folder, monkeypatch):
    monkeypatch.setattr(weights_module, "memory_bytes", lambda: 1 << 16)
    refused(tiny.load, folder, "memory", Code.CONFIGURATION)


@pytest.mark.usefixtures("unread")
def test_a_checkpoint_larger_than_any_is_not_hashed(folder):
    spoil(folder, tensor([1 << 39], 0, 4 << 39), extra=4 << 39)  # sparse
    refused(model_root, folder, "model.safetensors", Code.MALFORMED)


def test_padding_counts_as_memory(folder, monkeypatch):
    """Heads of width 2 take sixteen times their bytes."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 2, "num_attention_heads": 64}
    config = tiny.config(**shape)
    plain = tiny.config(**{**shape, "head_dim": 32})
    assert weights_module.memory_needed(config) == weights_module.memory_needed(plain)
    values = sum(map(prod, expected_shapes(plain).values()))
    assert weights_module.memory_needed(plain) == 4 * values
    tiny.write_folder(folder, **shape)
    monkeypatch.setattr(weights_module, "memory_bytes", lambda: 4 * values)
    tiny.load(folder)
    monkeypatch.setattr(weights_module, "memory_bytes", lambda: 4 * values - 1)
    refused(tiny.load, folder, "memory", Code.CONFIGURATION)


class Cut:
    """Reads a file as it is, and shortens it before its part number `at` is read."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, file: BinaryIO, start: int, buffer: memoryview) -> None:
        if not self.left:
            os.truncate(f"/proc/self/fd/{file.fileno()}", start + len(buffer) - 1)
        self.left -= 1
        read_exactly(file, start, buffer)


@pytest.mark.parametrize("at", [0, 3])
def test_a_file_that_shrinks_while_it_is_read_is_an_error_that_names_it(folder, monkeypatch, at):
    """A mapped file would end the process instead."""
    for module, read in ((weights_module, tiny.load), (root_module, model_root)):
        tiny.write_folder(folder, **SMALL)
        monkeypatch.setattr(module, "read_exactly", Cut(at))
        refused(read, folder, WEIGHTS, Code.CORRUPT)


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 8), Path.unlink])
def test_a_loaded_model_needs_its_files_no_more(folder, change):
    decoder = tiny.load(folder)
    expected = one_pass(decoder, [1, 2, 3])
    change(folder / WEIGHTS)
    assert torch.equal(one_pass(decoder, [1, 2, 3]), expected)


@pytest.mark.parametrize("odd", range(1, 4))
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_may_begin_at_any_byte(folder, odd, dtype):
    tiny.write_folder(folder, **SMALL, dtype=dtype)
    expected, root = one_pass(tiny.load(folder), [1, 2, 3]), model_root(folder)
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + size] + b" " * odd
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
    assert torch.equal(one_pass(tiny.load(folder), [1, 2, 3]), expected)
    assert model_root(folder) == root


def test_an_index_of_many_shards_that_are_not_there_ends_at_the_first(folder):
    (folder / WEIGHTS).unlink()
    index = {f"t{i}": f"s{i}.safetensors" for i in range(20_000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    for read in READERS[INDEX]:
        refused(read, folder, ".safetensors", Code.CONFIGURATION)


def test_the_configuration_of_a_folder_is_read_again_after_it_was_mended(folder):
    good = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text("{}")
    refused(tiny.load, folder, "config.json")
    (folder / "config.json").write_bytes(good)
    assert ModelConfig.from_folder(folder).layers == 2
