"""`python -m benchmarks.incentives`."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks.common.machine import machine
from benchmarks.incentives.figures import dominant, profitable, year
from benchmarks.incentives.plot import plot
from benchmarks.incentives.scenario import FULL, QUICK, Size, setting
from benchmarks.incentives.table import render

FILE: Final = click.Path(dir_okay=False, path_type=Path)
WEAKER: Final = (2.0, 3.0, 5.0, 10.0)
"""By what the policy's rates are divided to see what happens then. With the last, every strategy must pay."""
WIDTH: Final = 150


@click.command()
@click.option("--parties", type=click.IntRange(200, 1_000_000), help="[default: 10000]")
@click.option("--epochs", type=click.IntRange(30, 10_000), help="Days.  [default: 365]")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--divide",
    type=click.FloatRange(1, 1000),
    default=1.0,
    show_default=True,
    help="Judge the policy with its rates, planted errors and bonds divided by this.",
)
@click.option("--json", "json_file", type=FILE)
@click.option("--plot", "plot_file", type=FILE, help="Profits and detection, in SVG.")
@click.option("--quick", is_flag=True, help="Fewer parties.")
def main(
    *,
    parties: int | None,
    epochs: int | None,
    seed: int,
    divide: float,
    json_file: Path | None,
    plot_file: Path | None,
    quick: bool,
) -> None:
    """Simulate a year of honest and dishonest parties under the computed policy, and under weaker ones.

    Exit code 1 unless every dishonest strategy earns less than honesty under the policy, and more at a tenth of its rates: a
    simulation in which nothing ever pays shows nothing.
    """
    base = QUICK if quick else FULL
    size = Size(parties or base.parties, epochs or base.epochs)
    about, begun = machine(), time.perf_counter()
    divisors = [divide, *(each for each in WEAKER if each > divide)]
    runs = []
    with Progress(console=Console(stderr=True), transient=True) as shown:
        for divisor in divisors:
            task = shown.add_task(f"rates divided by {divisor:g}", total=size.epochs)
            runs.append(year(setting(divisor), size, seed, partial(_show, shown, task)))
    found: dict[str, Any] = {
        "benchmark": "incentives",
        "version": 1,
        "parties": size.parties,
        "epochs": size.epochs,
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 1),
        "runs": runs,
        "machine": about,
    }
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot_file.write_text(plot(runs[0], runs[-1]), encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(render(runs))
    wrong = complaints(runs)
    for each in wrong:
        click.echo(each, err=True)
    if wrong:
        sys.exit(1)


def _show(shown: Progress, task: TaskID, done: int) -> None:
    shown.update(task, completed=done)


def complaints(runs: list[dict[str, Any]]) -> list[str]:
    """Return in words what does not come out as it must."""
    first, last = runs[0], runs[-1]
    said = []
    if not dominant(first):
        others = [name for name, verdict in first["verdict"].items() if verdict != "less"]
        said.append(f"Honesty is not dominant: {', '.join(others)}.")
    if last is not first and not profitable(last):
        others = [name for name, verdict in last["verdict"].items() if verdict != "more"]
        said.append(f"Nothing is shown about what does not pay at weak rates: {', '.join(others)}.")
    return said


if __name__ == "__main__":
    main()
