"""`python -m benchmarks.arithmetic`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.arithmetic.figures import FULL, QUICK, figures
from benchmarks.common.machine import machine
from benchmarks.common.table import figure, head


@click.command()
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="Tiny sizes: does it run at all?")
def main(*, threads: int, json_file: Path | None, quick: bool) -> None:
    """Measure every arithmetic by every set of instructions that this processor has, side by side."""
    about = machine()
    found = {**figures(QUICK if quick else FULL, threads), "machine": about}
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    console = Console()
    console.print(head(about))
    console.print(table("Products", found["products"], "rows"))
    console.print(table("A pass over a prompt", found["pass"], "tokens"))


def table(title: str, rows: list[dict[str, Any]], of: str) -> Table:
    """Return a table; ratios are medians with their lowest and highest round."""
    found = Table(title=title)
    for column in (
        of,
        "arithmetic",
        "instructions",
        "ms",
        "GFLOP/s",
        "× chain-1",
        "× chain-1 by the same",
    ):
        found.add_column(
            column, justify="left" if column in ("arithmetic", "instructions") else "right"
        )
    for row in rows:
        found.add_row(
            str(row[of]),
            row["arithmetic"],
            row["instructions"],
            f"{row['ms']['median']:.2f}",
            str(row.get("gigaflops", "")),
            figure(row["times_chain_1"], ".2f"),
            figure(row["times_chain_1_alike"], ".2f"),
        )
    return found


if __name__ == "__main__":
    main()
