"""Plans of chains: never worse than what trying every chain finds, and a reason where there is none."""

import math
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.client.planning import (
    UNPRICED,
    Part,
    RoundTrips,
    Wish,
    best_plans,
    plan_of,
    why_none,
)
from execution_layer.pipeline.depth import Cost

LAYERS = 6


def part(node, first, last, *, ends=False, ms=10.0, row_ms=0.0, price=1, **more):
    cost = Cost(ms / 1000, row_ms / 1000)
    return Part(node, first, last, cost, ends, price=Decimal(price), currency="EUR", **more)


def whole(node, **more):
    return part(node, 0, LAYERS, ends=True, divisible=True, **more)


def trips(parts, ms=100.0, between=()):
    return RoundTrips({one.node: ms / 1000 for one in parts}, dict(between))


# -- against trying everything -------------------------------------------------------------------------------------

quarters = st.integers(0, 8).map(lambda n: 5.0 * n)


@st.composite
def pools(draw):
    count = draw(st.integers(1, 7))
    found = []
    for number in range(count):
        operator = draw(st.sampled_from("abc"))
        first = draw(st.integers(0, LAYERS - 1))
        found.append(
            part(
                f"{operator}/s{number}",
                first,
                draw(st.integers(first + 1, LAYERS)),
                ms=draw(quarters) + 1,
                row_ms=draw(quarters) / 10,
                price=draw(st.sampled_from([1, 2, 3, UNPRICED])),
                profile=draw(st.sampled_from([b"p", b"p", b"q"])),
            )
        )
    for number in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["whole", "head"]))
        values = {"ms": draw(quarters) + 1, "profile": b"p", "price": draw(st.integers(1, 4))}
        name = f"{draw(st.sampled_from('ab'))}/h{number}"
        if kind == "whole":
            found.append(whole(name, **values))
        else:
            found.append(part(name, 0, draw(st.integers(0, LAYERS - 1)), ends=True, **values))
    here = {one.node: draw(quarters) / 1000 for one in found}
    return found, RoundTrips(here)


def every_chain(parts):
    """Yield every chain over all layers, by trying everything."""

    def on(chain):
        if chain[-1].last == LAYERS:
            yield chain
            return
        for one in parts:
            same = one.profile == chain[0].profile
            if not one.ends and same and one.first == chain[-1].last:
                yield from on((*chain, one))

    for head in parts:
        if not head.ends:
            continue
        yield from on((head,))
        if head.divisible:
            for at in sorted({one.first for one in parts if not one.ends}):
                yield from on((head.up_to(at),))


@settings(deadline=None, max_examples=200)
@given(
    pools(),
    st.sampled_from(["speed", "cost", "operators"]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([None, 0.02, 0.2]),
    st.sampled_from([None, 0, 1, 2]),
)
def test_the_best_plans_are_those_that_trying_every_chain_finds(
    pool, prefer, sequences, at_most_s, most_operators
):
    parts, distances = pool
    wish = Wish(prefer, sequences, at_most_s, most_operators, plans=3)
    tried = {
        plan.names: plan
        for plan in (plan_of(chain, distances, wish) for chain in every_chain(parts))
        if at_most_s is None or plan.token_s <= at_most_s
        if prefer != "cost" or plan.price.is_finite()
        if most_operators is None or len(plan.parts) == 1 or len(plan.operators) <= most_operators
    }
    expected = sorted(plan.rank(prefer)[:-1] for plan in tried.values())[:3]
    found = best_plans(parts, LAYERS, distances, wish)
    for ours, theirs in zip((plan.rank(prefer)[:-1] for plan in found), expected, strict=True):
        assert all(
            math.isclose(a, b) if isinstance(a, float) else a == b
            for a, b in zip(ours, theirs, strict=True)
        )
    for plan in found:
        assert plan.parts[0].ends
        assert plan.parts[0].first == 0
        assert plan.parts[-1].last == LAYERS
        assert all(one.last == other.first for one, other in pairwise(plan.parts))
        assert len(set(plan.names)) == len(plan.names)


# -- by hand -------------------------------------------------------------------------------------------------------

HEAD = part("a/head", 0, 2, ends=True)
NEAR, FAR = part("a/near", 2, 6, ms=40), part("b/far", 2, 6, ms=10)


def test_one_sequence_waits_for_all_places_and_all_hops():
    (plan,) = best_plans([HEAD, NEAR], LAYERS, trips([HEAD, NEAR]), Wish())
    assert plan.token_s == pytest.approx(0.010 + 0.040 + 2 * 0.100)  # each hop by way of here
    assert plan.slowest(1) is NEAR
    known = {frozenset({"a/head", "a/near"}): 0.004}
    (plan,) = best_plans([HEAD, NEAR], LAYERS, trips([HEAD, NEAR], between=known.items()), Wish())
    assert plan.token_s == pytest.approx(0.050 + 0.004)


def test_many_sequences_wait_for_the_slowest_stage_only():
    parts = [part("a/head", 0, 2, ends=True, ms=0, row_ms=1), part("a/s", 2, 6, ms=0, row_ms=4)]
    (plan,) = best_plans(parts, LAYERS, trips(parts), Wish(sequences=64))
    assert plan.token_s == pytest.approx(64 * 0.004)  # the hops are filled with other steps
    assert plan.depth.steps > 1
    assert plan.slowest(64).node == "a/s"


def test_what_is_preferred_decides():
    cheap = part("c/cheap", 2, 6, ms=90, price="0.5")
    parts = [HEAD, NEAR, FAR, cheap]
    distances = trips(parts)

    def first(**wish):
        return best_plans(parts, LAYERS, distances, Wish(**wish))[0].names[1]

    assert first() == "b/far"
    assert first(prefer="cost") == "c/cheap"
    assert first(prefer="cost", at_most_s=0.26) == "b/far"
    assert first(prefer="operators") == "a/near"
    assert first(most_operators=1) == "a/near"


def test_a_whole_node_is_a_chain_of_one_and_may_keep_only_its_first_layers():
    slow, fast = whole("a/slow", ms=600), part("b/s", 2, 6, ms=10)
    parts = [slow, fast]
    plans = best_plans(parts, LAYERS, trips(parts, ms=10), Wish())
    assert [plan.names for plan in plans] == [("a/slow", "b/s"), ("a/slow",)]
    assert plans[0].parts[0].cost.of(1) == pytest.approx(0.2)
    assert plans[1].trip_s == 0


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([FAR], "nobody offers the embedding and the head"),
        ([HEAD], "no stage goes on from layer 2 of 6: stages begin at nowhere"),
        ([HEAD, part("b/s", 3, 6)], "no stage goes on from layer 2 of 6: stages begin at 3"),
        (
            [HEAD, part("b/s", 2, 4), part("b/t", 3, 6)],
            "no stage goes on from layer 4 of 6: stages begin at 2, 3",
        ),
        ([HEAD, part("b/s", 2, 5)], "from layer 5 of 6"),
        ([HEAD, part("b/s", 2, 6, profile=b"q")], "different numeric profiles"),
    ],
    ids=["no head", "no stage", "a gap", "an overlap", "no end", "other arithmetic"],
)
def test_offers_that_make_no_chain_are_explained(parts, said):
    assert best_plans(parts, LAYERS, trips(parts), Wish()) == []
    assert said in why_none(parts, LAYERS)


def test_prices_in_two_currencies_are_never_added_up():
    euros = [HEAD, part("b/s", 2, 6)]
    dollars = Part("c/s", 2, 6, Cost(0, 0.001), price=Decimal(1), currency="USD")
    (plan,) = best_plans([*euros, dollars], LAYERS, trips([*euros, dollars]), Wish())
    assert plan.names == ("a/head", "b/s")
    assert "different currencies" in why_none([HEAD, dollars], LAYERS)


def test_a_large_pool_is_planned_in_bounded_time():
    parts = [part("a/head", 0, 1, ends=True)]
    parts += [
        part(f"o{n}/s{at}", at, at + 1, ms=1 + (7 * n * at) % 13, price=1 + (5 * n + at) % 11)
        for at in range(1, 24)
        for n in range(8)
    ]
    (plan,) = best_plans(parts, 24, trips(parts), Wish(plans=1, most_operators=2))
    assert len(plan.parts) == 24
    assert len(plan.operators) <= 2
