"""Roots of boundaries: what they bind."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.envelope.boundary import boundary_root, row_hashes
from shared.envelope.stages import BoundarySecret
from shared.translog.tree import leaf_hash, root
from tests.vectors.chain import WIDTH, states
from tests.vectors.files import load

SECRET = BoundarySecret.derive(bytes(32), 1)


@pytest.mark.parametrize("vector", load("chain")["roots"], ids=lambda vector: vector["states"][:8])
def test_the_vectors_hold(vector: dict[str, str]) -> None:
    vectors = load("chain")
    secret = BoundarySecret.derive(bytes.fromhex(vectors["transcript_secret"]), 1)
    plain = bytes.fromhex(vector["states"])
    rows = len(plain) // (4 * WIDTH)
    assert boundary_root(secret, row_hashes(plain, rows)).hex() == vector["root"]


def test_a_root_is_of_blocks_of_32_rows() -> None:
    rows = row_hashes(states(33), 33)
    assert rows[32] == sha256(states(33)[32 * 4 * WIDTH :]).digest()
    blocks = [sha256(b"".join(rows[:32])).digest(), sha256(rows[32]).digest()]
    leaves = [leaf_hash(SECRET.leaf(place, block)) for place, block in enumerate(blocks)]
    assert boundary_root(SECRET, rows) == root(leaves)


@given(st.integers(1, 70), st.data())
def test_any_other_row_number_of_rows_or_secret_gives_another_root(
    count: int, data: st.DataObject
) -> None:
    rows = row_hashes(states(count), count)
    changed = data.draw(st.integers(0, count - 1))
    others = [*rows[:changed], bytes(32), *rows[changed + 1 :]]
    good = boundary_root(SECRET, rows)
    assert boundary_root(SECRET, others) != good
    assert boundary_root(SECRET, [*rows, rows[-1]]) != good
    assert boundary_root(BoundarySecret.derive(bytes(32), 2), rows) != good
    assert boundary_root(BoundarySecret.derive(bytes([1]) * 32, 1), rows) != good
