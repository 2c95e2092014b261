"""The real server and its real witness under load, killed again and again: nothing acknowledged is lost or doubled.

Each turn kills one of the two with SIGKILL: at a fault point (before or after a write to the database, a tile, the
checkpoint file, the second place, the witness's store), or from outside at a random time. While it is dead, and again
when it is back, an observer that trusts nothing compares the log with what clients were promised. The suite kills 25
times; `make soak` does it for 20 more seeds.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import audit_layer.log
import audit_layer.witness
from shared.runtime.errors import Code
from tests.audit_layer.log.fault_points import fault_points
from tests.audit_layer.log.nursery import Nursery, nursery
from tests.audit_layer.log.under_load import Round, Stage
from tests.postgres import Database

KILLS = 25
"""In one round; each round has a log of its own."""
SOAK_ROUNDS = 20
OF_SERVER = fault_points(audit_layer.log)
OF_WITNESS = fault_points(audit_layer.witness)
TOLERATED: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE, Code.CANCELLED})
"""The answers that a client may get from a server that dies in the middle of its call."""
PATIENCE_S = 5.0
"""How long a fault point may take to be reached; then the process is killed from outside."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Nursery]:
    with nursery() as running:
        yield running


@dataclass(frozen=True)
class Kill:
    """What happens in one turn: `fault` None is a kill from outside, after `delay_s`."""

    victim: str
    fault: str | None
    nth: int = 1
    delay_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.fault}:{self.nth}"
            if self.fault
            else f"{self.victim} after {self.delay_s:.2f} s"
        )


def plan(rng: random.Random, count: int) -> list[Kill]:
    """Return `count` kills: every fault point in turn, in random order, and every fifth time no fault point."""
    kills: list[Kill] = []
    points = [
        *(("server", name) for name in OF_SERVER),
        *(("witness", name) for name in OF_WITNESS),
    ]
    waiting: list[tuple[str, str]] = []
    while len(kills) < count:
        if len(kills) % 5 == 4:
            victim = rng.choice(["server", "server", "server", "witness"])
            kills.append(Kill(victim, None, delay_s=rng.uniform(0.0, 0.6)))
            continue
        if not waiting:
            waiting = rng.sample(points, len(points))
        victim, name = waiting.pop()
        kills.append(Kill(victim, name, nth=rng.randint(1, 5)))
    return kills


@dataclass
class Tally:
    """What happened in one round."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    checkpoints: int = 0
    seconds: float = 0.0


class CrashLoop:
    """Kills, one after the other, and what must be true after each."""

    def __init__(self, round_: Round, seed: int) -> None:
        self._round = round_
        self._stage = round_.stage
        self._rng = random.Random(seed)
        self.tally = Tally()

    async def play(self, kills: Sequence[Kill]) -> Tally:
        begun = time.monotonic()
        async with self._round.load():
            for kill in kills:
                await self._turn(kill)
        self.tally.acknowledged = len(self._round.observer.acknowledged())
        self.tally.checkpoints = len(self._round.observer.notes)
        self.tally.seconds = time.monotonic() - begun
        return self.tally

    async def _turn(self, kill: Kill) -> None:
        running = self._stage.running.get(kill.victim)
        if running is not None and running.status() is None:
            # It must be started anew to arm the fault: one more death at a random time.
            await asyncio.sleep(self._rng.uniform(0.0, 0.1))
            running.kill()
            self.tally.kills[f"{kill.victim} (any time)"] += 1
        self._stage.start(kill.victim, f"{kill.fault}:kill:{kill.nth}" if kill.fault else None)
        await self._round.ensure_running(but=kill.victim)
        victim = self._stage.running[kill.victim]
        await self._round.until_up_or_dead(victim)
        limit = time.monotonic() + (PATIENCE_S if kill.fault else kill.delay_s)
        while victim.status() is None and time.monotonic() < limit:  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.005)
        reached = victim.status() is not None
        victim.kill()
        assert victim.status() == -9, self._round.log_of(kill.victim)
        assert reached or kill.fault is None or kill.nth > 1, f"{kill} was never reached"
        name = kill.fault if reached and kill.fault else f"{kill.victim} (any time)"
        self.tally.kills[name] += 1
        await self._round.check()


async def play(forks: Nursery, folder: Path, database: Database, seed: int, kills: int) -> Tally:
    stage = Stage(forks, folder, database)
    try:
        round_ = Round(stage, database.engine("server"), seed, TOLERATED)
        return await CrashLoop(round_, seed).play(plan(random.Random(seed), kills))
    finally:
        stage.close()


async def test_a_server_killed_at_any_step_under_load_keeps_what_it_acknowledged(
    forks: Nursery, database: Database, tmp_path: Path
):
    tally = await play(forks, tmp_path, database, seed=0, kills=KILLS)
    assert sum(tally.kills.values()) >= KILLS
    assert tally.acknowledged > KILLS


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, SOAK_ROUNDS + 1))
async def test_soak_of_kills(forks: Nursery, database: Database, tmp_path: Path, seed: int, capsys):
    tally = await play(forks, tmp_path, database, seed, kills=KILLS)
    with capsys.disabled():
        print(f"\nround {seed}/{SOAK_ROUNDS}: {sum(tally.kills.values())} kills, "
              f"{tally.acknowledged} acknowledged, {tally.checkpoints} checkpoints, "
              f"{tally.seconds:.0f} s: {json.dumps(tally.kills, sort_keys=True)}")  # fmt: skip
