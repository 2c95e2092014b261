"""Custodians asked at once: the outcome is settled by the fewest answers that can settle it, in whatever order they come."""

import threading
from itertools import permutations

import pytest

from audit_layer.disclosure.at_once import as_they_come
from audit_layer.disclosure.custody import Ask, Gathered, Heard, ask_all
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.verification.test_escrow_check import ENVELOPE, HEADER, RECEIPT, K, N, report

SHARE, REPORT, SILENT = "share", "report", "silent"


def heard(place: int, what: str) -> Heard:
    if what == SHARE:
        return Heard(share=(place + 1, bytes(32)))
    return Heard(report=report(place)) if what == REPORT else Heard(why="away")


def answering(place: int) -> Ask:
    return lambda _over: heard(place, SHARE)


def gathered() -> Gathered:
    return Gathered(HEADER, RECEIPT, ENVELOPE, N)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([SHARE] * 3 + [SILENT] * 2, "enough"),
        ([SHARE] * 3 + [REPORT] * 2, "enough"),
        ([REPORT] * 3 + [SHARE] * 2, "convicts"),
        ([SHARE] * 2 + [REPORT] * 2 + [SILENT], "neither"),
        ([SHARE] * 2 + [SILENT] * 3, "neither"),
    ],
)
def test_the_outcome_does_not_depend_on_the_order_of_answers(answers, outcome):
    for order in set(permutations(enumerate(answers))):
        found = gathered()
        for place, what in order:
            if found.settled:
                break
            found.add(heard(place, what))
        assert found.settled
        assert (found.enough, found.convicts) == (outcome == "enough", outcome == "convicts")


def test_a_custodian_whose_answer_raises_is_one_that_said_nothing():
    def raises(_over: threading.Event) -> Heard:
        raise CounterfoilError(Code.UNAVAILABLE, "it is away")

    def breaks(_over: threading.Event) -> Heard:
        raise ZeroDivisionError

    asking = {f"c{place}": answering(place) for place in range(K)}
    found = gathered()
    ask_all({"bad": raises, "worse": breaks, **asking}, found)
    assert found.enough
    found = gathered()
    ask_all(dict.fromkeys(map(str, range(N)), raises), found)
    assert not found.enough
    assert not found.convicts
    assert "it is away" in found.why


def test_what_a_party_of_the_beacon_raises_is_raised_where_answers_are_read():
    with pytest.raises(ZeroDivisionError):
        list(as_they_come([lambda: 1 // 0], within_s=60))
    assert sorted(as_they_come([lambda: 1, lambda: 2], within_s=60)) == [1, 2]


def test_those_that_are_still_asked_are_told_that_nobody_waits():
    told = threading.Event()

    def slow(over: threading.Event) -> Heard:
        if over.wait(60):
            told.set()
        return Heard(why="late")

    quick = {f"c{place}": answering(place) for place in range(K)}
    ask_all({"slow": slow, **quick}, gathered())
    assert told.wait(60)


def test_custodians_that_never_answer_hold_up_a_worker_for_a_bounded_time_only():
    """Each could otherwise keep a connection alive for ever, and the worker's other cases with it."""
    stuck = threading.Event()

    def hangs(_over: threading.Event) -> Heard:
        stuck.wait(60)
        return Heard(why="late")

    found = gathered()
    ask_all(dict.fromkeys(map(str, range(N)), hangs), found, within_s=0.05)
    stuck.set()
    assert not found.enough
    assert not found.convicts
    assert found.pending == N


def test_shares_do_not_appear_in_representations():
    found = gathered()
    found.add(Heard(share=(1, b"secret" * 5 + b"..")))
    assert "secret" not in repr(found) + repr(Heard(share=(1, b"secret")))
