"""Recomputing a tree, and showing where two trees diverge."""

import pytest

from audit_layer.monitor.findings import FoundError, Kind
from audit_layer.monitor.walk import CHUNK_BUNDLES, Walk
from shared.translog.prefix import roots_of
from shared.translog.proofs import lookup_in
from shared.translog.tiles import Tile, encode_bundle
from shared.translog.tree import leaf_hash, root
from tests.audit_layer.monitor.doubles import LyingLog, some_entries

LEAVES = [leaf_hash(e) for e in some_entries(40)]


def test_two_roots_from_one_set_of_subtrees_are_the_trees_own_at_every_pair_of_sizes():
    for later in range(len(LEAVES) + 1):
        for earlier in range(later + 1):
            first, second, nodes = roots_of(earlier, later, lookup_in(LEAVES[:later]))
            assert (first, second) == (root(LEAVES[:earlier]), root(LEAVES[:later]))
            assert len(nodes) <= 2 * later.bit_length()


def served(entries: list[bytes], tiles: list[Tile]) -> list[tuple[Tile, bytes]]:
    return [(t, encode_bundle(entries[t.index * 256 : t.index * 256 + t.width])) for t in tiles]


@pytest.mark.parametrize("stops", [[1], [255, 256, 257], [300, 300 + 256 * CHUNK_BUNDLES + 7]])
def test_a_walk_comes_to_the_trees_root_and_tiles_whatever_its_steps_and_restarts(stops):
    entries = some_entries(stops[-1])
    walk = Walk()
    for stop in stops:
        full: dict[Tile, bytes] = {}
        while bundles := walk.bundles(stop):
            assert len(bundles) <= CHUNK_BUNDLES
            full |= dict(walk.take(served(entries, bundles)))
        log = LyingLog(entries[:stop])
        assert walk.root() == log.checkpoint().root
        files = log.files()
        for tile, data in [*full.items(), *walk.partials()]:
            assert files[tile.path] == data
        walk = Walk(walk.size, walk.edge)


def test_an_entry_bundle_that_changes_earlier_entries_is_damage():
    entries = some_entries(300)
    walk = Walk()
    walk.take(served(entries, walk.bundles(100)))
    changed = [b"\x01" * 32, *entries[1:]]
    with pytest.raises(FoundError) as found:
        walk.take(served(changed, walk.bundles(300)))
    assert found.value.finding.kind is Kind.DAMAGE
