"""Auditors and challengers, epoch by epoch."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.incentives.nodes import Floats, Ints
from benchmarks.incentives.scenario import Setting


class Auditors:
    """Auditors who look at what they judge, and then those who pass everything. Arrays are by auditor."""

    def __init__(
        self, diligent: int, lazy: int, setting: Setting, rng: np.random.Generator
    ) -> None:
        self._setting, self._rng, self.terms = setting, rng, setting.terms
        self.lazy = np.arange(diligent + lazy) >= diligent
        self.profit: Floats = np.zeros(diligent + lazy)
        self.audits: Ints = np.zeros(diligent + lazy, np.int64)
        self.missed: Ints = np.zeros(diligent + lazy, np.int64)

    def epoch(self, audits: int, auditors: int) -> None:
        """Share out an epoch's audits among all `auditors`, some of them planted errors."""
        terms = self._setting.terms
        assert terms.auditor_fee is not None
        assert terms.auditor_stake is not None
        fee, stake = float(terms.auditor_fee), float(terms.auditor_stake)
        own = self._rng.poisson(audits / auditors, len(self.lazy))
        missed = np.where(self.lazy, self._rng.binomial(own, self._setting.planted), 0)
        self.profit += own * fee - np.where(self.lazy, 0, own * float(terms.audit_cost))
        self.profit -= missed * (fee + stake / terms.auditor_strikes)
        self.audits += own
        self.missed += missed


class Griefers:
    """Challengers who challenge one honest answer of a random node in every epoch."""

    def __init__(
        self, count: int, setting: Setting, bought: float, rng: np.random.Generator
    ) -> None:
        """Win a challenge where auditors err, or two of three are bought."""
        self._setting, self._rng = setting, rng
        self._wins = float(setting.terms.alarms) + bought**2 * (2 - bought)
        self.profit: Floats = np.zeros(count)
        self.won: Ints = np.zeros(count, np.int64)

    def epoch(self, size: Ints, slash: Floats) -> NDArray[np.int64]:
        """Challenge nodes of these sizes, with these slashes; return those that are convicted wrongly."""
        terms = self._setting.terms
        against = self._rng.integers(0, len(size), len(self.profit))
        won = self._rng.random(len(self.profit)) < self._wins
        bonds = np.array(self._setting.bonds)[size[against]]
        gained = np.where(won, float(terms.bounty) * slash[against], -bonds)
        self.profit += gained + float(terms.false_gain)
        self.won += won
        return against[won]
