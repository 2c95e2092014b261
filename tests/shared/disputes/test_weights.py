"""The weights root: one leaf per row, tied to the model root, and no row under it that the checkpoint does not have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from shared.disputes.weights import WeightRow
from shared.model.root import model_root
from shared.model.weights_root import WeightTree, weight_tree
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.proofs import inclusion_proof, lookup_in, verify_inclusion
from shared.translog.tree import leaf_hash
from tests.shared.model import tiny

NAME = "model.layers.1.mlp.down_proj.weight"
SHAPE = (128, 256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tiny.write_folder(tmp_path_factory.mktemp("disputes") / "model", dtype="bfloat16")


@pytest.fixture(scope="module")
def tree(folder) -> WeightTree:
    return weight_tree(folder)


@pytest.fixture(scope="module")
def row(tree: WeightTree) -> WeightRow:
    return tree.open(NAME, 77)


def refused(row: WeightRow, root: bytes, shape=SHAPE) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        row.check_under(root, shape)
    return caught.value.code


def test_every_row_of_a_checkpoint_leads_to_its_root(folder, tree):
    for name, tensor in load_file(folder / "model.safetensors").items():
        last = len(tensor) - 1 if tensor.dim() > 1 else 0
        opened = tree.open(name, last)
        opened.check_under(tree.root, tuple(tensor.shape))
        kept = tensor[last] if tensor.dim() > 1 else tensor
        assert len(opened.data) == 2 * kept.numel()
        again = WeightRow.from_cbor(opened.to_cbor(), max_bytes=2**20)
        assert again == opened


def test_whoever_pins_the_weights_root_has_pinned_the_model_root(folder, tree):
    leaves = [leaf_hash(model_root(folder)), *map(leaf_hash, tree.entries.values())]
    path = inclusion_proof(0, len(leaves), lookup_in(leaves))
    verify_inclusion(leaf_hash(tree.model_root), 0, len(leaves), path, tree.root)
    assert tree.model_root == model_root(folder)


def test_one_byte_of_one_row_changes_the_root(folder, tree, tmp_path):
    other = tiny.write_folder(tmp_path / "other", dtype="bfloat16")
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    changed = weight_tree(other)
    assert changed.root != tree.root
    assert len(set(changed.entries.values()) - set(tree.entries.values())) == 1


@given(at=st.integers(0, 511))
def test_a_row_with_a_changed_byte_is_not_under_the_root(tree, row, at):
    data = bytearray(row.data)
    data[at] ^= 1
    assert refused(replace(row, data=bytes(data)), tree.root) is Code.BAD_PROOF


def test_a_row_passes_for_no_other_row_tensor_type_or_shape(tree, row):
    other = "model.layers.0.mlp.down_proj.weight"
    for changed in (
        replace(row, row=76),
        replace(row, tensor=other),
        replace(tree.open(other, 77), tensor=NAME),
        replace(row, dtype="F16"),
        replace(row, index=row.index - 1),
        replace(row, index=0),
        replace(row, rows_path=row.rows_path[:-1]),
        replace(row, path=row.path[::-1]),
        replace(row, path=(*row.path, bytes(32))),
    ):
        assert refused(changed, tree.root) is Code.BAD_PROOF
    assert refused(row, bytes(32)) is Code.BAD_PROOF
    assert refused(row, tree.root, (256, 256)) is Code.BAD_PROOF
    for changed, shape in (
        (replace(row, dtype="F32"), SHAPE),
        (replace(row, data=row.data[:-2]), SHAPE),
        (row, (128, 128)),
        (row, (128 * 256,)),
    ):
        assert refused(changed, tree.root, shape) is Code.MALFORMED


def test_a_part_of_a_checkpoint_has_no_weights_root(folder, tmp_path):
    (folder / "part.json").write_text("{}")
    try:
        with pytest.raises(CounterfoilError):
            weight_tree(folder)
    finally:
        (folder / "part.json").unlink()
