"""The benchmark of disputes runs, and times cases that the referee can read."""

from benchmarks.disputes.figures import TIMED, measure


def test_every_timed_element_is_decided():
    found = {row["operator"]: row for row in measure(1)}
    assert all(found[name]["us"] > 0 for name in TIMED)
    assert found["states"]["bytes"] == 59_148  # as protocol §10.6 says
