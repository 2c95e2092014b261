"""The loader: exactly the configuration's tensors, from exactly the files that the index names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared.model.config import ModelConfig
from shared.model.root import model_root
from shared.model.weights import EMBEDDING, HEAD, Weights, expected_shapes, load_weights
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.model import tiny

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SMALL = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", **SMALL)


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}


def load(folder: Path) -> Weights:
    return load_weights(folder, ModelConfig.from_folder(folder))


def refused(code: Code, folder: Path, saying: str, *calls) -> None:
    for call in calls or (load, model_root):
        with pytest.raises(CounterfoilError, match=saying) as caught:
            call(folder)
        assert caught.value.code is code


def shard(folder: Path, **changes: str) -> dict[str, str]:
    """Split the checkpoint in two, the index changed as asked (`lost` and `moved` name a tensor)."""
    tensors = read(folder)
    (folder / WEIGHTS).unlink()
    where = {name: f"{'ab'[at % 2]}.safetensors" for at, name in enumerate(sorted(tensors))}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({n: tensors[n] for n in tensors if where[n] == file}, folder / file)
    index = dict(where)
    index.pop(changes.get("lost", ""), None)
    if moved := changes.get("moved"):
        index[moved] = "b.safetensors" if where[moved] == "a.safetensors" else "a.safetensors"
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return where


def test_the_expected_tensors_are_those_of_each_family():
    plain = expected_shapes(tiny.config())
    qwen2 = expected_shapes(tiny.config(model_type="qwen2"))
    qwen3 = expected_shapes(tiny.config(model_type="qwen3", head_dim=64))
    assert {n.rpartition("self_attn.")[2] for n in set(qwen2) - set(plain)} == {
        "q_proj.bias", "k_proj.bias", "v_proj.bias",
    }  # fmt: skip
    assert qwen2["model.layers.1.self_attn.q_proj.bias"] == (128,)
    assert qwen2["model.layers.1.self_attn.k_proj.bias"] == (64,)
    assert {n.rpartition("self_attn.")[2] for n in set(qwen3) - set(plain)} == {
        "q_norm.weight", "k_norm.weight",
    }  # fmt: skip
    assert qwen3["model.layers.0.self_attn.k_norm.weight"] == (64,)
    assert qwen3["model.layers.0.self_attn.q_proj.weight"] == (256, 128)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_dtype_is_loaded_as_it_is(tmp_path, dtype):
    folder = tiny.write_folder(tmp_path, dtype=dtype, **SMALL)
    assert {tensor.dtype for tensor in load(folder).values()} == {getattr(torch, dtype)}
    assert tiny.load(folder).config.dtype == dtype


@pytest.mark.parametrize("tensor", [EMBEDDING, "model.layers.0.mlp.up_proj.weight"])
def test_a_tensor_in_another_shard_than_the_index_says_is_named(folder, tensor):
    shard(folder, moved=tensor)
    refused(Code.MALFORMED, folder, tensor)


def test_a_tensor_that_a_shard_holds_and_the_index_does_not_is_named(folder):
    shard(folder, lost=EMBEDDING)
    refused(Code.MALFORMED, folder, EMBEDDING)


def test_a_tensor_in_two_shards_is_named(folder):
    where = shard(folder)
    file = "b.safetensors" if where[EMBEDDING] == "a.safetensors" else "a.safetensors"
    tensors = load_file(folder / file)
    twice = {**tensors, EMBEDDING: torch.zeros(2)}
    save_file({name: tensor.clone() for name, tensor in twice.items()}, folder / file)
    refused(Code.MALFORMED, folder, EMBEDDING)


def test_a_tensor_that_the_index_names_twice_is_named(folder):
    (folder / INDEX).write_text('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}')
    refused(Code.MALFORMED, folder, "'a' occurs twice")


def test_an_index_next_to_a_whole_checkpoint_that_it_does_not_name_is_refused(folder):
    (folder / INDEX).write_text('{"weight_map": {"a": "a.safetensors"}}')
    refused(Code.MALFORMED, folder, r"model\.safetensors is not among the shards")


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "tied", tie_word_embeddings=True, **SMALL)


def test_a_tied_checkpoint_may_repeat_its_embedding_as_the_head(tied):
    tensors = read(tied)
    save_file({**tensors, HEAD: tensors[EMBEDDING].clone()}, tied / WEIGHTS)
    loaded = load(tied)
    assert HEAD not in loaded
    assert set(loaded) == set(tensors)


@pytest.mark.parametrize("change", ["value", "shape", "dtype"])
def test_a_tied_checkpoint_with_another_head_is_refused(tied, change):
    tensors = read(tied)
    head = tensors[EMBEDDING].clone()
    if change == "value":
        head.view(-1)[-1] += 1
    elif change == "shape":
        head = head[:-1].clone()
    else:
        head = head.bfloat16()
    save_file({**tensors, HEAD: head}, tied / WEIGHTS)
    refused(Code.MALFORMED, tied, HEAD, load)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "dtype"])
def test_the_loader_takes_exactly_the_configurations_tensors(folder, change):
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    victim = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tensors[victim]
    elif change == "surplus":
        tensors[victim + "_scale"] = torch.ones(1)
        victim += "_scale"
    elif change == "shape":
        tensors[victim] = tensors[victim][:-1].clone()
    else:
        tensors[victim] = tensors[victim].bfloat16()
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CounterfoilError, match=victim) as caught:
        load_weights(folder, ModelConfig.from_folder(folder))
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_weight_that_is_not_a_number_is_corrupt(folder, name, value):
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / WEIGHTS)
    refused(Code.CORRUPT, folder, name, tiny.load, lambda folder: load(folder)[name])


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "..", "a\\b", ".hidden"])
def test_the_loader_does_not_follow_an_index_out_of_the_folder(folder, name):
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(Code.MALFORMED, folder, "a file in the same folder")


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named(folder):
    (folder / WEIGHTS).unlink()
    index = {"weight_map": {"model.norm.weight": "lost.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(Code.CONFIGURATION, folder, r"lost\.safetensors")
