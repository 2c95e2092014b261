"""The model root: what it binds, and what it refuses."""

import json
import struct
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from shared.codec.hashing import labelled_hash
from shared.model.config import ModelConfig
from shared.model.root import model_root
from shared.model.weights import load_weights
from shared.runtime.errors import Code, CounterfoilError
from shared.text.model_files import FILES
from tests.shared.model import tiny

WEIGHTS = "model.safetensors"
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", hidden_size=32, intermediate_size=32, head_dim=32)


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, as written."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + merkle(leaves[:k]) + merkle(leaves[k:])).digest()


def computed(folder: Path) -> bytes:
    """Follow the definition with the safetensors library's own reader."""
    leaves = []
    tensors = load_file(folder / WEIGHTS)
    for name in sorted(tensors):
        tensor = tensors[name]
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        shape = b"".join(struct.pack(">Q", size) for size in tensor.shape)
        digest = sha256(raw).digest()
        leaves.append(
            labelled_hash(
                "model-tensor", name.encode(), NAMES[tensor.dtype].encode(), shape, digest
            )
        )
    for name in FILES:
        if (folder / name).exists():
            digest = sha256((folder / name).read_bytes()).digest()
            leaves.append(labelled_hash("model-file", name.encode(), digest))
    return merkle(leaves)


def refused(code: Code, folder: Path, saying: str | None = None) -> None:
    with pytest.raises(CounterfoilError, match=saying) as caught:
        model_root(folder)
    assert caught.value.code is code


def test_root_is_that_of_the_definition(folder):
    assert model_root(folder) == computed(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert model_root(folder) == computed(folder)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True))
def test_any_byte_of_any_tensor_changes_the_root(folder, place):
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", data[:8])[0]
    before = model_root(folder)
    at = start + int(place * (len(data) - start))
    data[at] ^= 1
    path.write_bytes(data)
    assert model_root(folder) != before
    data[at] ^= 1
    path.write_bytes(data)
    assert model_root(folder) == before


def test_name_dtype_shape_and_every_file_change_the_root(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    seen = {model_root(folder)}
    norm = tensors["model.norm.weight"]
    for changes in (
        {"model.norm.other": norm},
        {"model.norm.weight": norm.view(torch.int32)},
        {"model.norm.weight": norm.view(4, 8)},
    ):
        rest = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
        save_file({**rest, **changes}, folder / WEIGHTS)
        seen.add(model_root(folder))
    save_file(tensors, folder / WEIGHTS)
    for name in FILES:
        with (folder / name).open("ab") as file:
            file.write(b" ")
        seen.add(model_root(folder))
    assert len(seen) == 1 + 3 + len(FILES)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_of_configuration_and_tokenizer_changes_the_root(folder, name, place, bit):
    path = folder / name
    if not path.exists():
        path.write_text('{"eos_token_id": 3}')
    whole, before = path.read_bytes(), model_root(folder)
    spoiled = bytearray(whole)
    spoiled[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(spoiled)
    assert model_root(folder) != before
    path.write_bytes(whole[:-1])
    assert model_root(folder) != before
    path.write_bytes(whole)
    assert model_root(folder) == before


def test_one_configuration_file_more_or_fewer_changes_the_root(folder):
    before = model_root(folder)
    (folder / "generation_config.json").write_text("{}")
    more = model_root(folder)
    (folder / "tokenizer_config.json").unlink()
    assert len({before, more, model_root(folder)}) == 3


def test_files_that_say_nothing_about_the_model_do_not_matter(folder):
    before = model_root(folder)
    (folder / "README.md").write_text("A card.")
    assert model_root(folder) == before


def test_the_order_and_metadata_of_the_file_do_not_matter(folder):
    before = model_root(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(dict(reversed(tensors.items())), folder / WEIGHTS, metadata={"format": "pt"})
    assert model_root(folder) == before


def test_shards_have_the_root_of_the_whole(folder):
    before = model_root(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    half = sorted(tensors)[::2]
    save_file({name: tensors[name] for name in half}, folder / "a.safetensors")
    save_file({n: t for n, t in tensors.items() if n not in half}, folder / "b.safetensors")
    index = {name: "a.safetensors" if name in half else "b.safetensors" for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert model_root(folder) == before
    assert set(load_weights(folder, ModelConfig.from_folder(folder))) == set(tensors)


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def F32(place: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [place, place + 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 101 << 20) + b"{}",
        struct.pack("<Q", 2) + b"[}",
        struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
        header([]),
        header({"a": []}),
        header({"a": {}}),
        header({"a": {"dtype": 3, "shape": [0], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.5, 1]}}) + b"1234",
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"1234",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"12345",
        header({"\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
        header({n: F32(place) for n, place in {"a": 0, "b": 8}.items()}) + b"1234....5678",
        header({n: F32(place) for n, place in {"a": 0, "b": 2}.items()}) + b"123456",
        header({n: F32(place) for n, place in {"a": 0, "b": 0}.items()}) + b"1234",
        header({"a": F32(4)}) + b"....1234",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
    ],
)
def test_a_damaged_checkpoint_is_corrupt(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    refused(Code.CORRUPT, folder, WEIGHTS)
    with pytest.raises(CounterfoilError) as caught:
        load_weights(folder, ModelConfig.from_folder(folder))
    assert caught.value.code in {Code.CORRUPT, Code.MALFORMED}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_corrupt(folder, part):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(part * len(whole))])
    refused(Code.CORRUPT, folder)
    with pytest.raises(CounterfoilError) as caught:
        load_weights(folder, ModelConfig.from_folder(folder))
    assert caught.value.code is Code.CORRUPT
    (folder / WEIGHTS).write_bytes(whole)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_missing_file_is_a_configuration_error(folder, name):
    config = ModelConfig.from_folder(folder)
    (folder / name).unlink()
    refused(Code.CONFIGURATION, folder, name)
    if name == WEIGHTS:
        with pytest.raises(CounterfoilError, match=name) as caught:
            load_weights(folder, config)
        assert caught.value.code is Code.CONFIGURATION


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "..", "a\\b"])
def test_an_index_does_not_lead_out_of_the_folder(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(Code.MALFORMED, folder)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b'{"weight_map": {"a": 3}}', b"{}"])
def test_an_index_that_makes_no_sense_is_malformed(folder, content):
    (folder / "model.safetensors.index.json").write_bytes(content)
    refused(Code.MALFORMED, folder)


def test_a_folder_in_a_files_place_is_an_error_that_names_it(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refused(Code.CONFIGURATION, folder, WEIGHTS)
    with pytest.raises(CounterfoilError, match=WEIGHTS) as caught:
        load_weights(folder, ModelConfig.from_folder(folder))
    assert caught.value.code is Code.CONFIGURATION


def test_an_empty_or_missing_folder_says_what_belongs_there(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CounterfoilError, match=r"config\.json") as caught:
            tiny.load(place)
        assert caught.value.code is Code.CONFIGURATION
        assert "model.safetensors" in (caught.value.remedy or "")
