"""The figures for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from benchmarks.incentives.scenario import BASELINE, CAPACITIES, Strategy

COLOURS = {"less": "green", "more": "red", "unclear": "yellow"}


def render(runs: Sequence[Mapping[str, Any]]) -> Group:
    """Return tables: the first run in full, what strategies earn in all of them, and what was wrongly slashed."""
    return Group(_policy(runs[0]), _first(runs[0]), _all(runs), _honest(runs))


def _policy(run: Mapping[str, Any]) -> Table:
    policy = run["policy"]
    table = Table(title=f"policy, divided by {run['divided']:g}", title_justify="left")
    for name in ("capacity", "unsettled", "stake, EUR", "bond, EUR"):
        table.add_column(name, justify="right")
    rows = zip(CAPACITIES, policy["unsettled"], policy["stakes"], policy["bonds"], strict=True)
    for capacity, unsettled, stake, bond in rows:
        table.add_row(str(capacity), f"{unsettled:,}", f"{stake:.2f}", f"{bond:.3f}")
    rates = policy["rates"]
    table.caption = (
        f"audited: good nodes {rates['good']:.4%}, new ones {rates['new']:.4%}; "
        f"errors planted in {policy['planted_ppm'] / 10_000:.3f} % of {run['audits']:,} audits"
    )
    return table


def _first(run: Mapping[str, Any]) -> Table:
    title = f"divided by {run['divided']:g}; EUR per party, means"
    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for name in (
        "parties",
        "profit",
        "against honesty",
        "found",
        "after epochs",
        "cheats",
        "paid for cheats",
        "covered",
    ):
        table.add_column(name, justify="right")
    for name, row in run["strategies"].items():
        told = [f"{row['parties']:,}", f"{row['profit']:.2f}", interval(row["advantage"])]
        if "found" in row:
            middle = row["epochs_until_found"]
            told += [
                f"{row['found']:.1%}",
                "over half never" if middle is None else f"{middle:g}",
                f"{row['cheats']:,.0f}",
                f"{row['paid_for_cheats']:.2f}",
                f"{row['covered']:.2f}",
            ]
        table.add_row(Strategy(name).value, *told)
    return table


def _all(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="against honesty, EUR per party", title_justify="left")
    table.add_column("divided by")
    for run in runs:
        table.add_column(f"{run['divided']:g}", justify="right")
    for name in (Strategy.HONEST, *BASELINE):
        cells = []
        for run in runs:
            said = run["verdict"].get(name.value, "")
            shown = f"{run['strategies'][name]['advantage']['mean']:+.2f}"
            cells.append(f"[{COLOURS[said]}]{shown} {said}[/]" if said else shown)
        table.add_row(name.value, *cells)
    return table


def _honest(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="honest nodes slashed", title_justify="left")
    for name in ("divided by", "nodes", "slashed", "of them framed", "lost, EUR"):
        table.add_column(name, justify="right")
    for run in runs:
        honest = run["honest"]
        counted = (f"{honest[name]:,}" for name in ("nodes", "slashed", "framed"))
        table.add_row(f"{run['divided']:g}", *counted, f"{honest['lost']:,.2f}")
    return table


def interval(value: Mapping[str, float]) -> str:
    """Return a mean with its 95 % interval."""
    return f"{value['mean']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"
