"""The tree, its proofs and its tiles against the recursive definitions of RFC 6962, by properties."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.proofs import (
    consistency_proof,
    inclusion_proof,
    lookup_in,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from shared.translog.tiles import (
    Tile,
    TileReader,
    TreeEdge,
    decode_bundle,
    encode_bundle,
    files_grown,
    parse_tile_path,
    tiles_grown,
    width_at,
)
from shared.translog.tree import EMPTY_ROOT, Frontier, leaf_hash, node_hash, root

LIMIT = 600
ENTRIES = [sha256(index.to_bytes(4, "big")).digest() for index in range(LIMIT)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
LOOKUP = lookup_in(LEAVES)
quick = settings(max_examples=60, deadline=None)
sizes = st.integers(0, LIMIT)


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def test_known_answers_of_certificate_transparency():
    # Roots of the tree over 0x00-prefixed inputs published with RFC 6962 implementations.
    inputs = (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
    leaves = [sha256(b"\x00" + bytes.fromhex(data)).digest() for data in inputs]
    known = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, expected in known.items():
        assert root(leaves[:size]).hex() == expected


@quick
@given(size=sizes)
def test_every_way_to_a_root_agrees_with_the_definition(size: int):
    expected = mth(LEAVES[:size])
    assert root(LEAVES[:size]) == expected
    assert root_at(size, LOOKUP) == expected
    frontier = Frontier(LEAVES[:size])
    assert (frontier.size, frontier.root()) == (size, expected)
    assert len(frontier.nodes) == size.bit_count()


@quick
@given(data=st.data())
def test_inclusion_verifies_for_its_place_and_for_no_other(data: st.DataObject):
    size = data.draw(st.integers(1, LIMIT))
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    proof, head = inclusion_proof(index, size, LOOKUP), mth(LEAVES[:size])
    verify_inclusion(LEAVES[index], index, size, proof, head)
    if other != index:
        for leaf, at in ((LEAVES[other], index), (LEAVES[index], other)):
            with pytest.raises(CounterfoilError):
                verify_inclusion(leaf, at, size, proof, head)


@quick
@given(data=st.data())
def test_any_spoiled_bit_or_length_of_an_inclusion_proof_is_refused(data: st.DataObject):
    size = data.draw(st.integers(2, LIMIT))
    index = data.draw(st.integers(0, size - 1))
    parts = [LEAVES[index], mth(LEAVES[:size]), *inclusion_proof(index, size, LOOKUP)]
    spoiled = _spoil(parts, data)
    with pytest.raises(CounterfoilError) as caught:
        verify_inclusion(spoiled[0], index, size, spoiled[2:], spoiled[1])
    assert caught.value.code is Code.BAD_PROOF


@quick
@given(data=st.data())
def test_consistency_verifies_between_any_two_sizes(data: st.DataObject):
    new = data.draw(sizes)
    old = data.draw(st.integers(0, new))
    proof = consistency_proof(old, new, LOOKUP)
    verify_consistency(old, mth(LEAVES[:old]), new, mth(LEAVES[:new]), proof)


@quick
@given(data=st.data())
def test_any_spoiled_bit_or_length_of_a_consistency_proof_is_refused(data: st.DataObject):
    new = data.draw(st.integers(2, LIMIT))
    old = data.draw(st.integers(1, new - 1))
    parts = [mth(LEAVES[:old]), mth(LEAVES[:new]), *consistency_proof(old, new, LOOKUP)]
    spoiled = _spoil(parts, data)
    with pytest.raises(CounterfoilError) as caught:
        verify_consistency(old, spoiled[0], new, spoiled[1], spoiled[2:])
    assert caught.value.code is Code.BAD_PROOF


@quick
@given(data=st.data())
def test_a_tree_that_changed_one_old_leaf_is_never_consistent(data: st.DataObject):
    new = data.draw(st.integers(2, LIMIT))
    old = data.draw(st.integers(1, new))
    changed = data.draw(st.integers(0, old - 1))
    forked = list(LEAVES[:new])
    forked[changed] = node_hash(forked[changed], forked[changed])
    proof = consistency_proof(old, new, lookup_in(forked))
    with pytest.raises(CounterfoilError):
        verify_consistency(old, mth(LEAVES[:old]), new, mth(forked), proof)


def _spoil(parts: list[bytes], data: st.DataObject) -> list[bytes]:
    """Spoil one of the hashes, or the number of hashes (which are those from the third on)."""
    spoiled = list(parts)
    way = data.draw(st.sampled_from(["flip", "short", "long", "drop", "add"]))
    at = data.draw(st.integers(0, len(parts) - 1))
    if way == "flip":
        value = bytearray(parts[at])
        value[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        spoiled[at] = bytes(value)
    elif way == "short":
        spoiled[at] = parts[at][:-1]
    elif way == "long":
        spoiled[at] = parts[at] + b"\x00"
    elif way == "drop" and len(parts) > 2:
        del spoiled[data.draw(st.integers(2, len(parts) - 1))]
    else:
        spoiled.insert(data.draw(st.integers(2, len(parts))), parts[at])
    return spoiled


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (0, -1), (5, 2**63)])
def test_proofs_outside_the_tree_cannot_be_asked_for(index: int, size: int):
    with pytest.raises(CounterfoilError) as caught:
        inclusion_proof(index, size, LOOKUP)
    assert caught.value.code is Code.BAD_PROOF


def test_the_cases_at_size_zero():
    head = mth(LEAVES[:7])
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    verify_consistency(0, EMPTY_ROOT, 7, head, [])
    for old, old_root, new, new_root, proof in (
        (0, head, 7, head, []),
        (0, EMPTY_ROOT, 0, head, []),
        (0, EMPTY_ROOT, 7, head, [head]),
        (7, head, 0, EMPTY_ROOT, []),
    ):
        with pytest.raises(CounterfoilError):
            verify_consistency(old, old_root, new, new_root, proof)
    with pytest.raises(CounterfoilError):
        verify_inclusion(LEAVES[0], 0, 0, [], EMPTY_ROOT)


def test_entries_have_32_bytes():
    for wrong in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(CounterfoilError):
            leaf_hash(wrong)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(0, 300), max_size=6))
def test_growing_by_any_steps_gives_the_tiles_and_root_of_the_whole(steps: list[int]):
    edge, tiles = TreeEdge(), dict[tuple[int, int], bytes]()
    for step in steps:
        old, new = edge.size, min(LIMIT, edge.size + step)
        touched = edge.extend(LEAVES[old:new])
        assert sorted(tile for tile, _ in touched) == sorted(tiles_grown(old, new))
        for tile, data in touched:
            assert len(data) == tile.byte_length
            assert data.startswith(tiles.get((tile.level, tile.index), b""))
            tiles[tile.level, tile.index] = data
        assert edge.root() == mth(LEAVES[:new])

    def fetch(tile: Tile) -> bytes:
        return tiles[tile.level, tile.index]

    size = edge.size
    assert TreeEdge.load(size, fetch).root() == edge.root()
    reader = TileReader(size, fetch)
    for index in range(0, size, 37):
        verify_inclusion(
            LEAVES[index], index, size, inclusion_proof(index, size, reader), edge.root()
        )
        verify_consistency(
            index, mth(LEAVES[:index]), size, edge.root(), consistency_proof(index, size, reader)
        )


def test_an_edge_loads_at_sizes_where_whole_levels_are_empty():
    edge = TreeEdge()
    leaf = LEAVES[0]
    stored: dict[tuple[int, int], bytes] = {}
    for count in (255, 1, 256 * 255, 1):
        for tile, data in edge.extend([leaf] * count):
            stored[tile.level, tile.index] = data
        loaded = TreeEdge.load(edge.size, lambda tile: stored[tile.level, tile.index])
        assert loaded.root() == edge.root()
        loaded.extend([leaf])
    assert edge.size == 65_537


@quick
@given(level=st.integers(-1, 7), index=st.integers(0, 2**55), width=st.integers(1, 256))
def test_tile_paths_are_parsed_as_they_are_written(level: int, index: int, width: int):
    tile = Tile(level, index, width)
    assert parse_tile_path(tile.path) == tile


@quick
@given(text=st.text("tile/0x1.pentrs59", max_size=24))
def test_no_other_text_is_a_tile_path(text: str):
    try:
        tile = parse_tile_path(text)
    except CounterfoilError as e:
        assert e.code is Code.NOT_FOUND  # noqa: PT017 - either outcome is right, if it is this one
    else:
        assert tile.path == text


def test_bundles_hold_entries_of_32_bytes_and_nothing_else():
    data = encode_bundle(ENTRIES[:5])
    assert decode_bundle(data, 5) == ENTRIES[:5]
    for wrong, width in (
        (data[:-1], 5),
        (data, 4),
        (data, 6),
        (b"\x00\x1f" + data[2:], 5),
        (b"", 1),
    ):
        with pytest.raises(CounterfoilError):
            decode_bundle(wrong, width)


def test_every_file_of_a_size_is_named_once():
    names = [tile.path for tile in files_grown(0, 70_000)]
    assert len(names) == len(set(names)) == 274 * 2 + 2 + 1
    assert width_at(0, 273, 70_000) == 112
    assert width_at(1, 1, 70_000) == 17
    assert width_at(2, 0, 70_000) == 1
    assert width_at(0, 274, 70_000) == 0


def test_damaged_tiles_are_corrupt_and_never_a_wrong_proof():
    edge = TreeEdge()
    stored = {(tile.level, tile.index): data for tile, data in edge.extend(LEAVES[:300])}
    for wrong in (b"", stored[0, 1][:-1], stored[0, 1][:-32]):
        reader = TileReader(300, dict.fromkeys([Tile(0, 1, 44)], wrong).__getitem__)
        with pytest.raises(CounterfoilError) as caught:
            reader(0, 299)
        assert caught.value.code is Code.CORRUPT
    with pytest.raises(CounterfoilError) as caught:
        TileReader(300, lambda tile: stored[tile.level, tile.index])(0, 300)
    assert caught.value.code is Code.BAD_PROOF
