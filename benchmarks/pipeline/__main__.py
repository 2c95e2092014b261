"""`python -m benchmarks.pipeline`."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.machine import machine
from benchmarks.pipeline.chain import Chain, computed, modelled, serve
from benchmarks.pipeline.networked import ROUNDS, Link, compared, failed
from benchmarks.pipeline.table import render
from execution_layer.pipeline.depth import Cost, Depth, best_depth

STAGES: Final = (1, 2, 4)
TRIPS_MS: Final = (0, 25, 50, 100, 200)
SEQUENCES: Final = (1, 64)
BROKEN_MS: Final = frozenset({25, 100})
"""Chains with these round trips are broken once, too."""
SLOW: Final = Cost(0.002, 0.004)
"""A stage that takes 2 ms for a step and 4 ms for each of its rows, as a small machine with a large model's layers does."""
BATCHED: Final = Cost(0.020, 0.0002)
"""One that mostly reads its weights: a step takes it 20 ms, and a row hardly anything."""
ENDS: Final = Cost(0.0015, 0.0004)
"""What embedding, head and sampling take in the process that has them, roughly."""
NETWORK: Final = "network"
LINKS: Final = (
    Link("slow rows", SLOW, 100),
    Link("slow rows", SLOW, 0),
    Link("slow steps", BATCHED, 100),
)
Job = tuple[str, str, Callable[[], list[dict[str, Any]]]]
"""A name, where what is found goes, and what finds it."""
GUESS: Final = Cost(0.001, 0.0004)
"""What `wide`'s layers take together, roughly: it only decides how many steps are under way."""


@dataclass(frozen=True, slots=True)
class Case:
    """One chain and what it serves."""

    kind: str
    stages: int
    trip_ms: int
    sequences: int
    cost: Cost
    tokens: int

    @property
    def hop_s(self) -> float:
        """Half a round trip."""
        return self.trip_ms / 2000

    def depth(self) -> Depth:
        """Return how many steps are kept under way, and what comes of that by the formula."""
        hops = self.stages if self.stages > 1 else 0
        costs = [self.cost] * self.stages + [ENDS]
        return best_depth(self.sequences, costs, hops * self.hop_s)


def cases(*, quick: bool) -> Iterator[Case]:
    """Yield them; one stage has no hops."""
    if quick:
        yield Case("slow rows", 2, 25, 4, SLOW, 4)
        return
    for kind, cost in (("slow rows", SLOW), ("slow steps", BATCHED)):
        for stages in STAGES:
            for trip_ms in TRIPS_MS if stages > 1 else (0,):
                for sequences in SEQUENCES:
                    yield Case(kind, stages, trip_ms, sequences, cost, 8)
    for stages in STAGES[:2]:
        for trip_ms in (0, 100) if stages > 1 else (0,):
            each = Cost(GUESS.fixed_s / stages, GUESS.row_s / stages)
            yield Case("computed", stages, trip_ms, 64, each, 8)


def measure(case: Case) -> dict[str, Any]:
    """Serve under the best number of steps under way, as many as the head measures, one, and with a chain that breaks."""
    stages = computed(case.stages) if case.kind == "computed" else modelled(case.stages, case.cost)

    def run(depth: int | None, *, breaks: bool = False) -> dict[str, Any]:
        chain = Chain(stages, case.hop_s, depth)
        return asdict(asyncio.run(serve(chain, case.sequences, case.tokens, breaks=breaks)))

    best, known = case.depth(), case.kind != "computed"
    return {
        **asdict(case),
        "depth": best.steps,
        "formula_tokens_per_s": case.sequences / best.round_s if known else None,
        "under_way": run(best.steps),
        "measured": run(None),
        "one_step": run(1),
        "broken": run(best.steps, breaks=True) if case.trip_ms in BROKEN_MS else None,
    }


def jobs(kind: str | None, *, quick: bool) -> Iterator[Job]:
    """Yield what is to be measured."""
    for case in cases(quick=quick):
        if kind in {None, case.kind}:
            name = f"{case.kind}, {case.stages} stages, {case.trip_ms} ms, {case.sequences}"
            yield name, "rows", partial(_measured, case)
    if kind != NETWORK and (kind is not None or quick):
        return
    links = [Link("slow rows", SLOW, 5)] if quick else LINKS
    for link in links:
        name = f"network, {link.kind}, {link.trip_ms} ms"
        tokens, rounds = (3, 1) if quick else (8, ROUNDS)
        yield name, "compared", partial(compared, link, tokens, rounds)
    if not quick:
        yield "network, failures", "failed", lambda: [failed(LINKS[0])]


def _measured(case: Case) -> list[dict[str, Any]]:
    return [measure(case)]


@click.command()
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--kind", help="Only these: slow rows, slow steps, computed or network.")
@click.option("--quick", is_flag=True, help="One small chain: does it run at all?")
def main(*, json_file: Path | None, kind: str | None, quick: bool) -> None:
    """Measure chains of stages by cut and round trip, with as many steps under way as fill them and with one; over a network
    also accountable ones, and what a failure costs.
    """
    about = machine()
    wanted = list(jobs(kind, quick=quick))
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    found: dict[str, Any] = {"benchmark": "pipeline", "version": 2, "machine": about}
    found |= {"rows": [], "compared": [], "failed": []}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(wanted))
        for name, where, job in wanted:
            progress.update(task, description=name)
            found[where] += job()
            progress.advance(task)
    Console().print(render(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("execution_layer").setLevel(logging.ERROR)  # chains are broken on purpose
    main()
