"""`python -m benchmarks.engine`."""

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.engine.bounds import bounds
from benchmarks.engine.figures import SIDES, figures
from benchmarks.engine.models import NAMES, make
from benchmarks.engine.plot import plot
from benchmarks.engine.processes import DEFAULT_VLLM, commands
from benchmarks.engine.rounds import measure
from benchmarks.engine.soak import POINTS, soak
from benchmarks.engine.table import render
from benchmarks.engine.workloads import FULL, QUICK, WORKLOADS, Size

MEASURED = ("shipped", "wide", "qwen06")
WIDTH = 132
"""Columns when there is no terminal to ask."""
FILE = click.Path(dir_okay=False, path_type=Path)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The plan of one run."""

    models: Sequence[str]
    sides: Sequence[str]
    workloads: Sequence[str]
    size: Size
    threads: int
    vllm_python: Path | None
    requests: int


@click.command()
@click.option("--model", multiple=True, type=click.Choice(NAMES), help="Of three, all by default.")
@click.option("--side", multiple=True, type=click.Choice(SIDES), help="All by default.")
@click.option("--workload", multiple=True, type=click.Choice(WORKLOADS), help="All by default.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="How often each side runs.  [default: 3]"
)
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True)
@click.option(
    "--vllm-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The interpreter of vLLM's environment.  [default: {DEFAULT_VLLM} where it exists]",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps models and logs.  [default: a temporary folder]",
)
@click.option(
    "--soak", "requests", type=click.IntRange(2 * POINTS), help="Only this many requests to ours."
)
@click.option("--json", "json_file", type=FILE)
@click.option("--plot", "plot_file", type=FILE, help="Bars in SVG.")
@click.option("--quick", is_flag=True, help="A tiny model and a few tokens: does it run at all?")
def main(
    *,
    model: tuple[str, ...],
    side: tuple[str, ...],
    workload: tuple[str, ...],
    rounds: int | None,
    threads: int,
    vllm_python: Path | None,
    work: Path | None,
    requests: int | None,
    json_file: Path | None,
    plot_file: Path | None,
    quick: bool,
) -> None:
    """Measure our engine against vLLM, transformers and itself without determinism, alternating."""
    settings = Settings(
        models=model or (("tiny",) if quick else ("shipped",) if requests else MEASURED),
        sides=side or SIDES,
        workloads=workload or WORKLOADS,
        size=(QUICK if quick else FULL).with_rounds(rounds),
        threads=threads,
        vllm_python=vllm_python,
        requests=requests or 0,
    )
    with _folder(work) as folder:
        for found in run(settings, folder, Console(stderr=True)):
            if (
                json_file is not None
            ):  # after each model, so that a long run that ends early leaves something
                json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(render(found))
    if plot_file is not None:
        plot_file.write_text(plot(found), encoding="utf-8")


def run(settings: Settings, work: Path, console: Console) -> Iterator[dict[str, Any]]:
    """Yield what `--json` writes, as it grows."""
    models: list[dict[str, Any]] = []
    found: dict[str, Any] = {
        "benchmark": "engine",
        "version": 1,
        "machine": machine(),
        "threads": settings.threads,
        "settings": dataclasses.asdict(settings.size),
        "bounds": bounds(settings.threads),
        "models": models,
        "soak": None,
    }
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    sides = commands(settings.sides, settings.vllm_python)
    passes = (settings.size.rounds + 1) * len(settings.workloads) * len(sides)
    with Progress(*columns, console=console) as progress:
        for name in settings.models:
            task = progress.add_task(name, total=settings.requests or passes)

            def tick(what: str, done: int, task: Any = task) -> None:
                progress.update(task, description=what, advance=done)

            if settings.requests:
                folder = make(name, work)
                found["soak"] = soak(
                    folder, settings.requests, settings.threads, lambda done: tick("soak", done)
                )
            else:
                measured = measure(
                    name,
                    sides,
                    settings.workloads,
                    settings.size,
                    threads=settings.threads,
                    work=work,
                    tick=tick,
                )
                models.append(figures(name, measured, found["bounds"]))
            tick(f"{name}: done", 0)
            yield found


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is None:
        with tempfile.TemporaryDirectory(prefix="counterfoil-bench-") as name:
            yield Path(name)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work


if __name__ == "__main__":
    main()
