"""Sums for people: what charges come to by team, by model and by day, in each currency, in bounded memory. Pure."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from audit_layer.costs.charge import Charge
from shared.codec.moment import day_of
from shared.codec.money import exact_sum

TEAM_TAGS: Final = ("team", "cost_centre")
"""The tags that name a team, the first that there is; a tenant without one is a team of its own."""
NO_MODEL: Final = "(no model)"
OTHERS: Final = "(others)"
MOST: Final = 500
"""Different teams, models or days that are told apart in a currency; what comes later is under `OTHERS`."""
BY_TEAM, BY_MODEL, BY_DAY = "team", "model", "day"
DIMENSIONS: Final = (BY_TEAM, BY_MODEL, BY_DAY)

Sums = Mapping[str, Decimal]


def team_of(charge: Charge) -> str:
    """Return whom a charge is for."""
    return next((charge.tags[tag] for tag in TEAM_TAGS if charge.tags.get(tag)), charge.tenant)


def model_of(charge: Charge) -> str:
    """Return the model in words."""
    if charge.model_root is None:
        return NO_MODEL
    return charge.model_name or charge.model_root.hex()[:16]


class Summary:
    """Exact sums of charges by currency, dimension and value."""

    def __init__(self, zone: str = "UTC") -> None:
        self._zone = zone
        self._sums: dict[str, dict[str, dict[str, Decimal]]] = {}

    def add(self, charge: Charge) -> None:
        """Add a charge."""
        by = self._sums.setdefault(charge.currency, {name: {} for name in DIMENSIONS})
        for name, value in (
            (BY_TEAM, team_of(charge)),
            (BY_MODEL, model_of(charge)),
            (BY_DAY, self.day_of(charge)),
        ):
            sums = by[name]
            key = value if value in sums or len(sums) < MOST else OTHERS
            sums[key] = exact_sum((sums.get(key, Decimal(0)), charge.amount))

    def day_of(self, charge: Charge) -> str:
        """Return the day on which a charge began, in the summary's time zone."""
        return day_of(charge.started, self._zone).isoformat()

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Sums]]]:
        """Yield (currency, {dimension: sums}): days in order, teams and models by amount, the largest first."""
        for currency, by in sorted(self._sums.items()):
            yield currency, {name: _ordered(name, by[name]) for name in DIMENSIONS}


def _ordered(name: str, sums: dict[str, Decimal]) -> Sums:
    if name == BY_DAY:
        return dict(sorted(sums.items()))
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))
