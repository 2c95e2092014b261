"""`python -m benchmarks.leak`."""

import asyncio
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.detection.statistics import interval
from benchmarks.leak.attackers import attack
from benchmarks.leak.serving import WAYS, Load, Seen, Way, cost, serve
from benchmarks.leak.table import render

FULL: Final = Load(prompts=50, repetitions=12, tokens=48, pace_ms=15.0, clients=12)
QUICK: Final = Load(prompts=3, repetitions=4, tokens=6, pace_ms=2.0, clients=3)
ANSWERS: Final = {"greedy": "0", "sampled": "1"}
"""What an answer is called, and its temperature."""


@click.command()
@click.option("--way", "ways", multiple=True, type=click.Choice([way.name for way in WAYS]))
@click.option("--repetitions", type=click.IntRange(4, 1000), help="Answers to each prompt. [12]")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="Three prompts, four answers: does it run at all?")
def main(
    *, ways: tuple[str, ...], repetitions: int | None, json_file: Path | None, quick: bool
) -> None:
    """Measure how often an observer of the network names one of the prompts that it expects, from the sizes and times of TLS
    records on a relay between client and node.
    """
    load = QUICK if quick else FULL
    if repetitions is not None:
        load = Load(**asdict(load) | {"repetitions": repetitions})
    chosen = [way for way in WAYS if not ways or way.name in ways]
    about = machine()
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    rows: list[dict[str, Any]] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        each = load.prompts * load.repetitions
        task = progress.add_task("", total=each * len(chosen) * len(ANSWERS))
        for answers, temperature in ANSWERS.items():
            for way in chosen:
                progress.update(task, description=f"{answers}, {way.name}")
                with tempfile.TemporaryDirectory() as folder:
                    served = serve(
                        way, temperature, load, Path(folder), lambda: progress.advance(task)
                    )
                    rows.append(_row(answers, way, asyncio.run(served)))
    found = {
        "benchmark": "leak",
        "version": 1,
        "machine": about,
        "settings": asdict(load),
        "chance": 1 / load.prompts,
        "rows": rows,
    }
    Console().print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _row(answers: str, way: Way, seen: list[Seen]) -> dict[str, Any]:
    found = attack([one.exchanges for one in seen])
    low, high = interval(found.right, found.tried)
    return {
        "answers": answers,
        "way": way.name,
        **asdict(found),
        "low": round(low, 4),
        "high": round(high, 4),
        "cost": cost(seen),
    }


if __name__ == "__main__":
    main()
