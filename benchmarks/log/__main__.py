"""`python -m benchmarks.log`."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.log.figures import CONTEXT, aims
from benchmarks.log.growth import run_growth
from benchmarks.log.load import RECEIPTS, Loads, loads
from benchmarks.log.platform import Platform, Store, platform, postgres
from benchmarks.log.plot import plot
from benchmarks.log.rounds import run_batches, run_bulk, run_bytes, run_closed, run_proofs
from benchmarks.log.size import FULL, QUICK, WORKLOADS, Size, Tick
from benchmarks.log.statements import Source, new_seed
from benchmarks.log.table import render

FILE = click.Path(dir_okay=False, path_type=Path)
WIDTH = 132
"""Columns when there is no terminal to ask."""
SERIES = ("log", "trail")
"""Growth of entries alone, and with the trail's rows."""
SERVED = frozenset({"closed", "batches", "proofs", "bytes"})
"""Workloads that need the audit server."""


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = set(value.split(",")) if value else set(WORKLOADS)
    if unknown := names - set(WORKLOADS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(WORKLOADS)}")
    return tuple(name for name in WORKLOADS if name in names)


@click.command()
@click.option(
    "--only", "workloads", callback=_names, help=f"Of {','.join(WORKLOADS)}; all by default."
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="How often each side runs.  [default: 3]"
)
@click.option("--full", is_flag=True, help="Logs grow ten times further.")
@click.option("--quick", is_flag=True, help="A few statements: does it run at all?")
@click.option("--json", "json_file", type=FILE)
@click.option("--plot", "plot_file", type=FILE, help="Bars in SVG.")
@click.option("--profile", type=FILE, help="Sample the server's threads; makes it slower.")
def main(
    *,
    workloads: tuple[str, ...],
    rounds: int | None,
    full: bool,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
    profile: Path | None,
) -> None:
    """Measure the log on a Postgres that syncs every commit."""
    size = (QUICK if quick else FULL).with_rounds(rounds)
    if full:
        size = size.further()

    def keep(found: Mapping[str, Any]) -> None:
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    with _folder() as folder, _progress(Console(stderr=True)) as tick:
        settings = Settings(workloads, size, folder, profile and profile.absolute())
        found = asyncio.run(run(settings, tick, keep))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(render(found))
    if plot_file is not None:
        plot_file.write_text(plot(found), encoding="utf-8")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The plan of one run."""

    workloads: Sequence[str]
    size: Size
    folder: Path
    profile: Path | None = None


async def run(
    settings: Settings, tick: Tick, keep: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Run workloads one after another; return what `--json` writes, and pass it to `keep` as it grows."""
    seed, size = new_seed(), settings.size
    sources = [Source(seed, place) for place in range(size.connections)]
    found: dict[str, Any] = {
        "benchmark": "log",
        "version": 1,
        "machine": machine(),
        "settings": dataclasses.asdict(size),
        "receipts": RECEIPTS,
        "context": CONTEXT,
    }

    def told(name: str, figures: Any) -> None:
        found[name] = figures
        found["aims"] = aims(found)
        keep(found)

    tick("starting Postgres", 0)
    with postgres(settings.folder / "served") as store:
        found["postgres"] = store.settings()
        if SERVED & set(settings.workloads):
            tick("starting witness and audit server", 0)
            async with _served(store, sources, settings) as (served, loading):
                for name in filter(SERVED.__contains__, settings.workloads):
                    told(name, await _measure(name, served, loading, size, tick))
        if "bulk" in settings.workloads:
            told("bulk", await run_bulk(store, size, Source(seed, size.connections), tick))
    if "growth" in settings.workloads:
        series: dict[str, Any] = {}
        for name, goals in zip(SERIES, (size.growth, size.growth_trail), strict=True):
            tick("starting Postgres and witness", 0)
            folder = settings.folder / name
            with postgres(folder) as store:
                async with platform(folder, store, sources[0].parties()) as grown:
                    series[name] = await run_growth(
                        grown,
                        Source(seed, size.connections),
                        goals,
                        size,
                        tick,
                        trail=name == "trail",
                    )
            told("growth", series)
    return found


async def _measure(name: str, served: Platform, loading: Loads, size: Size, tick: Tick) -> Any:
    match name:
        case "closed":
            return await run_closed(served, loading, size, tick)
        case "batches":
            return await run_batches(loading, size, tick)
        case "bytes":
            return await run_bytes(served, loading, size, tick)
        case _:
            return await run_proofs(served, loading, size, new_seed(), tick)


@contextlib.asynccontextmanager
async def _served(
    store: Store, sources: Sequence[Source], settings: Settings
) -> AsyncIterator[tuple[Platform, Loads]]:
    """Run witness, audit server and load processes."""
    parties = [party for source in sources for party in source.parties()]
    async with platform(settings.folder / "served", store, parties) as made:
        addresses = await made.serve(settings.profile)
        async with loads(addresses, made.ca, sources) as loading:
            yield made, loading


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Return a folder that the database's own user can traverse: otherwise its data would go, and stay, elsewhere."""
    with tempfile.TemporaryDirectory(prefix="cf-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        for part in ("served", *SERIES):
            (folder / part).mkdir(mode=0o711)
        yield folder


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Tick]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting Postgres", total=None)

        def tick(what: str, done: int) -> None:
            progress.update(task, description=what, advance=done)

        yield tick


if __name__ == "__main__":
    main()
