"""Reports for finance people, as use cases: each reads one state of the books."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from audit_layer.costs import centres
from audit_layer.costs.billing import period_row
from audit_layer.costs.centres import Centres
from audit_layer.costs.model_names import names_of, roots_of
from audit_layer.costs.plausibility.checking import NodeReport, check_operator
from audit_layer.costs.plausibility.serving_file import ServingFile
from audit_layer.storage.engine import session
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.devices import devices_of


@dataclass(frozen=True, slots=True)
class CentreReport:
    """Sums by cost centre, and the names of models."""

    centres: Centres
    names: Mapping[bytes, str]
    tenant: str | None = None
    """Whose billing period it is."""


@dataclass(frozen=True, slots=True)
class ServingFiles:
    """What people say about an operator's hardware."""

    serving: bytes
    devices: bytes | None = None
    """A file that adds devices to the table, or replaces some."""

    def parsed(self) -> ServingFile:
        """Return what they say; INVALID_ARGUMENT in words where they cannot be used."""
        try:
            known = devices_of(self.devices or b"")
        except CounterfoilError as error:  # to a server it is an argument
            raise CounterfoilError(Code.INVALID_ARGUMENT, error.detail) from error
        return ServingFile.parse(self.serving, known)


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

    def plausibility(
        self, days: Period, operator: str, files: ServingFiles, *, node: str | None
    ) -> list[NodeReport]:
        """Hold an operator's receipts against how it says that it serves; errors as in `ServingFile` and `check_operator`."""
        file = files.parsed()
        with session(self._engine, isolation="REPEATABLE READ") as db:
            models = file.by_root(roots_of(db))
            return check_operator(db, days, operator, file.serving, models, node=node)
