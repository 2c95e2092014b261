"""The figures for a person. Pure."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, figure, head, mark


def render(found: Figures) -> RenderableType:
    """Return a table for each workload that was run, and the aims."""
    disk = ", ".join(f"{name} {value}" for name, value in found["postgres"].items())
    parts: list[RenderableType] = [
        head(found["machine"]),
        f"{found['settings']['rounds']} rounds, sides in turn; medians (lowest to highest round); Postgres: {disk}",
    ]
    for name, shown in (("bulk", _bulk), ("batches", _batches)):
        if found.get(name):
            parts.append(shown(found[name]))
    parts.append(_aims(found["aims"]))
    return Group(*parts)


def _bulk(rows: Sequence[Figures]) -> Table:
    table = _table(
        "bulk: entries/s into the store",
        ("entries per transaction", "entries alone", "with the trail's rows", "alone ÷ with"),
    )
    for row in rows:
        table.add_row(
            str(row["batch"]),
            figure(row["bare"], ",.0f"),
            figure(row["with_trail"], ",.0f"),
            figure(row["ratio"], ".2f"),
        )
    return table


def _batches(rows: Sequence[Figures]) -> Table:
    table = _table(
        "batches: statements/s through the API",
        (
            "statements per call",
            "receipts (2 signatures)",
            "one signature",
            "÷",
            "call of receipts, ms p50 / p99",
        ),
    )
    for row in rows:
        table.add_row(
            str(row["batch"]),
            figure(row["receipts"], ",.0f"),
            figure(row["singles"], ",.0f"),
            figure(row["ratio"], ".2f"),
            f"{row['call']['p50_ms']['median']:.0f} / {row['call']['p99_ms']['median']:.0f}",
        )
    return table


def _aims(rows: Sequence[Figures]) -> Table:
    table = _table("aims", ("", "seen", "aim"))
    for row in rows:
        if row["met"] is not None:
            limit = f"≥ {row['at_least']:,}" if "at_least" in row else f"< {row['below']:,}"
            table.add_row(row["aim"], f"{row['value']:,.1f}", limit + mark(row["met"]))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table
