"""The real sequencer under simulated clients, servers and a network that misbehave, seed after seed.

Time is a number and everything that happens comes from one queue, driven by one random generator: a seed that fails
fails again. Clients retry, repeat, reorder and lose answers; servers die before the commit or between commit and
answer; links are cut for a while. Only the sequencer and Postgres are real. After every committed batch its answers are
those of the naive model, and in the end the database is.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Connection, Engine

from audit_layer.log.sequencer import Result, Sequenced, Sequencer, Submission
from shared.runtime.errors import Code
from tests.audit_layer.log.model import Model, empty, stored, told
from tests.audit_layer.log.world import entry

SEEDS = 60
SOAK_SEEDS = 2000
CLIENTS = 4
SERVERS = 2
PER_CLIENT = 12
TIMEOUT = 12.0
"""A client resends when no answer has come for this long."""


class _DeathError(Exception):
    """The server's process ends here."""


@dataclass(order=True)
class _Event:
    at: float
    order: int
    act: Callable[[], None] = field(compare=False)


class Simulation:
    """One seed's world."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.rng = random.Random(seed)
        self.model = Model()
        self.now = 0.0
        self.counts = {"lost": 0, "doubled": 0, "died early": 0, "died late": 0, "cut": 0}
        self._events: list[_Event] = []
        self._scheduled = 0
        self.calm = False
        """Nothing goes wrong any more, so that everything completes."""
        self.servers = [_Server(self) for _ in range(SERVERS)]
        self.clients = [_Client(self, which) for which in range(CLIENTS)]

    def after(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, _Event(self.now + delay, self._scheduled, act))
        self._scheduled += 1

    def run(self) -> None:
        for client in self.clients:
            client.send()
        self.after(60.0, self._calm_down)
        while self._events:
            event = heapq.heappop(self._events)
            self.now = event.at
            event.act()

    def _calm_down(self) -> None:
        self.calm = True

    def chance(self, probability: float) -> bool:
        return not self.calm and self.rng.random() < probability

    def carry(self, client: "_Client", act: Callable[[], None]) -> None:
        """Carry one message over the client's link: late, twice or never."""
        if client.cut_until > self.now and not self.calm:
            self.counts["cut"] += 1
            return
        if self.chance(0.12):
            self.counts["lost"] += 1
            return
        self.after(self.rng.uniform(0.1, 4.0), act)
        if self.chance(0.12):
            self.counts["doubled"] += 1
            self.after(self.rng.uniform(0.1, 9.0), act)


class _Server:
    """A process with a sequencer; the next one takes over at once when it dies."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._start()

    def _start(self) -> None:
        self._sequencer = Sequencer(
            self._world.engine, advisory_lock=self._world.rng.random() < 0.5
        )

    def handle(self, batch: Sequence[Submission], answer: Callable[[list[Result]], None]) -> None:
        early = self._world.chance(0.1)

        def in_transaction(_: Connection, __: object) -> None:
            if early:
                raise _DeathError

        try:
            results = self._sequencer.append(batch, in_transaction=in_transaction)
        except _DeathError:
            self._world.counts["died early"] += 1
            self._start()
            return
        assert told(results) == self._world.model.append(batch)
        if self._world.chance(0.1):
            self._world.counts["died late"] += 1
            self._start()
            return
        answer(results)


class _Client:
    """Submits its statements, some of them under a number that it used before."""

    def __init__(self, world: Simulation, which: int) -> None:
        self._world = world
        self.cut_until = 0.0
        self.acknowledged: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        issuer = entry(
            ("issuer", which % 3)
        )  # two clients share one, as a node's two processes would
        self.items = [self._item(issuer, which, place) for place in range(PER_CLIENT)]
        self._waiting = list(self.items)

    def _item(self, issuer: bytes, which: int, place: int) -> Submission:
        kind = self._world.rng.random()
        if kind < 0.2:
            return Submission(entry(("unnumbered", place)), issuer, None)
        # The clients that share an issuer agree on most of their statements, and equivocate with some.
        version = which if kind < 0.35 else 0
        return Submission(entry((issuer, place, version)), issuer, place)

    def send(self) -> None:
        """Send some of what is unanswered, repeatedly."""
        if not self._waiting:
            return
        world = self._world
        if world.chance(0.05):
            self.cut_until = world.now + world.rng.uniform(1.0, 30.0)
        many = world.rng.randint(1, min(5, len(self._waiting)))
        batch = world.rng.sample(self._waiting, many)
        if self.acknowledged and world.chance(0.2):
            batch.append(world.rng.choice([i for i in self.items if i not in self._waiting]))
        server = world.rng.choice(world.servers)
        world.carry(
            self,
            lambda: server.handle(
                batch,
                lambda results: world.carry(self, lambda: self._hear(batch, results)),
            ),
        )
        world.after(TIMEOUT * world.rng.uniform(0.2, 1.0), self.send)

    def _hear(self, batch: Sequence[Submission], results: Sequence[Result]) -> None:
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, Sequenced):
                assert self.acknowledged.setdefault(item.entry, result.index) == result.index
            else:
                assert result.code is Code.EQUIVOCATION
                self.refused.add(item.entry)
            if item in self._waiting:
                self._waiting.remove(item)


def simulate(engine: Engine, seed: int) -> Simulation:
    """Run one seed to its end and compare everything."""
    world = Simulation(engine, seed)
    world.run()
    entries, size, root = stored(engine)
    assert entries == world.model.entries
    assert (size, root) == (len(entries), world.model.root(size))
    for client in world.clients:
        assert all(entries[index] == value for value, index in client.acknowledged.items())
        assert not client.refused & set(entries)
        assert set(client.acknowledged) | client.refused == {item.entry for item in client.items}
    return world


def test_whatever_clients_servers_and_links_do_the_log_is_the_naive_one(
    engine: Engine, owner: Engine
):
    counts: dict[str, int] = {}
    for seed in range(SEEDS):
        empty(owner)
        for name, count in simulate(engine, seed).counts.items():
            counts[name] = counts.get(name, 0) + count
    assert min(counts.values()) > 0, counts


def test_one_seed_is_one_history(engine: Engine, owner: Engine):
    first = simulate(engine, 7).model.entries
    empty(owner)
    assert simulate(engine, 7).model.entries == first


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(SOAK_SEEDS // 100))
def test_soak_of_seeds(engine: Engine, owner: Engine, block: int):
    for seed in range(1000 + block * 100, 1100 + block * 100):
        empty(owner)
        simulate(engine, seed)
