"""Fault points do nothing unless requested, and then exactly what was requested."""

from collections import Counter

import pytest

from shared.runtime import faults
from shared.runtime.faults import VARIABLE, InjectedFault, fault_point


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_reached", Counter())


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    fault_point("a.b")


def test_only_the_named_point_fails_and_only_on_its_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "a.b:raise:2")
    fault_point("a")
    fault_point("a.b")
    with pytest.raises(InjectedFault):
        fault_point("a.b")
    fault_point("a.b")
