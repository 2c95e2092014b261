"""The terms, the parties and the policy that are simulated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final

from shared.statements.request import PPM
from shared.verification.incentive_terms import Terms
from shared.verification.incentives import Policy, solve
from shared.verification.standing import Standing

TERMS: Final = {
    "price": "0.01",
    "honest_cost": "0.007",
    "cheat_cost": "0.003",
    "collusion": "0.1",
    "new_times": "2",
    "audit_cost": "0.002",
    "auditor_fee": "0.003",
    "auditor_stake": "0.4",
    "challenge_cost": "0.05",
    "defence_cost": "0.05",
    "false_gain": "0.02",
}
CAPACITIES: Final = (100, 200, 400)
"""Receipts in an epoch, at most, of the three sizes of nodes."""
USED: Final = 0.8
"""Of its capacity, on average."""
WINDOW: Final = 3
"""Epochs until the verdicts about an epoch's receipts have consequences, itself included."""
EPOCHS_PER_YEAR: Final = 365


class Strategy(StrEnum):
    """What a party does."""

    HONEST = "honest"
    ALWAYS = "always"
    ONE_IN_100 = "1 of 100"
    BURST = "burst before leaving"
    COLLUDING = "colluding with auditors"
    SYBIL = "new name after each conviction"
    DILIGENT = "diligent auditor"
    LAZY = "lazy auditor"
    BOUGHT = "bought auditor"
    QUIET = "challenger without a case"
    GRIEFING = "griefing challenger"


NODES: Final = tuple(Strategy)[:6]
BASELINE: Final = {
    **dict.fromkeys(NODES[1:], Strategy.HONEST),
    Strategy.LAZY: Strategy.DILIGENT,
    Strategy.GRIEFING: Strategy.QUIET,
}
"""Each dishonest strategy, and the honest one that it is compared with."""
SHARES: Final = {
    Strategy.HONEST: 0.34,
    Strategy.ALWAYS: 0.1,
    Strategy.ONE_IN_100: 0.1,
    Strategy.BURST: 0.1,
    Strategy.COLLUDING: 0.1,
    Strategy.SYBIL: 0.1,
    Strategy.DILIGENT: 0.108,
    Strategy.LAZY: 0.006,
    Strategy.BOUGHT: 0.006,
    Strategy.QUIET: 0.02,
    Strategy.GRIEFING: 0.02,
}
"""Of all parties. Lazy and bought auditors are a tenth of the auditors, which is the terms' collusion."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated."""

    parties: int
    epochs: int


FULL: Final = Size(10_000, EPOCHS_PER_YEAR)
QUICK: Final = Size(4_000, EPOCHS_PER_YEAR)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the log does: the policy's numbers, or a fraction of them. Arrays are by size of node."""

    policies: tuple[Policy, ...]
    divided: float
    """Rates, planted errors and bonds are divided by this; stakes are not."""

    @property
    def terms(self) -> Terms:
        """The terms without what depends on a node's size."""
        return self.policies[0].terms

    def rate(self, standing: Standing) -> float:
        """Return the audit rate at a standing."""
        return self.policies[0].rates[standing] / PPM / self.divided

    @property
    def slashes(self) -> list[float]:
        """What a conviction takes."""
        return [float(policy.terms.slash * policy.stake) for policy in self.policies]

    @property
    def bonds(self) -> list[float]:
        """What a challenge of such a node asks for."""
        return [float(policy.bond or 0) / self.divided for policy in self.policies]

    @property
    def planted(self) -> float:
        """Share of audits that are of planted errors."""
        return (self.policies[0].planted_ppm or 0) / PPM / self.divided


def setting(divided: float = 1, changes: Mapping[str, str] | None = None) -> Setting:
    """Return the policy for the terms, with `changes`: the cheapest rate for nodes of the middle size, and each size's stake."""

    def terms(capacity: int) -> Terms:
        served = int(capacity * USED * EPOCHS_PER_YEAR)
        own = {"unsettled": str(WINDOW * capacity), "receipts_per_year": str(served)}
        return Terms.read(TERMS | own | dict(changes or {}))

    chosen = solve(terms(CAPACITIES[len(CAPACITIES) // 2])).rate_ppm
    return Setting(
        tuple(solve(terms(capacity), rate_ppm=chosen) for capacity in CAPACITIES), divided
    )


def counts(parties: int) -> dict[Strategy, int]:
    """Return how many parties follow each strategy: at least three, one of each size."""
    return {strategy: max(3, round(share * parties)) for strategy, share in SHARES.items()}


def caught(terms: Terms, blind: float) -> float:
    """Return the probability that an audited cheat is convicted if this share of auditors does not see it."""
    return float(replace(terms, collusion=Fraction(blind)).caught)
