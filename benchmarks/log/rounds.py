"""The order of events in each workload: sides in turn, in a different order every round."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from audit_layer.log.files import PublishedFiles
from audit_layer.log.folder_store import FolderStore
from audit_layer.log.proof_service import ProofService
from audit_layer.log.sequencer import Sequencer
from audit_layer.storage.engine import make_engine
from benchmarks.log import bulk
from benchmarks.log.disk import bytes_on_disk, of_room, table_bytes
from benchmarks.log.figures import called, latencies, one_by_one, rate, sides
from benchmarks.log.load import (
    RECEIPTS,
    Answer,
    Fetch,
    Kind,
    LoadError,
    Loads,
    Submit,
    Watch,
    shared_out,
)
from benchmarks.log.platform import Platform, Store
from benchmarks.log.size import Size, Tick
from benchmarks.log.statements import Source
from shared.runtime.errors import CounterfoilError
from shared.translog.cose_receipt import verify_receipt
from shared.translog.tiles import TILE_WIDTH, Tile
from shared.translog.tlog_proof import verify_tlog_proof

KINDS: tuple[Kind, Kind] = ("receipts", "singles")
KEPT = 64
"""Transparency receipts of each connection and round that are verified afterwards."""
FILLING = 4096
FETCHES_IN_FLIGHT = 8
PUBLISHED_WITHIN_S = 300.0


async def run_closed(platform: Platform, loads: Loads, size: Size, tick: Tick) -> dict[str, Any]:
    """Call for one statement at a time, many callers waiting; then follow a few to their witnessed proof."""
    rounds: dict[int, list[list[Answer]]] = defaultdict(list)
    for number in range(size.rounds):
        for waiters in list(size.closed)[:: -1 if number % 2 else 1]:
            shares = [share for share in shared_out(waiters, len(loads)) if share]
            calls = size.closed[waiters] // len(shares)
            jobs = [
                Submit("receipts", calls, 1, share, receipts=True, keep=KEPT) for share in shares
            ]
            rounds[waiters].append(await loads.run(jobs))
            tick(f"closed: {waiters} waiters", 1)
    tick("closed: until a witnessed proof", 0)
    (watched,) = await loads.run([Watch(size.watched)])
    for entry, proof in watched.kept:
        verify_tlog_proof(proof, entry, platform.policy)
    seen = [answer for answers in rounds.values() for each in answers for answer in each]
    return {
        "waiters": [
            {"waiters": waiters, **called(rounds[waiters])} for waiters in sorted(size.closed)
        ],
        "receipts_verified": verified(seen, platform.cose_key) if RECEIPTS else None,
        "witnessed": {**latencies([watched.times]), "proofs_verified": len(watched.kept)},
    }


def verified(answers: Sequence[Answer], cose_key: bytes) -> int:
    """Check the transparency receipts that were kept; return their number. LoadError for one that does not verify."""
    kept = [pair for answer in answers for pair in answer.kept]
    for entry, receipt in kept:
        try:
            verify_receipt(receipt, entry, cose_key)
        except CounterfoilError as error:
            raise LoadError(f"a transparency receipt does not verify: {error}") from error
    return len(kept)


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


async def run_bytes(platform: Platform, loads: Loads, size: Size, tick: Tick) -> dict[str, Any]:
    """Submit receipts and return how much space each occupies, in tables and in published files."""
    engine = make_engine(platform.store.dsn("server"))
    proofs = ProofService(engine, PublishedFiles(FolderStore(platform.tiles)), platform.policy)
    try:
        await _until_published(proofs, platform.store)
        before, files = table_bytes(engine), bytes_on_disk(platform.tiles)
        per_call = max(size.per_call)
        calls = shared_out(max(len(loads), size.batched // per_call), len(loads))
        tick("bytes: taking receipts in", 0)
        await loads.run(
            [Submit("receipts", each, per_call, size.calls_in_flight) for each in calls]
        )
        count = sum(calls) * per_call
        await _until_published(proofs, platform.store)
        grown = bytes_on_disk(platform.tiles) - files
        tables = {
            name: round((total - before.get(name, 0)) / count, 1)
            for name, total in table_bytes(engine).items()
            if total > before.get(name, 0)
        }
    finally:
        engine.dispose()
    tick("bytes", 1)
    return {
        "entries": count,
        "tables": tables,
        "log_tables": round(of_room(tables, "log"), 1),
        "trail_tables": round(of_room(tables, "trail"), 1),
        "files": round(grown.length / count, 1),
        "files_on_disk": round(grown.blocks / count, 1),
    }


async def run_proofs(
    platform: Platform, loads: Loads, size: Size, seed: bytes, tick: Tick
) -> dict[str, Any]:
    """Prove random entries of a filled log and fetch random tiles."""
    engine = make_engine(platform.store.dsn("server"))
    proofs = ProofService(engine, PublishedFiles(FolderStore(platform.tiles)), platform.policy)
    times: dict[str, list[list[float]]] = defaultdict(list)
    fetched: list[list[Answer]] = []
    try:
        await asyncio.to_thread(_fill, Sequencer(engine), seed, size.proven, tick)
        await _until_published(proofs, platform.store)
        total = proofs.witnessed().checkpoint.size
        for _ in range(size.rounds):
            by_index: list[int | bytes] = [random.randrange(total) for _ in range(size.proofs)]
            by_entry: list[int | bytes] = [
                bulk.bare_entry(seed, random.randrange(size.proven)) for _ in range(size.proofs)
            ]
            for name, asked in (("by_index", by_index), ("by_entry", by_entry)):
                times[name].append(await asyncio.to_thread(_prove, proofs, asked))
            jobs = [
                Fetch(_paths(total, share), FETCHES_IN_FLIGHT)
                for share in shared_out(size.proofs, len(loads))
            ]
            fetched.append(await loads.run(jobs))
            tick("proofs", 1)
    finally:
        engine.dispose()
    return {
        "size": total,
        **{name: one_by_one(rounds) for name, rounds in times.items()},
        "tiles": called(fetched),
    }


def _fill(sequencer: Sequencer, seed: bytes, count: int, tick: Tick) -> None:
    for at in range(0, count, FILLING):
        sequencer.append(bulk.bare(seed, at, min(FILLING, count - at)))
        tick(f"proofs: filling the log, {at:,} of {count:,}", 0)


def _prove(proofs: ProofService, asked: Sequence[int | bytes]) -> list[float]:
    times = []
    for each in asked:
        began = time.perf_counter()
        proofs.prove(each)
        times.append(time.perf_counter() - began)
    return times


def _paths(size: int, count: int) -> tuple[str, ...]:
    """Return paths of random full tiles and entry bundles."""
    full = range(max(1, size // TILE_WIDTH))
    return tuple(
        "/" + Tile(random.choice((-1, 0)), random.choice(full), min(size, TILE_WIDTH)).path
        for _ in range(count)
    )


async def _until_published(proofs: ProofService, store: Store) -> None:
    """Wait until the witnessed checkpoint covers everything that the log holds now."""
    wanted = await asyncio.to_thread(store.log_size)
    async with asyncio.timeout(PUBLISHED_WITHIN_S):
        while proofs.witnessed().checkpoint.size < wanted:  # noqa: ASYNC110  # another process's files
            await asyncio.sleep(0.05)
