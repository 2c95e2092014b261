"""The cost benchmark finds its planted faults, and says so when the books do not."""

import pytest

from benchmarks.cost.__main__ import AIMED, measure, render
from benchmarks.cost.checked import WrongError, same
from benchmarks.cost.month import FAULTS, Month


def test_a_small_month_is_rated_reconciled_closed_and_exported_as_planted():
    told: list[str] = []
    found = measure(1_500, told.append)
    assert set(AIMED) < set(found["steps"])
    assert 1_500 <= found["receipts"] <= 1_502
    assert found["seconds"] == sum(found["steps"][step]["seconds"] for step in AIMED)
    assert sum(found["faults"].values()) > 0
    assert told[1:] == ["rate and post", "reconcile", "close", "export"]
    assert render({1_500: found}).row_count == len(found["steps"]) + 3


def test_a_month_is_the_same_for_one_seed_and_has_every_fault():
    rows = [Month(3, 20_000, faulty=0.1) for _ in range(2)]
    planted = [[month._chunk().receipts[:50], month.planted.faults] for month in rows]
    assert planted[0] == planted[1]
    assert set(planted[0][1]) == set(FAULTS)


def test_books_that_say_anything_else_are_wrong():
    with pytest.raises(WrongError, match="held: 3, but 4 was planted"):
        same("held", 3, 4)
