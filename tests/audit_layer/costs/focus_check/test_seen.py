"""The table of digests: it keeps what a dictionary keeps."""

from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.focus_check.seen import FirstSeen, digest

KEYS = st.lists(st.integers(1, 2**64 - 1) | st.integers(1, 50).map(lambda at: at << 20))


@given(KEYS)
def test_it_returns_what_a_key_was_first_seen_with(keys):
    table, first = FirstSeen(), {}
    for row, key in enumerate(keys):
        assert table.see(key, row * 3, row) == first.get(key)
        first.setdefault(key, (row * 3, row))
    assert list(table.items()) == [(key, *seen) for key, seen in first.items()]
    assert all(key in table for key in first)


def test_it_grows():
    table = FirstSeen()
    for row in range(5000):
        assert table.see(row * 4096 + 1, 0, row) is None
    assert len(list(table.items())) == 5000


@given(
    st.lists(st.none() | st.text(max_size=3), max_size=4),
    st.lists(st.none() | st.text(max_size=3), max_size=4),
)
def test_texts_and_nulls_are_told_apart(left, right):
    assert (digest(*left) == digest(*right)) == (left == right)
