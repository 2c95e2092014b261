"""The figures for a person. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, head, mark

COLUMNS: Final = (
    "S",
    "L ms",
    "seqs",
    "N",
    "tok/s",
    "×formula",
    "×0 ms",
    "N found",
    "tok/s",
    "busy",
    "N=1",
    "token ms",
    "first ms",
    "paused",
)
ACCOUNTABLE_COLUMNS: Final = (
    "kind",
    "L ms",
    "seqs",
    "N found",
    "plain",
    "accountable",
    "ratio",
    "plain bytes",
    "acc. bytes",
    "plain hop ms",
    "acc. hop ms",
    "busy",
)
HOP_MS, CONNECTED_S = 2.0, 2.0
"""Aims."""
LEGEND: Final = (
    "S stages, a round trip of L to each, sequences at once, N steps under way: tokens/s, as a part of the formula's and of the"
    " same chain's without a round trip; the number that the head finds by itself, tokens/s with it, and what part of the time the"
    " least and the most busy stage computes then; tokens/s with one step under way; medians of the times; the longest ms without"
    " a token after a break"
)


def render(found: Figures) -> RenderableType:
    """Return a table for each kind of stage, under a line about the machine."""
    kinds = list(dict.fromkeys(row["kind"] for row in found["rows"]))
    tables = (_table(kind, found["rows"]) for kind in kinds)
    network = [_compared(found["compared"])] if found["compared"] else []
    failures = [_failed(row) for row in found["failed"]]
    return Group(head(found["machine"]), LEGEND, *tables, *network, *failures)


def at_rest(row: Mapping[str, Any], rows: list[Mapping[str, Any]], how: str) -> float | None:
    """Return a row's tokens/s as a part of those of the same chain without a round trip."""
    same = ("kind", "stages", "sequences")
    for other in rows:
        if other["trip_ms"] == 0 and all(other[name] == row[name] for name in same):
            return float(row[how]["tokens_per_s"] / other[how]["tokens_per_s"])
    return None


def _table(kind: str, rows: list[Mapping[str, Any]]) -> Table:
    own = [row for row in rows if row["kind"] == kind]
    cost = own[0]["cost"]
    what = (
        "`wide`, computed in threads of one machine"
        if kind == "computed"
        else f"modelled: a step of R rows takes a stage {cost['fixed_s'] * 1000:g} + R · {cost['row_s'] * 1000:g} ms"
    )
    table = Table(title=f"{kind} ({what})", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in own:
        formula, flown, single = row["formula_tokens_per_s"], row["under_way"], row["one_step"]
        table.add_row(
            str(row["stages"]),
            str(row["trip_ms"]),
            str(row["sequences"]),
            str(row["depth"]),
            f"{flown['tokens_per_s']:.1f}",
            _ratio(flown["tokens_per_s"] / formula if formula else None),
            _ratio(at_rest(row, rows, "under_way")),
            str(row["measured"]["depth"]),
            f"{row['measured']['tokens_per_s']:.1f}",
            _busy(row["measured"]),
            f"{single['tokens_per_s']:.1f}",
            f"{flown['token_s'] * 1000:.0f}",
            f"{flown['first_s'] * 1000:.0f}",
            "" if row["broken"] is None else f"{row['broken']['resumed_s'] * 1000:.0f}",
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _busy(run: Mapping[str, Any]) -> str:
    return f"{min(run['busy']):.2f} to {max(run['busy']):.2f}" if run["busy"] else ""


def _compared(rows: list[Mapping[str, Any]]) -> Table:
    title = "over TLS, modelled stages in processes of their own: states whole (plain) and sealed (accountable), with N as found"
    table = Table(title=title, title_justify="left")
    for name in ACCOUNTABLE_COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        plain, sealed, hop = row["plain"], row["accountable"], row["hop_ms"]
        most = 4 * row["width"] + 100
        table.add_row(
            row["kind"],
            str(row["trip_ms"]),
            str(row["sequences"]),
            f"{plain['depth']}, {sealed['depth']}",
            f"{plain['tokens_per_s']:.1f}",
            f"{sealed['tokens_per_s']:.1f}",
            _ratio(row["ratio"]),
            f"{row['bytes_plain']}",
            f"{row['bytes']:.0f} of {most}{mark(row['bytes'] <= most)}",
            f"{hop['plain']:.1f}" if hop else "",
            f"{hop['accountable']:.1f}{mark(hop['accountable'] <= HOP_MS)}" if hop else "",
            _busy(sealed),
        )
    return table


def _failed(row: Mapping[str, Any]) -> Table:
    title = (
        f"failures: {row['stages']} stages, {row['trip_ms']} ms, {row['sequences']} sequences of {row['prompt']}"
        " tokens and more"
    )
    table = Table(title=title, title_justify="left")
    for name in ("what", "connected again, ms", "first token, ms"):
        table.add_column(name, justify="right")
    for name in ("cut", "cut, accountable", "killed, spare"):
        connected = row[name]["connected_s"]
        table.add_row(
            name,
            f"{1000 * connected:.0f}{mark(connected < CONNECTED_S)}",
            f"{1000 * row[name]['resumed_s']:.0f}",
        )
    return table
