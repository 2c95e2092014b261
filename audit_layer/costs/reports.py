"""Reports for finance people, as use cases: each reads one state of the books."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from audit_layer.costs import centres
from audit_layer.costs.billing import period_row
from audit_layer.costs.centres import Centres
from audit_layer.costs.model_names import names_of
from audit_layer.storage.engine import session
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError


@dataclass(frozen=True, slots=True)
class CentreReport:
    """Sums by cost centre, and the names of models."""

    centres: Centres
    names: Mapping[bytes, str]
    tenant: str | None = None
    """Whose billing period it is."""


class Reports:
    """Reports over one database. All methods block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def centres_of_period(self, number: int, *, tenant: str | None) -> CentreReport:
        """Return a billing period's spend; NOT_FOUND if there is none, or it is another tenant's."""
        with session(self._engine, isolation="REPEATABLE READ") as db:
            row = period_row(db, number)
            if tenant not in {None, row.tenant}:
                raise CounterfoilError(Code.NOT_FOUND, f"there is no billing period {number}")
            return CentreReport(centres.of_period(db, row), names_of(db), row.tenant)

    def centres_of_days(
        self, days: Period, *, tenant: str | None, operator: str | None
    ) -> CentreReport:
        """Return the spend of some days."""
        with session(self._engine, isolation="REPEATABLE READ") as db:
            found = centres.of_days(db, days, tenant=tenant, operator=operator)
            return CentreReport(found, names_of(db))
