"""`python -m benchmarks.stack`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.stack.figures import AIMS, figures
from benchmarks.stack.models import MODELS
from benchmarks.stack.rounds import FULL, QUICK, Size, measure
from benchmarks.stack.table import render

CHOICES = {"shipped": ("shipped",), "wide": ("wide",), "both": ("shipped", "wide")}


@click.command()
@click.option("--model", type=click.Choice(list(CHOICES)), default="both", show_default=True)
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="How often each side runs.  [default: 3]"
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="A tiny model and a few prompts: does it run at all?")
def main(*, model: str, rounds: int | None, json_file: Path | None, quick: bool) -> None:
    """Measure the full stack against the bare engine, alternately, on the same prompts."""
    names = ("tiny",) if quick else CHOICES[model]
    size = (QUICK if quick else FULL).with_rounds(rounds)
    found = asyncio.run(run(names, size, Console(stderr=True)))
    Console().print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not all(item["same_tokens"] for item in found["models"]):
        sys.exit("the two sides did not produce the same tokens: nothing above means anything")


async def run(names: tuple[str, ...], size: Size, console: Console) -> dict[str, Any]:
    """Measure each model in turn; return what `--json` writes."""
    about = machine()
    models: list[dict[str, Any]] = []
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for name in names:
            task = progress.add_task(name, total=size.requests)

            def tick(what: str, done: int, task: Any = task, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}", advance=done)

            facts, rounds = await measure(MODELS[name], size, tick)
            tick("done", 0)
            models.append({"name": name} | facts | figures(rounds))
    return {
        "benchmark": "stack",
        "version": 1,
        "machine": about,
        "settings": size.to_json(),
        "aims": AIMS,
        "models": models,
    }


if __name__ == "__main__":
    main()
