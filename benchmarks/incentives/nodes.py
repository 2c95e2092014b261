"""Nodes of every strategy, epoch by epoch, all at once."""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.incentives.scenario import (
    CAPACITIES,
    NODES,
    USED,
    WINDOW,
    Setting,
    Strategy,
    caught,
)
from shared.verification.standing import KNOWN_PASSES, Standing

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SERVES_FIRST: Final = 60
"""Epochs that a node of strategy `burst` serves honestly under each name."""
STARTS_BEFORE: Final = 60
"""Dishonest nodes begin to cheat in one of the first epochs, by lot."""
ONE_IN: Final = 100
REPEATING: Final = (Strategy.BURST, Strategy.SYBIL)
"""Strategies that go on after a conviction. The others then serve honestly, so that no capacity is lost by being found."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What will be known about an epoch's receipts when its window ends, by node."""

    name: Ints
    right: Ints
    """Convicted cheats."""
    wrong: Ints
    """Convicted honest answers."""
    framed: Ints
    """Of these, the ones that were challenged falsely."""
    passed: Ints


def audit_rate(passes: Ints, setting: Setting) -> Floats:
    """Return the rate at which nodes are audited that have passed so many audits, and were not convicted (protocol §6.4)."""
    new, good = setting.rate(Standing.NEW), setting.rate(Standing.GOOD)
    return np.where(passes < KNOWN_PASSES, new, good)


class Nodes:
    """All nodes. Arrays are by node; `strategy` and `size` are places in `NODES` and `CAPACITIES`."""

    def __init__(
        self,
        amounts: dict[Strategy, int],
        setting: Setting,
        shares: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        """Make nodes in good standing. `shares` are those of lazy and of bought auditors."""
        self._setting, self._rng = setting, rng
        self.strategy = np.repeat(np.arange(len(NODES)), [amounts[name] for name in NODES])
        count = len(self.strategy)
        self.size = np.arange(count) % len(CAPACITIES)
        self._capacity = np.array(CAPACITIES)[self.size]
        self.slash = np.array(setting.slashes)[self.size]
        self._bounty = float(setting.terms.bounty)
        # Whoever colludes accuses himself through a friend, who gets the bounty.
        back = np.where(self._is(Strategy.COLLUDING), self._bounty, 0.0)
        self._lost = self.slash * (1 - back)
        lazy, bought = shares
        self._caught = np.where(
            self._is(Strategy.COLLUDING),
            caught(setting.terms, lazy + bought),
            caught(setting.terms, lazy),
        )
        self._start = rng.integers(0, STARTS_BEFORE, count)
        self._name = np.zeros(count, np.int64)
        self._since = np.where(self._is(Strategy.BURST), self._start - SERVES_FIRST, 0)
        self._passes = np.full(count, KNOWN_PASSES, np.int64)
        self._slashed_name = np.full(count, -1, np.int64)
        self._reformed = self._is(Strategy.HONEST)
        self._pending: deque[Verdicts] = deque()
        self.served = np.zeros(count, np.int64)
        self.cheats = np.zeros(count, np.int64)
        self.convicted = np.zeros(count, np.int64)
        self.profit = np.zeros(count)
        self.covered = np.zeros(count)
        """What slashes leave for tenants."""
        self.slashes = np.zeros(count, np.int64)
        self.wrongly = np.zeros(count, np.int64)
        """Slashes for nothing but honest answers."""
        self.framed = np.zeros(count, np.int64)
        """Of these, the ones with a false challenge."""
        self.found = np.full(count, -1, np.int64)
        """Epochs from the first cheat to the first conviction for one; −1 if there was none."""
        self.audits = 0
        """Audits of the last epoch."""

    def _is(self, strategy: Strategy) -> Bools:
        return np.asarray(self.strategy == NODES.index(strategy))

    def epoch(self, now: int, accused: Ints) -> None:
        """Settle what is due, serve, and be audited. `accused` are nodes convicted by false challenges in this epoch."""
        if len(self._pending) == WINDOW:
            self._settle(now, self._pending.popleft())
        self._leave(now)
        bursting = self._bursting(now)
        served = np.where(bursting, self._capacity, self._rng.binomial(self._capacity, USED))
        cheats = self._rng.binomial(served, self._share(now, bursting))
        terms = self._setting.terms
        self.profit += served * float(terms.price - terms.honest_cost)
        self.profit += cheats * float(terms.honest_cost - terms.cheat_cost)
        self.served += served
        self.cheats += cheats
        rate = audit_rate(self._passes, self._setting)
        looked = self._rng.binomial(cheats, rate)
        others = self._rng.binomial(served - cheats, rate)
        self.audits = int(looked.sum() + others.sum())
        right = self._rng.binomial(looked, self._caught)
        wrong = self._rng.binomial(others, float(terms.alarms))
        passed = looked + others - right - wrong
        framed = np.bincount(accused, minlength=len(served))
        self._pending.append(Verdicts(self._name.copy(), right, wrong + framed, framed, passed))

    def close(self, now: int) -> None:
        """Settle everything that is still pending."""
        while self._pending:
            self._settle(now, self._pending.popleft())
            now += 1

    def _bursting(self, now: int) -> Bools:
        age = now - self._since
        return self._is(Strategy.BURST) & (age >= SERVES_FIRST)

    def _share(self, now: int, bursting: Bools) -> Floats:
        """Return the share of its requests on which each node cheats."""
        share = np.where(self._is(Strategy.ONE_IN_100), 1 / ONE_IN, 1.0)
        share[self._reformed | (now < self._start)] = 0
        share[self._is(Strategy.BURST) & ~bursting] = 0
        return share

    def _leave(self, now: int) -> None:
        """Let go whoever has burst through a whole window; its stake stays slashable until the verdicts are there."""
        left = self._is(Strategy.BURST) & (now - self._since >= SERVES_FIRST + WINDOW)
        self._rename(left, now)

    def _rename(self, which: Bools, now: int) -> None:
        self._name[which] += 1
        self._passes[which] = 0
        self._since[which] = now

    def _settle(self, now: int, due: Verdicts) -> None:
        """Take back the pay of convicted receipts, and once for each name the slash; a node that loses it takes a new name."""
        convictions = due.right + due.wrong
        hit = (convictions > 0) & (due.name != self._slashed_name)
        self.profit -= convictions * float(self._setting.terms.price)
        self.convicted += due.right
        self.profit[hit] -= self._lost[hit]
        self.covered[hit] += (1 - self._bounty) * self.slash[hit]
        self.slashes[hit] += 1
        wrongly = hit & (due.right == 0)
        self.wrongly[wrongly] += 1
        self.framed[wrongly & (due.framed > 0)] += 1
        self._slashed_name[hit] = due.name[hit]
        first = (due.right > 0) & (self.found < 0)
        self.found[first] = now - self._start[first]
        same = due.name == self._name
        self._passes[same] += due.passed[same]
        repeating = np.isin(self.strategy, [NODES.index(name) for name in REPEATING])
        self._reformed |= hit & (due.right > 0) & ~repeating
        self._rename(hit & same, now)
