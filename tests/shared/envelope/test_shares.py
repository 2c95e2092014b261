"""Escrow shares: any k of n recombine, fewer reveal nothing, and another implementation agrees."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.envelope.shares import combine, share_commitment, share_commitments, split
from shared.runtime.errors import Code, CounterfoilError

# An independent GF(2^8): discrete logarithms to base 3.
EXP = [1]
for _ in range(254):
    last = EXP[-1]
    EXP.append((last << 1 ^ last ^ (0x11B if last & 0x80 else 0)) & 0xFF)
LOG = {value: power for power, value in enumerate(EXP)}


def times(a: int, b: int) -> int:
    return 0 if 0 in (a, b) else EXP[(LOG[a] + LOG[b]) % 255]


def divide(a: int, b: int) -> int:
    return 0 if a == 0 else EXP[(LOG[a] - LOG[b]) % 255]


def combine_independently(shares: dict[int, bytes]) -> bytes:
    """Lagrange's interpolation at 0, byte by byte, by tables."""
    secret = bytearray(32)
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = times(weight, divide(other, other ^ x))
        for at, value in enumerate(share):
            secret[at] ^= times(weight, value)
    return bytes(secret)


numbers = st.integers(1, 16).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
secrets = st.binary(min_size=32, max_size=32)


def test_the_tables_are_of_the_field_with_generator_3():
    assert len(LOG) == 255
    assert times(0x57, 0x83) == 0xC1, "the example of FIPS 197 §4.2"


@settings(max_examples=60, deadline=None)
@given(secret=secrets, numbers=numbers, data=st.data())
def test_any_subset_of_the_threshold_recombines_here_and_independently(secret, numbers, data):
    k, n = numbers
    shares = dict(enumerate(split(secret, k, n), start=1))
    chosen = data.draw(st.permutations(range(1, n + 1)).map(lambda order: order[:k]))
    subset = {i: shares[i] for i in chosen}
    assert combine(subset, k) == secret == combine_independently(subset)
    assert combine(shares, k) == secret


def test_every_pair_of_three_recombines_and_one_alone_does_not():
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, 2, 3), start=1))
    for pair in combinations(shares, 2):
        assert combine({i: shares[i] for i in pair}, 2) == secret
    assert secret not in shares.values()
    for i, share in shares.items():
        assert combine({i: share}, 1) != secret


@settings(max_examples=30, deadline=None)
@given(secret=secrets, wrong=st.integers(1, 255), at=st.integers(0, 31))
def test_a_changed_share_gives_another_secret_and_another_commitment(secret, wrong, at):
    shares = dict(enumerate(split(secret, 3, 5), start=1))
    changed = bytearray(shares[2])
    changed[at] ^= wrong
    subset = {1: shares[1], 2: bytes(changed), 5: shares[5]}
    assert combine(subset, 3) != secret
    assert share_commitment(2, 3, 5, bytes(changed)) != share_commitments(secret, 3, 5)[1]


def test_commitments_bind_place_and_numbers():
    share = bytes(32)
    assert (
        len(
            {
                share_commitment(i, k, n, share)
                for i, k, n in [(1, 2, 3), (2, 2, 3), (1, 1, 3), (1, 2, 4)]
            }
        )
        == 4
    )


def test_shares_differ_between_secrets_and_numbers_but_never_between_calls():
    secret = bytes(32)
    assert split(secret, 2, 3) == split(secret, 2, 3)
    assert split(secret, 2, 3)[0] != split(secret, 2, 4)[0] != split(secret, 3, 4)[0]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (2, 1), (1, 0), (1, 17), (-1, 3)])
def test_impossible_numbers_are_refused(k, n):
    with pytest.raises(CounterfoilError) as caught:
        split(bytes(32), k, n)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {1: bytes(32)},
        {0: bytes(32), 1: bytes(32)},
        {1: bytes(32), 17: bytes(32)},
        {1: b"", 2: bytes(32)},
    ],
)
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(CounterfoilError) as caught:
        combine(shares, 2)
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(CounterfoilError):
        split(bytes(31), 1, 1)
