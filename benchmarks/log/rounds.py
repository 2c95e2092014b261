"""The order of events in each workload: sides in turn, in another order every round."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.log import bulk
from benchmarks.log.figures import latencies, rate, sides
from benchmarks.log.load import Kind, Loads, Submit, shared_out
from benchmarks.log.platform import Store
from benchmarks.log.size import Size
from benchmarks.log.statements import Source

Tick = Callable[[str, int], None]
"""Told (what goes on, steps done)."""
KINDS: tuple[Kind, Kind] = ("receipts", "singles")


async def run_bulk(store: Store, size: Size, source: Source, tick: Tick) -> list[dict[str, Any]]:
    """Append to fresh stores: bare entries, and admitted receipts with the trail's rows."""
    tick("bulk: signing and admitting", 0)
    items = {
        "bare": bulk.bare(source.seed, 0, size.bare),
        "with_trail": await asyncio.to_thread(bulk.admitted, source, size.admitted),
    }
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    for number in range(size.rounds):
        for batch in size.batch:
            for side in list(items)[:: -1 if number % 2 else 1]:
                found = await asyncio.to_thread(bulk.measure, store, items[side], batch)
                rates[batch, side].append(found)
                tick(f"bulk: batches of {batch}", 1)
    return sides(rates, "bare", "with_trail")


async def run_batches(loads: Loads, size: Size, tick: Tick) -> list[dict[str, Any]]:
    """Submit calls of many statements over several connections."""
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    times: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
    for number in range(size.rounds):
        for per_call in size.per_call:
            calls = shared_out(max(len(loads), size.batched // per_call), len(loads))
            for kind in KINDS[:: -1 if number % 2 else 1]:
                jobs = [Submit(kind, each, per_call, size.calls_in_flight) for each in calls]
                answers = await loads.run(jobs)
                rates[per_call, kind].append(rate(answers, per_call))
                times[per_call, kind].append([each for answer in answers for each in answer.times])
                tick(f"batches: calls of {per_call} {kind}", 1)
    rows = sides(rates, *KINDS)
    for row in rows:
        row["call"] = latencies(times[row["batch"], "receipts"])
    return rows
