"""A log that grows: appending, proving and publishing at each size, by the server's own parts in this process."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from audit_layer.log.proof_service import ProofService
from audit_layer.log.sequencer import Sequencer, Submission
from audit_layer.log.sign_and_publish import Publisher
from audit_layer.log.witnesses import HttpWitness
from audit_layer.storage.engine import make_engine
from audit_layer.wiring.audit_server import published, second_place
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import load_signers
from benchmarks.common.figures import spread
from benchmarks.log.bulk import bare, bare_entry, copies, hook_of
from benchmarks.log.disk import bytes_on_disk, of_room, table_bytes
from benchmarks.log.figures import latencies, ratios
from benchmarks.log.platform import Platform
from benchmarks.log.size import Size, Tick
from benchmarks.log.statements import Source
from shared.runtime.tls import client_context

Make = Callable[[int, int], list[Submission]]
"""Given the first index and a count, returns what to append."""
BATCH = 1024
GROWING = 4096
WARMING = 20
PUBLISHED_EVERY = 65_536
"""Entries between checkpoints while the log only grows."""


@dataclass(slots=True)
class Grown:
    """One log without its server; the entry at an index is the one that `bare_entry` derives from the seed."""

    engine: Engine
    sequencer: Sequencer
    publisher: Publisher
    proofs: ProofService
    folder: Path
    """Where its files are published."""
    seed: bytes
    make: Make
    size: int = 0
    """Entries in the log, all of them ours."""

    def append(self, count: int, batch: int) -> list[float]:
        """Append entries; return the seconds that each batch took, excluding the making of entries."""
        times = []
        for at in range(self.size, self.size + count, batch):
            items = self.make(at, min(batch, self.size + count - at))
            began = time.perf_counter()
            self.sequencer.append(items, in_transaction=hook_of(items))
            times.append(time.perf_counter() - began)
        self.size += count
        return times

    async def publish(self) -> float:
        """Bring everything appended under a witnessed checkpoint; return how long the first tick took."""
        began = time.perf_counter()
        await self.publisher.tick()
        seconds = time.perf_counter() - began
        while self.proofs.witnessed().checkpoint.size < self.size:
            await self.publisher.tick()
        return seconds

    async def grow(self, to: int, tick: Tick) -> None:
        """Append in the same way, in larger batches, and publish now and then."""
        while self.size < to:
            part = min(PUBLISHED_EVERY, to - self.size)
            await asyncio.to_thread(self.append, part, GROWING)
            await self.publish()
            tick(f"growing: {self.size:,} of {to:,} entries", part)

    def prove(self, count: int, *, by_entry: bool) -> list[float]:
        """Prove random entries; return the seconds that each proof took."""
        times = []
        for index in random.choices(range(self.size), k=count):
            asked = bare_entry(self.seed, index) if by_entry else index
            began = time.perf_counter()
            proof = self.proofs.prove(asked)
            times.append(time.perf_counter() - began)
            assert proof.index == index
        return times


@asynccontextmanager
async def grown(platform: Platform, seed: bytes, make: Make) -> AsyncIterator[Grown]:
    """Open an empty log with the platform's keys, witness and folders."""
    settings = load_settings(platform.config)
    engine = make_engine(platform.store.dsn("server"))
    files = published(settings)
    (asked,) = settings.witnesses
    witness = HttpWitness(asked.name, asked.url, client_context(platform.ca, settings.party))
    publisher = Publisher(
        engine,
        signers=load_signers(settings.keys_folder, settings.origin),
        policy=platform.policy,
        witnesses=[witness],
        files=files,
        second_place=second_place(settings, platform.policy),
    )
    proofs = ProofService(engine, files, platform.policy)
    try:
        yield Grown(engine, Sequencer(engine), publisher, proofs, platform.tiles, seed, make)
    finally:
        await witness.aclose()
        engine.dispose()


async def run_growth(
    platform: Platform, source: Source, goals: Sequence[int], size: Size, tick: Tick, *, trail: bool
) -> list[dict[str, Any]]:
    """Measure at each size, without the trail's rows or with them; every row carries its ratios to the first."""
    seed = source.seed
    make = copies(source) if trail else partial(bare, seed)
    rows: list[dict[str, Any]] = []
    async with grown(platform, seed, make) as log:
        empty = table_bytes(log.engine)
        for goal in goals:
            await log.grow(goal, tick)
            tick(f"growth: measuring at {goal:,}", 0)
            rows.append(await _row(log, size, empty))
    return [row | {"ratios": ratios(row, rows[0])} for row in rows]


async def _row(log: Grown, size: Size, empty: Mapping[str, int]) -> dict[str, Any]:
    at = log.size
    log.prove(WARMING, by_entry=True)
    tables = {name: total - empty.get(name, 0) for name, total in table_bytes(log.engine).items()}
    files = bytes_on_disk(log.folder)
    proofs: dict[str, list[list[float]]] = {"by_index": [], "by_entry": []}
    for _ in range(size.rounds):
        for name, rounds in proofs.items():
            by_entry = name == "by_entry"
            rounds.append(await asyncio.to_thread(log.prove, size.growth_proofs, by_entry=by_entry))
    times = await asyncio.to_thread(log.append, size.growth_batches * BATCH, BATCH)
    await log.publish()
    ticks = []
    for _ in range(size.growth_ticks):
        await asyncio.to_thread(log.append, BATCH, BATCH)
        ticks.append(await log.publish())
    return {
        "size": at,
        "load": round(os.getloadavg()[0], 2),
        "entries_per_s": spread([BATCH / seconds for seconds in times]),
        **{name: latencies(rounds) for name, rounds in proofs.items()},
        "tick_ms": spread([1000 * seconds for seconds in ticks]),
        "bytes_per_entry": {
            name: round(total / at, 1)
            for name, total in (
                ("log_tables", of_room(tables, "log")),
                ("trail_tables", of_room(tables, "trail")),
                ("files", files.length),
                ("files_on_disk", files.blocks),
            )
        },
    }
