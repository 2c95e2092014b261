"""A model's files come from any node, and are kept only if every one leads to the pinned model root."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from execution_layer.client.reading import fetched_folder
from execution_layer.node.model_files import ModelFiles
from execution_layer.node.node import NodeModel
from shared.codec.hashing import labelled_hash
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import LARGEST
from shared.text.generation import stop_tokens
from shared.text.model_files import FILES, check_files, file_leaf, places
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from shared.translog.tree import leaf_hash, root
from tests.execution_layer import world as world_module
from tests.execution_layer.client.test_reading import MODEL, Speaker
from tests.execution_layer.commands.test_client import Shell

TENSORS = [labelled_hash("model-tensor", bytes([n])) for n in range(5)]
NAMES = tuple(path.name for path in map(MODEL.joinpath, FILES) if path.exists())
LEAVES = [*TENSORS, *(file_leaf(name, (MODEL / name).read_bytes()) for name in NAMES)]
ROOT = root([leaf_hash(leaf) for leaf in LEAVES])


def true_files(tensors, names):
    leaves = [*TENSORS[:tensors], *(file_leaf(name, name.encode()) for name in names)]
    found = [(place, place.name.encode()) for place in places(names, leaves)]
    return found, len(leaves), root([leaf_hash(leaf) for leaf in leaves])


@pytest.mark.parametrize("names", [FILES, FILES[:1], (FILES[0], *FILES[2:4])])
@pytest.mark.parametrize("tensors", range(1, 6))
def test_the_files_of_a_model_are_proved_and_none_can_be_omitted(tensors, names):
    files, size, model_root = true_files(tensors, names)
    check_files(files, size, model_root)
    wrong = [
        [
            (place, data + b"!") if place.name == names[-1] else (place, data)
            for place, data in files
        ],
        [(replace(place, name=FILES[4]), data) for place, data in files],
        files[::-1] if len(files) > 1 else [],
        [],
    ]
    for spoiled in wrong:
        if spoiled == files:
            continue
        with pytest.raises(CounterfoilError) as caught:
            check_files(spoiled, size, model_root)
        assert caught.value.code is Code.BAD_PROOF
    for left_out in range(len(files)):
        kept = [item for at, item in enumerate(files) if at != left_out]
        for claimed in range(
            len(kept), size + 3
        ):  # whatever it says about the tree's size and the files' places
            first = claimed - len(kept)
            moved = [(replace(place, index=first + at), d) for at, (place, d) in enumerate(kept)]
            with pytest.raises(CounterfoilError) as caught:
                check_files(moved, claimed, model_root)
            assert caught.value.code is Code.BAD_PROOF


@pytest.fixture
def served(monkeypatch):
    """Make nodes serve the shipped model's files and words."""
    tokenizer = Tokenizer.from_folder(MODEL, stop_tokens(MODEL))
    monkeypatch.setattr(world_module, "MODEL_ROOT", ROOT)
    monkeypatch.setattr(world_module, "fake_tokenise", lambda body: prompt_ids(tokenizer, body))
    files = ModelFiles.of(MODEL, LEAVES)

    def model(engine):
        made = world_module.ServedModel(
            ROOT, world_module.PROFILE_ID, 512, lambda body: prompt_ids(tokenizer, body)
        )
        return NodeModel(made, world_module.PROFILE, engine, files)

    monkeypatch.setattr(world_module, "fake_model", model)
    return Speaker(tokenizer, "A receipt is signed.")


async def test_what_is_fetched_is_used_from_then_on(world, served, capsys):
    world.operator(model_root=ROOT)
    async with world.node(served):
        shell = Shell(world, capsys, model_root=ROOT)
        _, _, err = await shell.infer("hello", "--raw", "--max-tokens", 3)
        assert "the node's word until an audit" in err
        code, out, _ = await shell.client("tokenizer fetch", "--json")
        assert code == 0
        told = json.loads(out)
        assert told["files"] == sorted(NAMES)
        for name in NAMES:
            assert (Path(told["folder"]) / name).read_bytes() == (MODEL / name).read_bytes()
        assert (await shell.client("tokenizer fetch"))[0] == 0  # again
        _, _, err = await shell.infer("hello", "--raw", "--max-tokens", 3)
        assert "word until" not in err
        _, out, _ = await shell.infer("hello", "--raw", "--max-tokens", 3, "--json")
        assert json.loads(out)["text_verified"] is True


async def test_nothing_is_kept_of_a_node_that_sends_something_else(world, served, monkeypatch):
    world.operator(model_root=ROOT)
    true = ModelFiles.read

    def others(self):
        for place, data in true(self):
            yield place, data.replace(b"assistant", b"system")

    def too_much(self):
        place, _ = next(true(self))
        yield place, bytes(LARGEST[place.name] + 1)

    def nothing(self):
        yield from ()

    def for_ever(self):
        while True:
            yield from true(self)

    async with world.node(served), world.client(model_root=ROOT) as client:
        for lie, code in (
            (others, Code.BAD_PROOF),
            (too_much, Code.MALFORMED),
            (nothing, Code.MALFORMED),
            (for_ever, Code.MALFORMED),
        ):
            monkeypatch.setattr(ModelFiles, "read", lie)
            with pytest.raises(CounterfoilError, match="honest/node-1") as caught:
                await client.fetch_tokenizer()
            assert caught.value.code is code, lie
        assert not fetched_folder(client._policy, ROOT).exists()
        monkeypatch.setattr(ModelFiles, "read", true)
        assert (await client.fetch_tokenizer()).is_dir()


async def test_a_node_without_the_files_says_so(world):
    async with world.node(), world.client() as client:
        with pytest.raises(CounterfoilError, match=r"honest/node-1: .*does not serve") as caught:
            await client.fetch_tokenizer()
        assert caught.value.code is Code.UNKNOWN_MODEL


def test_a_file_that_changed_since_the_model_was_loaded_is_not_sent(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    files = ModelFiles.of(tmp_path, LEAVES)
    assert [place.name for place, _ in files.read()] == list(NAMES)
    (tmp_path / NAMES[-1]).write_bytes(b"{}")
    with pytest.raises(CounterfoilError, match="has changed since the model was loaded") as caught:
        list(files.read())
    assert caught.value.code is Code.CORRUPT
