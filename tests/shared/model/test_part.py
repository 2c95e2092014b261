"""A part of a checkpoint has the root of the whole, holds what was asked for, and nothing that the root has not."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from shared.model import part as part_module
from shared.model import weights as weights_module
from shared.model.cli import model as model_command
from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.part import FolderSource, make_part
from shared.model.part_file import PART, parse_part
from shared.model.root import model_leaves, model_root, root_of
from shared.model.unchanged import Snapshot
from shared.model.weights import EMBEDDING, HEAD, NORM, load_weights, memory_needed
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.model import tiny

WEIGHTS = "model.safetensors"
LAYERS = 4
SMALL = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32, "num_hidden_layers": LAYERS}
MIDDLE = Cut(1, 3, ends=False)
Q = "model.layers.1.self_attn.q_proj.weight"
UP = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("whole") / "model", **SMALL)


@pytest.fixture
def middle(whole, tmp_path):
    make_part(FolderSource(whole), tmp_path / "middle", MIDDLE)
    return tmp_path / "middle"


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}


def load(folder: Path, cut: Cut = MIDDLE) -> weights_module.Weights:
    return load_weights(folder, ModelConfig.from_folder(folder), cut)


def refused(code: Code, saying: str, call, *arguments, **named) -> CounterfoilError:
    with pytest.raises(CounterfoilError, match=saying) as caught:
        call(*arguments, **named)
    assert caught.value.code is code
    return caught.value


borders = st.lists(st.integers(0, LAYERS), min_size=2, max_size=2, unique=True).map(sorted)
cuts = st.builds(lambda at, ends: Cut(at[0], at[1], ends), borders, st.booleans())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut=cuts | st.just(Cut(0, 0, ends=True)), tied=st.booleans(), sharded=st.booleans())
def test_any_part_has_the_root_of_the_whole_and_exactly_the_tensors_of_its_cut(
    tmp_path_factory, cut, tied, sharded
):
    place = tmp_path_factory.mktemp("cut")
    whole = tiny.write_folder(place / "model", **SMALL, tie_word_embeddings=tied)
    tensors, root = read(whole), model_root(whole)
    if sharded:
        where = {name: f"{'ab'[at % 2]}.safetensors" for at, name in enumerate(tensors)}
        for file in sorted(set(where.values())):
            save_file({n: t for n, t in tensors.items() if where[n] == file}, whole / file)
        (whole / WEIGHTS).unlink()
        (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    made = make_part(FolderSource(whole), place / "part", cut)
    assert made.root == root == model_root(place / "part")
    held, expected = load_file(place / "part" / WEIGHTS), {EMBEDDING, NORM, HEAD} & set(tensors)
    layers = {f"model.layers.{layer}." for layer in range(cut.first, cut.last)}
    expected = expected if cut.ends else set()
    expected |= {name for name in tensors if any(map(name.startswith, layers))}
    assert set(held) == expected
    assert all(torch.equal(held[name], tensors[name]) for name in held)
    assert (made.tensors, made.size) == (len(held), sum(t.nbytes for t in held.values()))
    loaded = load(place / "part", cut)
    assert all(torch.equal(loaded[name], tensors[name]) for name in held)


def test_a_part_of_a_part_is_a_part_of_the_whole(whole, middle, tmp_path):
    made = make_part(FolderSource(middle), tmp_path / "less", Cut(2, 3, ends=False))
    assert made.root == model_root(whole) == model_root(tmp_path / "less")
    lacking = refused(
        Code.CONFIGURATION,
        "layers.0",
        make_part,
        FolderSource(middle),
        tmp_path / "no",
        Cut(0, 2, ends=False),
    )
    assert "model part --layers 0:2 SOURCE" in (lacking.remedy or "")


@pytest.mark.parametrize(
    ("cut", "lacks", "remedy"),
    [
        (Cut(0, 2, ends=False), "model.layers.0", "--layers 0:2 SOURCE"),
        (Cut(2, 4, ends=False), "model.layers.3", "--layers 2:4 SOURCE"),
        (Cut(0, 0, ends=True), EMBEDDING, "part --ends SOURCE"),
        (Cut(1, 3, ends=True), EMBEDDING, "--layers 1:3 --ends SOURCE"),
        (None, EMBEDDING, "--layers 0:4 --ends SOURCE"),
    ],
)
def test_what_a_part_lacks_is_named_with_the_command_that_makes_it(middle, cut, lacks, remedy):
    error = refused(Code.CONFIGURATION, lacks, load, middle, cut)
    assert remedy in (error.remedy or "")


def test_a_tied_part_with_a_repeated_head_holds_both_and_compares_them(tmp_path):
    tied = tiny.write_folder(tmp_path / "tied", **SMALL, tie_word_embeddings=True)
    tensors, ends = read(tied), Cut(0, 1, ends=True)
    save_file({**tensors, HEAD: tensors[EMBEDDING].clone()}, tied / WEIGHTS)
    made = make_part(FolderSource(tied), tmp_path / "part", ends)
    assert made.root == model_root(tied)
    assert HEAD in read(tmp_path / "part")
    assert HEAD not in load(tmp_path / "part", ends)
    save_file({**tensors, HEAD: tensors[EMBEDDING] + 1}, tied / WEIGHTS)
    make_part(FolderSource(tied), tmp_path / "other", ends)
    refused(Code.MALFORMED, HEAD, load, tmp_path / "other", ends)


def test_memory_is_needed_for_what_is_loaded_and_no_more(whole, middle, monkeypatch):
    config = ModelConfig.from_folder(whole)
    needed = memory_needed(config, MIDDLE)
    assert needed < memory_needed(config)
    for folder in (whole, middle):
        monkeypatch.setattr(weights_module, "memory_bytes", lambda: needed)
        load(folder)
        monkeypatch.setattr(weights_module, "memory_bytes", lambda: needed - 1)
        refused(Code.CONFIGURATION, "layers 1:3 take", load, folder)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_a_held_tensor_can_change(middle, place, bit):
    good = (middle / WEIGHTS).read_bytes()
    data, start = bytearray(good), 8 + struct.unpack("<Q", good[:8])[0]
    data[start + int(place * (len(data) - start))] ^= 1 << bit
    (middle / WEIGHTS).write_bytes(data)
    refused(Code.CORRUPT, "the tensor model.layers", model_root, middle)
    (middle / WEIGHTS).write_bytes(good)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_no_file_can_change(middle, name):
    with (middle / name).open("ab") as file:
        file.write(b" ")
    refused(Code.CORRUPT, name, model_root, middle)


def test_no_file_can_be_left_out_or_added(middle):
    (middle / "generation_config.json").write_text("{}")
    refused(Code.CORRUPT, "json is not", model_root, middle)
    (middle / "generation_config.json").unlink()
    (middle / "tokenizer_config.json").unlink()
    refused(Code.CORRUPT, "json is not", model_root, middle)


def alter(folder: Path, change: str) -> None:
    tensors = read(folder)
    if change == "extra":
        tensors["model.layers.3.mlp.up_proj.weight"] = tensors[UP].clone()
    elif change == "missing":
        del tensors[UP]
    elif change == "renamed":
        tensors[UP.replace(".2.", ".3.")] = tensors.pop(UP)
    elif change == "dtype":
        tensors[UP] = tensors[UP].view(torch.int32)
    elif change == "shape":
        tensors[UP] = tensors[UP].view(-1, 2)
    elif change == "swapped":
        one = UP.replace(".2.", ".1.")
        tensors[UP], tensors[one] = tensors[one], tensors[UP]
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "by_root", "by_loader"),
    [
        ("extra", Code.MALFORMED, Code.MALFORMED),
        ("missing", Code.MALFORMED, Code.MALFORMED),
        ("renamed", Code.MALFORMED, Code.MALFORMED),
        ("dtype", Code.CORRUPT, Code.MALFORMED),
        ("shape", Code.CORRUPT, Code.MALFORMED),
        ("swapped", Code.CORRUPT, None),
    ],
)
def test_tensors_other_than_the_listed_ones_are_refused(middle, change, by_root, by_loader):
    alter(middle, change)
    refused(by_root, "tensor model.layers", model_root, middle)
    if by_loader is not None:
        refused(by_loader, "tensor model.layers", load, middle)


def rewrite(folder: Path, change) -> None:
    values = json.loads((folder / PART).read_bytes())
    change(values)
    (folder / PART).write_text(json.dumps(values))


def test_a_part_that_lists_a_tensor_less_says_what_its_layers_lack(middle):
    alter(middle, "missing")
    rewrite(middle, lambda values: values["held"].pop(UP))
    model_root(middle)  # it is true as far as it goes
    refused(Code.CONFIGURATION, UP, load, middle)


def test_a_tensor_that_the_configuration_has_not_is_refused_though_it_is_listed(whole, tmp_path):
    odd = shutil.copytree(whole, tmp_path / "odd")
    save_file({**read(odd), "model.layers.1.odd": torch.ones(1)}, odd / WEIGHTS)
    refused(Code.MALFORMED, "odd", make_part, FolderSource(odd), tmp_path / "part", MIDDLE)
    assert not (tmp_path / "part").exists()


def test_swapped_leaves_are_noticed_where_they_are_held_and_change_the_root_elsewhere(middle):
    root, held = model_root(middle), parse_part((middle / PART).read_bytes()).held
    elsewhere = [index for index in range(20) if index not in held.values()][:2]

    def swap(one: int, other: int) -> None:
        def change(values) -> None:
            leaves = values["leaves"]
            leaves[one], leaves[other] = leaves[other], leaves[one]

        rewrite(middle, change)

    swap(*elsewhere)
    assert model_root(middle) != root
    swap(*elsewhere)
    assert model_root(middle) == root
    swap(held[Q], held[UP])
    refused(Code.CORRUPT, "q_proj", model_root, middle)


def test_a_leaf_less_changes_the_root_or_is_noticed(middle):
    root = model_root(middle)
    leaves = model_leaves(middle)
    assert root_of(leaves[1:]) != root
    rewrite(middle, lambda values: values["leaves"].pop())
    refused(Code.CORRUPT, "is not the one", model_root, middle)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from([PART, WEIGHTS]), part=st.floats(0, 1, exclude_max=True))
def test_a_part_that_is_cut_off_is_refused(middle, name, part):
    good = (middle / name).read_bytes()
    (middle / name).write_bytes(good[: int(part * len(good))])
    for call in (model_root, load):
        refused(Code.MALFORMED if name == PART else Code.CORRUPT, name, call, middle)
    (middle / name).write_bytes(good)


def test_without_its_list_a_part_is_a_checkpoint_that_lacks_tensors(middle):
    (middle / PART).unlink()
    refused(Code.MALFORMED, "the checkpoint has no tensor", load, middle)


def test_a_change_to_the_list_is_noticed(middle):
    known = Snapshot.of(middle)
    rewrite(middle, lambda values: values["held"].pop(Q))
    refused(Code.CORRUPT, PART, known.check)


def test_what_exists_is_not_replaced(whole, tmp_path):
    for name in ("folder", "file", "link"):
        target = tmp_path / name
        {"folder": target.mkdir, "file": target.touch}.get(
            name, lambda at=target: at.symlink_to("nowhere")
        )()
        refused(Code.CONFLICT, "exists", make_part, FolderSource(whole), target, MIDDLE)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "link"}


def test_layers_that_the_model_has_not_are_refused(whole, tmp_path):
    refused(
        Code.INVALID_ARGUMENT,
        "has 4",
        make_part,
        FolderSource(whole),
        tmp_path / "p",
        Cut(3, 5, ends=True),
    )


@pytest.mark.parametrize("step", ["write_atomic", "_header", "_copy", "sync_folder", "_publish"])
def test_a_run_that_fails_anywhere_leaves_nothing_and_one_that_is_killed_nothing_that_is_taken_for_a_part(
    whole, tmp_path, monkeypatch, step
):
    def broken(*_arguments, **_named):
        assert not (tmp_path / "part").exists()
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(".")
        if step in ("write_atomic", "_header", "_copy"):  # as a kill here leaves it
            with pytest.raises(CounterfoilError):
                load(hidden)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(part_module, step, broken)
    refused(
        Code.CONFIGURATION,
        "No space left",
        make_part,
        FolderSource(whole),
        tmp_path / "part",
        MIDDLE,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [Q, UP])
def test_a_tensor_that_changes_before_it_is_copied_gives_no_part(whole, tmp_path, at):
    class Changing(FolderSource):
        def pieces(self, name):
            for piece in super().pieces(name):
                yield bytes(len(piece)) if name == at else piece

    saying = f"tensor {at} is not the one"
    refused(Code.CORRUPT, saying, make_part, Changing(whole), tmp_path / "part", MIDDLE)
    assert list(tmp_path.iterdir()) == []


def test_a_part_has_the_root_that_was_asked_for_or_is_not_made(whole, tmp_path):
    root = model_root(whole)
    other = bytes(32)
    source = FolderSource(whole)
    refused(Code.COMMITMENT_MISMATCH, root.hex(), make_part, source, tmp_path / "p", MIDDLE, other)
    assert list(tmp_path.iterdir()) == []
    assert make_part(source, tmp_path / "p", MIDDLE, root).root == root


def test_a_copy_that_is_not_what_was_hashed_gives_no_part(whole, tmp_path, monkeypatch):
    copy = part_module._copy

    def changing(pieces, file):
        digest = copy(pieces, file)
        file.seek(-4, 2)
        file.write(b"\xff" * 4)
        return digest

    monkeypatch.setattr(part_module, "_copy", changing)
    refused(
        Code.CORRUPT, "is not the one", make_part, FolderSource(whole), tmp_path / "part", MIDDLE
    )
    assert list(tmp_path.iterdir()) == []


def invoke(*words: object):
    return CliRunner().invoke(model_command, [*map(str, words)])


def test_the_command_makes_a_part_and_shows_it(whole, tmp_path):
    done = invoke("part", whole, tmp_path / "part", "--layers", "0:1", "--ends", "--json")
    made = json.loads(done.stdout)
    assert made["model_root"] == model_root(whole).hex()
    shown = json.loads(invoke("show", tmp_path / "part", "--json").stdout)
    assert shown["model_root"] == made["model_root"]
    assert {EMBEDDING, HEAD, NORM} < set(shown["held"])
    assert len(shown["held"]) == made["tensors"]
    plain = invoke("part", whole, tmp_path / "ends", "--ends").stdout
    assert "embedding and head: 3 tensors" in plain


def test_the_command_says_what_is_no_range(whole, tmp_path):
    for layers in ("3", "3:3", "4:1"):
        done = invoke("part", whole, tmp_path / "part", "--layers", layers)
        assert "FIRST:LAST" in str(done.exception)
    assert "--layers, --ends or both" in invoke("part", whole, tmp_path / "part").output
