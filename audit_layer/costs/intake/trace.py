"""What a dry run shows: how each row, and each field of it, was read. Pure."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FieldReading:
    """One field: the file's text, where it stands, and what it was taken to mean."""

    field: str
    source: str
    """`column D (Menge)`, `cell B2`, `constant`, `stated`."""
    raw: str
    meaning: str


@dataclass(slots=True)
class RowReading:
    """One row: a line, a total, or skipped, and why."""

    row: int
    outcome: str
    """`line`, `skipped`, `total`, `problem`."""
    why: str = ""
    fields: list[FieldReading] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """Keeps the first `most` rows of each outcome; all are counted."""

    most: int
    rows: list[RowReading] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    facts: list[FieldReading] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def keeps(self) -> bool:
        """Whether the fields of the next row may be wanted."""
        return self.counts.get("line", 0) < self.most or len(self.rows) < self.most

    def add(self, reading: RowReading) -> None:
        """Count a row, and keep it if it is among the first of its outcome."""
        seen = self.counts.get(reading.outcome, 0)
        self.counts[reading.outcome] = seen + 1
        if seen < self.most:
            self.rows.append(reading)
