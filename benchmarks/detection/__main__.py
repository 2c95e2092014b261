"""`python -m benchmarks.detection`."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from benchmarks.common.machine import machine
from benchmarks.detection import costs, honest, power, rare
from benchmarks.detection.plot import plot
from benchmarks.detection.table import render
from tests.adversaries.catalogue import ADVERSARIES

PARTS: Final = ("power", "rare", "costs", "honest")
WIDTH: Final = 180
"""Columns when there is no terminal to ask."""
FILE: Final = click.Path(dir_okay=False, path_type=Path)
SEEDS: Final = 2000
"""Simulated logs."""
TOKENS: Final = 1_000_000
FEW_SEEDS: Final = 20
FEW_TOKENS: Final = 100


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="All by default.")
@click.option(
    "--adversary",
    "names",
    multiple=True,
    type=click.Choice(list(ADVERSARIES)),
    help="All by default.",
)
@click.option(
    "--tokens", type=click.IntRange(1), help=f"Honest tokens to replay.  [default: {TOKENS}]"
)
@click.option("--state", type=FILE, help="Counts of honest tokens, which a later run continues.")
@click.option("--json", "json_file", type=FILE, help="Parts that are in it already are kept.")
@click.option("--plot", "plot_file", type=FILE, help="Who is found, in SVG.")
@click.option("--quick", is_flag=True, help="A few requests of each: does it run at all?")
def main(
    *,
    parts: tuple[str, ...],
    names: tuple[str, ...],
    tokens: int | None,
    state: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
    quick: bool,
) -> None:
    """Find dishonest nodes by this project's audits and by three published schemes, and count what that costs."""
    found = _before(json_file)
    work: dict[str, Callable[[Path], dict[str, Any]]] = {
        "power": lambda folder: power.figures(
            power.QUICK if quick else power.FULL, folder, names or tuple(ADVERSARIES), _progress()
        ),
        "rare": lambda _: rare.figures(found["parts"]["power"], FEW_SEEDS if quick else SEEDS),
        "costs": lambda folder: costs.figures(costs.QUICK if quick else costs.FULL, folder),
        "honest": lambda _: honest.run(
            tokens or (FEW_TOKENS if quick else TOKENS), state, 2 if quick else 48, _progress()
        ),
    }
    for name in _ordered(parts, found):
        about = machine()
        with tempfile.TemporaryDirectory(prefix="counterfoil-bench-") as folder:
            found["parts"][name] = {**work[name](Path(folder)), "machine": about}
        if json_file is not None:  # after each part, so that a long run that ends early leaves some
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(render(found))
    if plot_file is not None and "power" in found["parts"]:
        plot_file.write_text(plot(found["parts"]["power"]), encoding="utf-8")


def _before(file: Path | None) -> dict[str, Any]:
    """Return what the file holds, or nothing yet."""
    if file is not None and file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    return {"benchmark": "detection", "version": 1, "parts": {}}


def _ordered(parts: Sequence[str], found: dict[str, Any]) -> list[str]:
    """Return the parts to measure; `rare` takes its power from `power`, measured now or before."""
    chosen = [name for name in PARTS if not parts or name in parts]
    if "rare" in chosen and not {"power"} & {*chosen, *found["parts"]}:
        raise click.UsageError("`rare` needs `power`, in the same run or in --json")
    return chosen


def _progress() -> Callable[[str], None]:
    begun = time.monotonic()
    return lambda said: click.echo(f"{time.monotonic() - begun:7.0f} s  {said}", err=True)


if __name__ == "__main__":
    main()
