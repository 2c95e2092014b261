"""The vectors of disputes: each case decides as it says, and each spoiled one is refused."""

import pytest

from shared.disputes.claim import Claim
from shared.disputes.game import case_of
from shared.disputes.layout import Layout, Place
from shared.disputes.referee import Ground, decide
from shared.disputes.weights import WeightRow, row_entry, tensor_entry, weights_root
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tree import leaf_hash, root
from tests.vectors.files import apply, load

VECTORS = load("disputes")
WORLDS = VECTORS["worlds"]
IDS = [world["name"] for world in WORLDS]


def ground(world, segment, element) -> Ground:
    claim = Claim.from_cbor(bytes.fromhex(world["claim"]), max_bytes=2**16)
    place = Place(segment["segment"], element["number"], element["row"], element["element"])
    one, other = map(bytes.fromhex, element["chunks"])
    operators = tuple(map(bytes.fromhex, segment["operators"]))
    return Ground(Layout(claim), place, bytes.fromhex(world["root"]), operators, (one, other))


@pytest.mark.parametrize("world", WORLDS, ids=IDS)
def test_every_case_decides_as_it_says(world):
    for segment in world["segments"]:
        for element in segment["elements"]:
            case = case_of(bytes.fromhex(element["case"]))
            found = decide(ground(world, segment, element), case)
            assert found == element["right"], element["operator"]


@pytest.mark.parametrize("world", WORLDS, ids=IDS)
def test_spoiled_cases_are_refused(world):
    segment = world["segments"][1]
    for refused in world["refused"]:
        element = segment["elements"][refused["number"]]
        bad = apply(bytes.fromhex(element["case"]), refused)
        with pytest.raises(CounterfoilError) as caught:
            decide(ground(world, segment, element), case_of(bad))
        assert caught.value.code in {Code.MALFORMED, Code.BAD_PROOF}


def test_the_weights_root_follows_from_rows_names_types_and_shapes():
    told = VECTORS["weights"]
    entries = []
    for tensor in told["tensors"]:
        leaves = [leaf_hash(row_entry(bytes.fromhex(row))) for row in tensor["rows"]]
        entries.append(tensor_entry(tensor["name"], tensor["dtype"], tensor["shape"], root(leaves)))
    assert [entry.hex() for entry in entries] == told["entries"]
    found = weights_root(bytes.fromhex(told["model_root"]), entries)
    assert found.hex() == told["root"]
    row = WeightRow.from_cbor(bytes.fromhex(told["row"]), max_bytes=4096)
    row.check_under(found, told["tensors"][0]["shape"])
