"""`python -m benchmarks.envelope`."""

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.envelope.figures import FULL, QUICK, measure
from benchmarks.envelope.table import render


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), help="How many.  [default: 5]")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="One shape, twice: does it run at all?")
def main(*, rounds: int | None, json_file: Path | None, quick: bool) -> None:
    """Measure what sealing, opening, framing and verifying take, and the bytes that they add."""
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
    found = {
        "benchmark": "envelope",
        "version": 1,
        "machine": about,
        "settings": {"rounds": size.rounds, "repetitions": size.repetitions},
        "shapes": shapes,
    }
    Console().print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
