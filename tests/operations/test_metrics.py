"""The names that dashboards and alerts are written against: they do not change by accident."""

import re
from pathlib import Path

from tests.operations.catalogue import everything, tables

PAGE = Path(__file__).parents[2] / "docs/operations/metrics.md"
BOUNDED = {
    "process",
    "name",
    "version",
    "method",
    "code",
    "finish",
    "quality",
    "state",
    "source",
    "place",
    "type",
    "outcome",
    "reason",
    "result",
    "task",
    "status",
    "drawn_by",
    "rule",
}
"""Labels whose values are the process's own names, or words of ours. A new one needs the same argument, in the page."""


def test_the_page_lists_exactly_the_metrics_that_there_are():
    """If a name was changed on purpose: `python -m tests.operations.catalogue` prints the page's tables."""
    assert tables() in PAGE.read_text(encoding="utf-8")


def test_names_are_prometheus_names_with_base_units_and_are_used_once():
    metrics = everything()
    names = [one.name for one in metrics]
    assert len(set(names)) == len(names)
    for one in metrics:
        assert re.fullmatch(r"counterfoil_[a-z0-9_]+", one.name)
        assert not re.search(r"_(ms|millis|minutes|hours|mj|kib|mib)(_|$)", one.name)
        assert one.help.endswith(".")
        assert "|" not in one.help


def test_labels_are_few_and_each_is_explained():
    page = PAGE.read_text(encoding="utf-8")
    explained = {
        label
        for line in page.splitlines()
        if line.startswith("- `")
        for label in re.findall("`([a-z_]+)`", line.partition(":")[0])
    }
    used = {label for one in everything() for label in one.labels}
    assert used == BOUNDED == explained
