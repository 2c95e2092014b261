"""The sampling rule: recomputable by anyone, unbiased, and moved by every input."""

import hashlib
import hmac
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.selection import beacon
from shared.selection.draw import drawn_by_rate, floor_of, node_hash, selection_seed, ticket
from tests.vectors.files import load
from tests.vectors.samples import ORIGIN, octets

VECTOR = load("selection")
SEED = octets("seed")
ENTRIES = [octets(f"entry {i}") for i in range(4000)]


def framed(label: str, *parts: bytes) -> bytes:
    name = b"counterfoil/v1/" + label.encode()
    return (
        bytes([len(name)]) + name + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    )


def mac(key: bytes, label: str, *parts: bytes) -> bytes:
    return hmac.new(key, framed(label, *parts), hashlib.sha256).digest()


def digest(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(label, *parts)).digest()


def test_anyone_can_recompute_the_published_draw_from_the_reveals():
    origin, epoch = VECTOR["origin"].encode(), VECTOR["epoch"].to_bytes(8, "big")
    reveals = []
    for party in VECTOR["parties"]:
        reveal = mac(bytes.fromhex(party["secret"]), "beacon", origin, epoch)
        assert reveal.hex() == party["reveal"]
        commitment = digest("beacon-commitment", party["party"].encode(), origin, epoch, reveal)
        assert commitment.hex() == party["commitment"]
        reveals.append(reveal)
    combined = digest("beacon", *reveals)
    root = bytes.fromhex(VECTOR["root"])
    seed = digest("selection", origin, VECTOR["size"].to_bytes(8, "big"), root, combined)
    assert seed.hex() == VECTOR["seed"]
    lots = {}
    for item in VECTOR["entries"]:
        entry = bytes.fromhex(item["entry"])
        lots[item["entry"]] = int.from_bytes(mac(seed, "draw", entry), "big")
        assert f"{lots[item['entry']]:064x}" == item["ticket"]
        assert item["by_rate"] is (lots[item["entry"]] * 10**6 < VECTOR["rate_ppm"] * 2**256)
    smallest = sorted(lots, key=lots.__getitem__)[: VECTOR["floor"]]
    assert {item["entry"] for item in VECTOR["entries"] if item["by_floor"]} == set(smallest)
    joined = b"".join(bytes.fromhex(item["entry"]) for item in VECTOR["entries"])
    assert hashlib.sha256(joined).hexdigest() == VECTOR["node_hash"]


def test_the_vector_draws_some_and_not_all():
    assert len({item["by_rate"] for item in VECTOR["entries"]}) == 2


def test_every_input_moves_the_seed():
    root, r = octets("root"), octets("r")
    seeds = {
        selection_seed(ORIGIN, 10, root, r),
        selection_seed("other", 10, root, r),
        selection_seed(ORIGIN, 11, root, r),
        selection_seed(ORIGIN, 10, octets("other root"), r),
        selection_seed(ORIGIN, 10, root, octets("other r")),
    }
    assert len(seeds) == 5


@settings(max_examples=40)
@given(
    st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True), st.data()
)
def test_one_unknown_reveal_makes_the_combination_unknown(reveals, data):
    """Each reveal enters the combination, and so does their order."""
    at = data.draw(st.integers(0, len(reveals) - 1))
    other = data.draw(
        st.binary(min_size=32, max_size=32).filter(lambda value: value != reveals[at])
    )
    changed = [*reveals[:at], other, *reveals[at + 1 :]]
    assert beacon.combine(changed) != beacon.combine(reveals)
    assert beacon.combine(reveals[:at] + reveals[at + 1 :]) != beacon.combine(reveals)
    if len(reveals) > 1:
        assert beacon.combine(reveals[::-1]) != beacon.combine(reveals)


@pytest.mark.parametrize("rate_ppm", [10_000, 250_000, 500_000, 900_000])
def test_the_share_that_is_drawn_is_the_rate_within_five_standard_deviations(rate_ppm):
    p = rate_ppm / 10**6
    drawn = sum(drawn_by_rate(SEED, entry, rate_ppm) for entry in ENTRIES)
    assert abs(drawn - p * len(ENTRIES)) < 5 * sqrt(len(ENTRIES) * p * (1 - p))


def test_rate_zero_draws_nothing_and_a_million_draws_everything():
    assert not any(drawn_by_rate(SEED, entry, 0) for entry in ENTRIES[:200])
    assert all(drawn_by_rate(SEED, entry, 1_000_000) for entry in ENTRIES[:200])


@settings(max_examples=40)
@given(
    rates=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), entry=st.sampled_from(ENTRIES)
)
def test_a_higher_rate_draws_whatever_a_lower_one_does(rates, entry):
    low, high = sorted(rates)
    assert drawn_by_rate(SEED, entry, low) <= drawn_by_rate(SEED, entry, high)


def test_two_epochs_draw_independently():
    other = octets("another seed")
    both = sum(
        drawn_by_rate(SEED, entry, 500_000) and drawn_by_rate(other, entry, 500_000)
        for entry in ENTRIES
    )
    assert abs(both - len(ENTRIES) / 4) < 5 * sqrt(len(ENTRIES) * 3 / 16)


@settings(max_examples=40)
@given(count=st.integers(0, 40), m=st.integers(0, 10))
def test_the_floor_is_the_m_smallest_lots_or_all(count, m):
    entries = ENTRIES[:count]
    chosen = floor_of(SEED, entries, m)
    assert len(chosen) == min(count, m)
    rest = [ticket(SEED, entry) for entry in entries if entry not in chosen]
    assert all(ticket(SEED, entry) < min(rest, default=2**256) for entry in chosen)
    assert floor_of(SEED, reversed(entries), m) == chosen


def test_the_floor_cannot_be_predicted_from_another_seed():
    assert floor_of(SEED, ENTRIES[:100], 5) != floor_of(octets("other"), ENTRIES[:100], 5)


def test_a_nodes_hash_covers_every_entry_and_their_order():
    hashes = {
        node_hash([]),
        node_hash(ENTRIES[:2]),
        node_hash(ENTRIES[:2][::-1]),
        node_hash(ENTRIES[:3]),
    }
    assert len(hashes) == 4
