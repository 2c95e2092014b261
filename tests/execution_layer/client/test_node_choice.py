"""A node that fails rests and is found again; what is healthy shares the work."""

import pytest

from execution_layer.client.node_choice import FIRST_REST_S, LONGEST_REST_S, NodeChoice
from shared.runtime.errors import Code, CounterfoilError

NODES = ("a", "b", "c")
SICK = CounterfoilError(Code.INTERNAL, "its disk is full")


def give(choice, now=0.0, tried=()):
    name = choice.choose(NODES, tried, now)
    choice.begin(name)
    return name


def test_healthy_nodes_share_the_work():
    choice = NodeChoice()
    assert sorted(give(choice) for _ in range(6)) == sorted(NODES * 2)


def test_a_node_that_fails_at_once_gets_one_request_of_many():
    choice = NodeChoice()
    asked = []
    for _ in range(60):
        name = give(choice)
        asked.append(name)
        choice.end(name)
        if name == "a":
            choice.failed(name, SICK, 0.0)
        else:
            choice.answered(name)
    assert asked.count("a") == 1
    assert abs(asked.count("b") - asked.count("c")) <= 1


def test_rest_doubles_up_to_a_limit_and_an_answer_ends_it():
    choice = NodeChoice()
    now = 0.0
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        choice.failed("a", SICK, now)
        rest = min(FIRST_REST_S * expected, LONGEST_REST_S)
        assert choice.choose(("a", "b"), (), now + rest - 0.01) == "b"
        choice.begin("b")
        assert choice.choose(("a", "b"), (), now + rest) == "a"
        choice.end("b")
        now += rest
    choice.answered("a")
    choice.failed("a", SICK, now)
    choice.begin("b")
    assert choice.choose(("a", "b"), (), now + FIRST_REST_S) == "a"


def test_after_its_rest_one_request_tries_a_node_and_the_others_wait_for_what_it_finds():
    choice = NodeChoice()
    choice.failed("a", SICK, 0.0)
    for name in ("b", "c"):
        choice.begin(name)
    assert give(choice, now=5.0) == "a"
    assert [give(choice, now=5.0) for _ in range(4)].count("a") == 0
    choice.end("a")
    choice.answered("a")
    assert give(choice, now=5.0) == "a"


def test_where_all_rest_the_first_to_wake_that_was_not_just_tried_is_asked():
    choice = NodeChoice()
    for name, at in zip(NODES, (3.0, 1.0, 2.0), strict=True):
        choice.failed(name, SICK, at)
    assert choice.choose(NODES, (), 3.0) == "b"
    assert choice.choose(NODES, ("b",), 3.0) == "c"
    assert choice.choose(NODES, ("c", "a", "b"), 3.0) == "c"
    assert choice.choose(("a",), ("a", "a"), 3.0) == "a"  # one that is required


@pytest.mark.parametrize("code", [Code.QUOTA, Code.OVERLOADED])
def test_a_node_without_room_rests_as_long_as_it_says_and_has_not_failed(code):
    choice = NodeChoice()
    choice.failed("a", CounterfoilError(code, "no room", retry_after_s=3.0), 0.0)
    choice.begin("b")
    assert choice.choose(("a", "b"), (), 2.9) == "b"
    assert [give(choice, now=3.0) for _ in range(2)].count("a") >= 1
    choice.failed("a", SICK, 10.0)
    assert choice.choose(("a", "c"), (), 10.0 + FIRST_REST_S) == "c"  # busy, on trial


def run(requests, behaviour, *, at_once=1):
    """Send requests, `at_once` in flight, over virtual time; `behaviour` maps a node to its seconds until the first token, or
    to the error that it answers with. Return how many requests each node got, failed ones being sent again elsewhere.
    """
    choice, now, got = NodeChoice(), 0.0, dict.fromkeys(behaviour, 0)
    flying = []
    waiting = [() for _ in range(requests)]
    while waiting or flying:
        while waiting and len(flying) < at_once:
            tried = waiting.pop()
            name = choice.choose(tuple(behaviour), tried, now)
            choice.begin(name)
            got[name] += 1
            takes = behaviour[name]
            flying.append(
                (now + (0.01 if isinstance(takes, CounterfoilError) else takes), name, tried)
            )
        flying.sort(key=lambda item: item[0])
        now, name, tried = flying.pop(0)
        choice.end(name)
        if isinstance(behaviour[name], CounterfoilError):
            choice.failed(name, behaviour[name], now)
            waiting.append((*tried, name))
        else:
            choice.answered(name)
            choice.waited(name, behaviour[name], now)
    return got


CUT_OFF = CounterfoilError(Code.UNAVAILABLE, "the response was cut off")


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("sick", [SICK, CUT_OFF, 5.0], ids=["disk full", "erring", "slow"])
def test_of_sixty_requests_over_two_healthy_nodes_a_sick_one_takes_few(sick, at_once):
    """Whether it refuses, breaks off, or is 50 times slower: it gets what it takes to know it, and no share."""
    got = run(60, {"a": sick, "b": 0.1, "c": 0.1}, at_once=at_once)
    assert got["a"] <= max(3, at_once)
    assert got["b"] + got["c"] >= 60 - got["a"]
    assert abs(got["b"] - got["c"]) <= 3


def test_a_node_that_is_a_little_slower_gets_nearly_its_share():
    got = run(60, {"a": 0.12, "b": 0.1, "c": 0.1}, at_once=9)
    assert got["a"] >= 12


def test_waits_that_overlap_say_nothing():
    choice = NodeChoice()
    for seconds in (0.1, 5.0, 6.0):
        choice.waited("a", seconds, 0.0)
    for name in ("b", "c"):
        for seconds in (0.05, 0.1, 0.2):
            choice.waited(name, seconds, 0.0)
    assert sorted(give(choice) for _ in range(3)) == ["a", "b", "c"]


def test_a_slow_node_that_has_recovered_is_found_again():
    choice = NodeChoice()
    for name, seconds in (("a", 5.0), ("b", 0.1), ("c", 0.1)):
        for _ in range(3):
            choice.waited(name, seconds, 0.0)
    first = [give(choice, now=1.0) for _ in range(6)]
    assert "a" not in first
    for name in first:
        choice.end(name)
    assert "a" in [give(choice, now=61.0) for _ in range(3)]


def test_where_all_are_slow_none_is():
    choice = NodeChoice()
    for name in NODES:
        for _ in range(3):
            choice.waited(name, 30.0, 0.0)
    assert sorted(give(choice) for _ in range(6)) == sorted(NODES * 2)
