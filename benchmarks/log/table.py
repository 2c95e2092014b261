"""The figures for a person. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, figure, head, mark
from benchmarks.log.figures import kept_up, medians

GROWTH = {"log": "entries alone", "trail": "with the trail's rows"}
GROWN = {
    "entries_per_s": "entries/s",
    "tick_ms": "checkpoint, ms",
    "by_index_p50": "proof by index p50",
    "by_index_p99": "p99",
    "by_entry_p50": "proof by entry p50",
    "by_entry_p99": "p99",
}


def render(found: Figures) -> RenderableType:
    """Return a table for each workload that ran, what others report, and the aims."""
    disk = ", ".join(f"{name} {value}" for name, value in found["postgres"].items())
    parts: list[RenderableType] = [
        head(found["machine"]),
        f"Postgres: {disk}",
        f"{found['settings']['rounds']} rounds, sides in turn; medians (lowest to highest round)",
    ]
    parts += [shown(found[name]) for name, shown in SHOWN.items() if name in found]
    return Group(*parts, _context(found["context"]), _aims(found["aims"]))


def _closed(figures: Figures) -> Table:
    table = _table(
        "closed: one statement per call, until the answer is there",
        ("waiters", "statements/s", "p50, ms", "p99, ms", "max, ms"),
    )
    for row in figures["waiters"]:
        table.add_row(f"{row['waiters']:,}", figure(row["per_s"], ",.0f"), *_latencies(row))
    verified = figures["receipts_verified"]
    receipts = (
        "answers carry no transparency receipts"
        if verified is None
        else f"each answer carries its transparency receipt; {verified} of them verified"
    )
    witnessed = figures["witnessed"]
    table.caption = (
        f"{receipts}. Until a witnessed tlog-proof is there: p50 {witnessed['p50_ms']['median']:,.0f} ms, "
        f"max {witnessed['max_ms']['median']:,.0f} ms; {witnessed['proofs_verified']} verified"
    )
    return table


def _batches(rows: Sequence[Figures]) -> Table:
    table = _table(
        "batches: statements/s through the API",
        (
            "statements per call",
            "receipts with orders",
            "one signature",
            "÷",
            "call of receipts, p50 / p99 ms",
        ),
    )
    for row in rows:
        table.add_row(
            f"{row['batch']:,}",
            figure(row["receipts"], ",.0f"),
            figure(row["singles"], ",.0f"),
            figure(row["ratio"], ".2f"),
            f"{row['call']['p50_ms']['median']:,.0f} / {row['call']['p99_ms']['median']:,.0f}",
        )
    table.caption = "a receipt with its order has two signatures to be verified"
    return table


def _bytes(figures: Figures) -> Table:
    table = _table("bytes: what one receipt with its order occupies", ("", "bytes"))
    table.add_row("tables of the log", f"{figures['log_tables']:,.0f}")
    table.add_row("tables of the trail", f"{figures['trail_tables']:,.0f}")
    for name, size in figures["tables"].items():
        table.add_row(f"  {name}", f"{size:,.0f}")
    table.add_row("published files, by length", f"{figures['files']:,.0f}")
    table.add_row("published files, by blocks", f"{figures['files_on_disk']:,.0f}")
    table.caption = f"{figures['entries']:,} receipts; indexes and partial tiles included"
    return table


def _proofs(figures: Figures) -> Table:
    table = _table(
        f"proofs: at random, of a log of {figures['size']:,} entries",
        ("", "requests/s", "p50, ms", "p99, ms", "max, ms"),
    )
    for name, words in (
        ("by_index", "proof by index, one after another"),
        ("by_entry", "proof by entry, one after another"),
        ("tiles", "tile over HTTPS, several at once"),
    ):
        row = figures[name]
        table.add_row(words, figure(row["per_s"], ",.0f"), *_latencies(row))
    return table


def _bulk(rows: Sequence[Figures]) -> Table:
    table = _table(
        "bulk: entries/s into the store",
        ("entries per transaction", "entries alone", "with the trail's rows", "÷"),
    )
    for row in rows:
        table.add_row(
            f"{row['batch']:,}",
            figure(row["bare"], ",.0f"),
            figure(row["with_trail"], ",.0f"),
            figure(row["ratio"], ".2f"),
        )
    return table


def _growth(series: Mapping[str, Sequence[Figures]]) -> Group:
    return Group(*(_grown(name, rows) for name, rows in series.items()))


def _grown(series: str, rows: Sequence[Figures]) -> Table:
    table = _table(
        f"growth ({GROWTH[series]}): batches of 1,024 and proofs, × the first size's",
        ("entries", *(f"{row['size']:,}" for row in rows)),
    )
    for name, words in GROWN.items():
        cells = []
        for row in rows:
            value, ratio = medians(row)[name], row["ratios"][name]
            cells.append(f"{value:,.2f} × {ratio:.2f}{mark(kept_up(name, ratio))}")
        table.add_row(words, *cells)
    table.add_row("load of the machine", *(f"{row['load']:.1f}" for row in rows))
    for name in rows[0]["bytes_per_entry"]:
        words = f"bytes per entry: {name.replace('_', ' ')}"
        table.add_row(words, *(f"{row['bytes_per_entry'][name]:,.0f}" for row in rows))
    return table


SHOWN: Mapping[str, Callable[[Any], RenderableType]] = {
    "closed": _closed,
    "batches": _batches,
    "bytes": _bytes,
    "proofs": _proofs,
    "bulk": _bulk,
    "growth": _growth,
}


def _context(rows: Sequence[Figures]) -> Table:
    table = _table(
        "what others report of themselves (other machines, other entries)",
        ("", "entries/s", "answer, ms", "integrated, ms", "source"),
    )
    for row in rows:
        table.add_row(
            row["system"],
            f"{row['per_s']:,}",
            f"{row['answer_ms']:,}",
            f"{row['integrated_ms']:,}",
            row["source"],
        )
    return table


def _aims(rows: Sequence[Figures]) -> Table:
    table = _table("aims", ("", "seen", "aim"))
    for row in rows:
        if row["met"] is not None:
            table.add_row(row["aim"], f"{row['value']:,.2f}", _limit(row) + mark(row["met"]))
    return table


def _limit(row: Figures) -> str:
    signs = {"at_least": "≥", "at_most": "≤", "below": "<"}
    return next(f"{sign} {row[name]:,}" for name, sign in signs.items() if name in row)


def _latencies(row: Figures) -> list[str]:
    return [figure(row[name], ",.2f") for name in ("p50_ms", "p99_ms", "max_ms")]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table
