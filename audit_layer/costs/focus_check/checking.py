"""A file against the rules of one dataset of one version of FOCUS: row by row, in memory that does not grow with its size
beyond the digests of rows and keys (50 to 100 bytes for each).
"""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.cells import Judge, custom_fault, judge_of
from audit_layer.costs.focus_check.columns import DATASETS, Dataset, Level
from audit_layer.costs.focus_check.reading import Table, open_table
from audit_layer.costs.focus_check.report import Collector, Force, Report
from audit_layer.costs.focus_check.rows import PIVOTS, judges_of
from audit_layer.costs.focus_check.whole import Whole

HINTED: Final = 1000
"""Columns up to which a file's strange names are compared with those of FOCUS."""
_CUSTOM: Final = re.compile(r"x_[A-Z][A-Za-z0-9]{0,47}", re.ASCII)
_EVERY: Final = 1024
"""Rows between two reports of progress."""

Progress = Callable[[int, int], None]
"""Takes the bytes read and the size of the file."""


def check_file(
    path: Path,
    dataset: Dataset,
    *,
    most: int = 10,
    skipped: frozenset[str] = frozenset(),
    progress: Progress = lambda _done, _size: None,
) -> Report:
    """Check a CSV (plain or gzip) or Parquet file; raise CONFIGURATION where it cannot be opened.

    The first `most` findings of each rule are kept, all are counted; rules in `skipped` are not held.
    """
    collector = Collector(most, skipped)
    with open_table(path, collector.add) as table:
        rows = _check(table, dataset, collector, progress)
        return collector.report(
            dataset=dataset.name, version=dataset.version, rows=rows, complete=table.complete
        )


def _check(table: Table, dataset: Dataset, collector: Collector, progress: Progress) -> int:
    """Hold every row of a table against the rules; return how many there were."""
    if not table.names:
        return 0
    header(table.names, dataset, collector)
    places: dict[str, int] = {}
    for at, name in enumerate(table.names):
        places.setdefault(name, at)
    known = {
        name: at
        for name, at in places.items()
        if name in dataset.columns and name not in table.unreadable
    }
    plan = [
        _Column(name, at, dataset, spreadsheet=table.spreadsheet)
        for name, at in places.items()
        if name not in table.unreadable
    ]
    judges = judges_of(dataset, known, table.floating)
    whole = Whole(dataset, known)
    needed = [name for name in PIVOTS if name in known]
    rows_judged = (
        "ChargeCategory" in known or "ChargeCategory" not in dataset.columns
    ) and table.unreadable.isdisjoint(PIVOTS)
    count = 0
    for number, cells in table.rows():
        count += 1
        faulty = {
            column.name for column in plan if column.faulty(cells[column.at], number, collector)
        }
        row = {name: cells[at] for name, at in known.items()}
        if rows_judged and faulty.isdisjoint(needed):
            for judge in judges:
                for rule, column, expected in judge(row):
                    collector.add(rule, number, column, row.get(column), expected)
        for rule, column, expected in whole.row(number, cells, row):
            collector.add(rule, number, column or None, row.get(column), expected)
        if count % _EVERY == 0:
            progress(table.position(), table.size)
    for number, (rule, column, expected) in whole.end():
        collector.add(rule, number, column, "", expected)
    progress(table.size, table.size)
    return count


class _Column:
    """One column of a file: judges its cells, and remembers some that were in order."""

    def __init__(self, name: str, at: int, dataset: Dataset, *, spreadsheet: bool) -> None:
        column = dataset.columns.get(name)
        self.name = name
        self.at = at
        self._nullable = column is None or column.nullable
        self._judge: Judge = (
            custom_fault if column is None else judge_of(column, spreadsheet=spreadsheet)
        )
        self._fine: set[str] = set()

    def faulty(self, text: str | None, row: int, collector: Collector) -> bool:
        """Judge one cell; return whether it broke a rule with MUST."""
        if text is None:
            if not self._nullable:
                collector.add(rules.NULL, row, self.name, None, "a value")
            return not self._nullable
        if text in self._fine:
            return False
        if (fault := self._judge(text)) is not None:
            collector.add(fault[0], row, self.name, text, fault[1])
            return fault[0].force is Force.MUST
        if len(text) <= 100:
            if len(self._fine) >= 4096:
                self._fine.clear()
            self._fine.add(text)
        return False


def header(names: Sequence[str], dataset: Dataset, collector: Collector) -> None:
    """Hold the names of a file's columns against a dataset's."""
    present = frozenset(names)
    for column in dataset.columns.values():
        if column.name not in present and column.level is Level.MANDATORY:
            collector.add(rules.MISSING, 1, column.name, None, "this column")
        elif column.name not in present and column.level is Level.RECOMMENDED:
            collector.add(rules.RECOMMENDED, 1, column.name, None, "this column")
    for group in dataset.groups:
        if not present.isdisjoint(group):
            for name in group:
                if name not in present:
                    others = ", ".join(other for other in group if other in present)
                    collector.add(rules.GROUP, 1, name, None, f"this column beside {others}")
    seen = set()
    for name in names:
        if name in seen:
            collector.add(rules.DUPLICATE_COLUMN, 1, name, name, "a name that no other column has")
        seen.add(name)
    _custom(names, dataset, collector)


def _custom(names: Sequence[str], dataset: Dataset, collector: Collector) -> None:
    custom_before = False
    for name in dict.fromkeys(names):
        if name in dataset.columns:
            if custom_before:
                collector.add(rules.COLUMN_ORDER, 1, name, name, "a place before custom columns")
        elif name.startswith("x_"):
            custom_before = True
            if not _CUSTOM.fullmatch(name):
                collector.add(rules.CUSTOM_STYLE, 1, name, name, "a name such as x_CostCenter")
        elif (meant := _meant(name, dataset)) is not None:
            collector.add(rules.SPELLING, 1, name, name, meant)
        else:
            hint = _hint(name, dataset) if len(names) <= HINTED else "a name that begins with x_"
            collector.add(rules.CUSTOM_NAME, 1, name, name, hint)


def _meant(name: str, dataset: Dataset) -> str | None:
    """Return the FOCUS column that differs from a name only in case and in signs between words."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((column for column in dataset.columns if column.lower() == bare), None)


def _hint(name: str, dataset: Dataset) -> str:
    for other in DATASETS.values():
        if name in other.columns and other.name == dataset.name:
            return f"no such column in FOCUS {dataset.version}; FOCUS {other.version} has it"
    near = difflib.get_close_matches(name[:100], dataset.columns, n=1, cutoff=0.85)
    return f"{near[0]}, or a name that begins with x_" if near else "a name that begins with x_"
