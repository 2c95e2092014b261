"""The figures for a person. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, head

COLUMNS: Final = (
    "S",
    "L ms",
    "seqs",
    "N",
    "tok/s",
    "×formula",
    "×0 ms",
    "N=1",
    "token ms",
    "first ms",
    "paused",
)
LEGEND: Final = (
    "S stages, a round trip of L to each, sequences at once, N steps under way: tokens/s, as a part of the formula's and of the"
    " same chain's without a round trip; tokens/s with one step under way; medians of the times; the longest ms without a"
    " token after a break"
)


def render(found: Figures) -> RenderableType:
    """Return a table for each kind of stage, under a line about the machine."""
    kinds = list(dict.fromkeys(row["kind"] for row in found["rows"]))
    tables = (_table(kind, found["rows"]) for kind in kinds)
    return Group(head(found["machine"]), LEGEND, *tables)


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
            f"{single['tokens_per_s']:.1f}",
            f"{flown['token_s'] * 1000:.0f}",
            f"{flown['first_s'] * 1000:.0f}",
            "" if row["broken"] is None else f"{row['broken']['resumed_s'] * 1000:.0f}",
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
