"""`python -m benchmarks.envelope`."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.envelope.disclosure import INTERVALS_MS
from benchmarks.envelope.disclosure import measure as measure_disclosures
from benchmarks.envelope.figures import FULL, QUICK, measure
from benchmarks.envelope.table import render


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), help="How many.  [default: 5]")
@click.option(
    "--disclosures",
    type=click.IntRange(0, 80),
    default=0,
    help="Run a whole platform as well, and measure this many disclosures in it.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="One shape, twice: does it run at all?")
def main(*, rounds: int | None, disclosures: int, json_file: Path | None, quick: bool) -> None:
    """Measure what sealing, opening, framing, verifying and disclosing take, and the bytes that they add."""
    size = QUICK if quick else FULL
    size = replace(size, rounds=rounds or size.rounds)
    about = machine()
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=size.rounds * len(size.shapes))
        shapes = measure(size, lambda name: progress.update(task, description=name, advance=1))
    found: dict[str, Any] = {
        "benchmark": "envelope",
        "version": 1,
        "machine": about,
        "settings": {"rounds": size.rounds, "repetitions": size.repetitions},
        "shapes": shapes,
    }
    if disclosures:
        console = Console(stderr=True)
        found["disclosures"] = [
            asyncio.run(measure_disclosures(disclosures, interval, console))
            for interval in INTERVALS_MS
        ]
    Console().print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
