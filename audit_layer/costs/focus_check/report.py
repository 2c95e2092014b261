"""What was found in a file: every finding counted, the first of each rule kept."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.runtime.printable import for_terminal

SHOWN: Final = 80
"""Characters of a value that a finding shows."""


_COLUMNS: Final = 100
"""Columns that the tally of one rule names."""


class Force(StrEnum):
    """How binding a rule is: MUST fails the file, SHOULD is advice (BCP 14)."""

    MUST = "must"
    SHOULD = "should"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule with a number that stays the same, in words, and where it comes from."""

    id: str
    force: Force
    says: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. Rows count from the header, which is row 1; None stands for the file as a whole."""

    rule: str
    row: int | None
    column: str | None
    value: str
    expected: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a rule was broken, and in which columns."""

    rule: Rule
    count: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome for one file. `complete` is False where a part of the file could not be read."""

    dataset: str
    version: str
    rows: int
    complete: bool
    skipped: tuple[str, ...]
    tallies: tuple[Tally, ...]
    findings: tuple[Finding, ...]

    @property
    def conforms(self) -> bool:
        """Whether the file was read to its end and no rule with MUST is broken."""
        return self.complete and not any(tally.rule.force is Force.MUST for tally in self.tallies)


def shown(value: str | None) -> str:
    """Return a stranger's value on one line, harmless for a terminal, at most about `SHOWN` characters."""
    if value is None:
        return "null"
    text = for_terminal(value[:SHOWN]).replace("\n", "\\n").replace("\t", "\\t")
    return text if len(value) <= SHOWN else f"{text}… ({len(value):,} characters)"


class Collector:
    """Takes findings, keeps the first `most` of each rule and counts all of them."""

    def __init__(self, most: int, skipped: frozenset[str] = frozenset()) -> None:
        self._most = most
        self._skipped = skipped
        self._rules: dict[str, Rule] = {}
        self._counts: Counter[str] = Counter()
        self._columns: Mapping[str, set[str]] = defaultdict(set)
        self._findings: list[Finding] = []

    def add(
        self, rule: Rule, row: int | None, column: str | None, value: str | None, expected: str
    ) -> None:
        """Take one finding; what belongs to a skipped rule is dropped."""
        if rule.id in self._skipped:
            return
        self._rules[rule.id] = rule
        self._counts[rule.id] += 1
        if column is not None and len(self._columns[rule.id]) < _COLUMNS:
            self._columns[rule.id].add(shown(column))
        if self._counts[rule.id] <= self._most:
            place = None if column is None else shown(column)
            self._findings.append(Finding(rule.id, row, place, shown(value), expected))

    def report(self, *, dataset: str, version: str, rows: int, complete: bool) -> Report:
        """Return everything taken so far, in order of rule and row."""
        tallies = (
            Tally(self._rules[name], count, tuple(sorted(self._columns[name])))
            for name, count in sorted(self._counts.items())
        )
        return Report(
            dataset=dataset,
            version=version,
            rows=rows,
            complete=complete,
            skipped=tuple(sorted(self._skipped)),
            tallies=tuple(tallies),
            findings=tuple(sorted(self._findings, key=lambda f: (f.rule, f.row or 0))),
        )
