"""Paths in the tree over a period's lines are those of RFC 9162, and lead to the root that its seal has."""

from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.proving.period_tree import paths_in
from shared.statements.periods import lines_root, period_line
from shared.translog.proofs import verify_inclusion
from shared.translog.tree import leaf_hash
from tests.vectors.samples import octets


@given(st.integers(0, 70), st.sets(st.integers(0, 69)))
def test_every_wanted_line_leads_to_the_seals_root(size: int, wanted: set[int]):
    lines = [(octets(str(at)), 1 if at % 3 else -1) for at in range(size)]
    root, placed = paths_in(iter(lines), {octets(str(at)) for at in wanted})
    assert (size, root) == lines_root(lines)
    assert set(placed) == {octets(str(at)) for at in wanted if at < size}
    for receipt, line in placed.items():
        assert lines[line.index] == (receipt, line.net)
        leaf = leaf_hash(period_line(receipt, line.net))
        verify_inclusion(leaf, line.index, size, line.path, root)
