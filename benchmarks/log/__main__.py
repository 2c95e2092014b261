"""`python -m benchmarks.log`."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.log.figures import aims
from benchmarks.log.load import Loads, loads
from benchmarks.log.platform import Platform, Store, platform, postgres
from benchmarks.log.rounds import Tick, run_batches, run_bulk
from benchmarks.log.size import FULL, QUICK, WORKLOADS, Size
from benchmarks.log.statements import Source, new_seed
from benchmarks.log.table import render

FILE = click.Path(dir_okay=False, path_type=Path)
WIDTH = 132
"""Columns where no terminal says how many it has."""
SERVED = frozenset({"closed", "batches", "proofs", "bytes"})
"""Workloads that need the audit server."""


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(value.split(",")) if value else WORKLOADS
    if unknown := set(names) - set(WORKLOADS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(WORKLOADS)}")
    return names


@click.command()
@click.option(
    "--only", "workloads", callback=_names, help=f"Of {','.join(WORKLOADS)}; all by default."
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="How often each side runs.  [default: 3]"
)
@click.option("--json", "json_file", type=FILE)
@click.option("--profile", type=FILE, help="Sample the server's threads; makes it slower.")
@click.option("--quick", is_flag=True, help="A few statements: does it run at all?")
def main(
    *,
    workloads: tuple[str, ...],
    rounds: int | None,
    json_file: Path | None,
    profile: Path | None,
    quick: bool,
) -> None:
    """Measure the log on a Postgres that syncs every commit."""
    size = (QUICK if quick else FULL).with_rounds(rounds)
    with tempfile.TemporaryDirectory(prefix="cf-bench-") as folder:
        found = asyncio.run(
            run(workloads, size, Path(folder), Console(stderr=True), profile and profile.absolute())
        )
    Console(width=None if sys.stdout.isatty() else WIDTH).print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


async def run(
    workloads: Sequence[str], size: Size, folder: Path, console: Console, profile: Path | None
) -> dict[str, Any]:
    """Run workloads one after another; return what `--json` writes."""
    found: dict[str, Any] = {
        "benchmark": "log",
        "version": 1,
        "machine": machine(),
        "settings": dataclasses.asdict(size),
    }
    with _progress(console) as tick, postgres(folder) as store:
        found["postgres"] = store.settings()
        seed = new_seed()
        if SERVED & set(workloads):
            sources = [Source(seed, place) for place in range(size.connections)]
            tick("starting witness and audit server", 0)
            async with _served(folder, store, sources, profile) as (_platform, loading):
                if "batches" in workloads:
                    found["batches"] = await run_batches(loading, size, tick)
        if "bulk" in workloads:
            found["bulk"] = await run_bulk(store, size, Source(seed, size.connections), tick)
    found["aims"] = aims(found)
    return found


@contextlib.asynccontextmanager
async def _served(
    folder: Path, store: Store, sources: Sequence[Source], profile: Path | None
) -> AsyncIterator[tuple[Platform, Loads]]:
    parties = [party for source in sources for party in source.parties()]
    async with platform(folder, store, parties) as made:
        addresses = await made.serve(profile)
        async with loads(addresses, made.ca, sources) as loading:
            yield made, loading


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
