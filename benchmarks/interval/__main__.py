"""`python -m benchmarks.interval`."""

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import machine
from benchmarks.interval.figures import figures

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
QUICK: Final = (1_000,)
WIDTH: Final = 140


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=11, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="The smallest invoice only.")
def main(*, rounds: int, json_file: Path | None, quick: bool) -> None:
    """Show the interval's limits, in percent of the invoice, by number of receipts and audit rate."""
    about = machine()
    found = {**figures(QUICK if quick else SIZES, rounds), "machine": about}
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(width=WIDTH).print(render(found))


def render(found: dict[str, Any]) -> Table:
    """Return the medians over rounds as a table."""
    table = Table(title=f"limits at {float(found['confidence']):.0%}, percent of the invoice")
    for name in (
        "receipts",
        "drawn",
        "overbilled",
        "against strategies",
        "fixed beforehand",
        "covered",
    ):
        table.add_column(name, justify="right")
    for row in found["rows"]:
        sides = [row["adaptive"], row["fixed"]]
        table.add_row(
            f"{row['size']:,}",
            f"{row['rate_ppm'] / 1e6:.0%}",
            f"{row['overbilled']['median']:.2f} %",
            *(f"{one['low']['median']:.2f} to {one['high']['median']:.2f} %" for one in sides),
            ", ".join(f"{one['covered']} of {one['of']}" for one in sides),
        )
    seconds = found["one_by_one"]["seconds"]
    table.caption = (
        f"{found['one_by_one']['receipts']:,} receipts one by one take "
        f"{seconds['adaptive']} s and {seconds['fixed']} s"
    )
    return table


if __name__ == "__main__":
    main()
