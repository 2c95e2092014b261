"""Contracts, billing periods, names of models and the ledger, as use cases: each is one transaction and may be repeated."""

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal

from sqlalchemy import Engine

from audit_layer.costs import model_names, schedule
from audit_layer.costs.billing import bill_of, charges_of, period_row
from audit_layer.costs.charge import Charge
from audit_layer.costs.closing import put_into
from audit_layer.costs.contracts import store
from audit_layer.costs.contracts.bill import Bill
from audit_layer.costs.contracts.store import Contract
from audit_layer.costs.ledger import balances
from audit_layer.costs.ledger.operations import Operation, journal_of
from audit_layer.costs.ledger.posting import check_covered, mirror, post
from audit_layer.costs.rater import alone as booking_alone
from audit_layer.costs.schedule import PeriodState
from audit_layer.storage.engine import session
from shared.codec.moment import day_of, now_ms
from shared.runtime.errors import Code, CounterfoilError


class Bookkeeping:
    """What finance people keep, over one database. All methods block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- contracts and names -------------------------------------------------------------------------

    def record_contract(
        self, document: bytes, *, by: str, supersedes: int | None = None
    ) -> Contract:
        """Record terms; errors as `contracts.store.record`."""
        with session(self._engine) as db:
            return store.record(db, document, by=by, supersedes=supersedes)

    def contracts(self, *, tenant: str | None = None) -> list[Contract]:
        """Return every contract ever recorded."""
        with session(self._engine) as db:
            return store.contracts(db, tenant)

    def name_model(self, name: str, root: bytes, *, by: str) -> None:
        """Give a model a name."""
        with session(self._engine) as db:
            model_names.name_model(db, name, root, by=by)

    def model_names(self) -> Mapping[str, bytes]:
        """Return the root of every name."""
        with session(self._engine) as db:
            return model_names.roots_of(db)

    # -- billing periods -----------------------------------------------------------------------------

    def periods(
        self, *, tenant: str | None = None, operator: str | None = None
    ) -> list[PeriodState]:
        """Return the billing periods, the latest first."""
        with session(self._engine) as db:
            return schedule.periods(db, tenant=tenant, operator=operator)

    def period(self, number: int, *, tenant: str | None = None) -> PeriodState:
        """Return one period; NOT_FOUND if there is none, or it is another tenant's."""
        found = [item for item in self.periods(tenant=tenant) if item.row.id == number]
        if not found:
            raise CounterfoilError(Code.NOT_FOUND, f"there is no billing period {number}")
        return found[0]

    def bill(self, number: int) -> Bill:
        """Return a period's bill as it stands."""
        with session(self._engine, isolation="REPEATABLE READ") as db:
            return bill_of(db, period_row(db, number))

    def charges(self, number: int) -> Iterator[Charge]:
        """Yield a period's charges."""
        with session(self._engine, isolation="REPEATABLE READ") as db:
            yield from charges_of(db, period_row(db, number), model_names.names_of(db))

    def put_period(self, number: int, state: str, *, by: str) -> str:
        """Put a period into a state that people may choose; errors as `closing.put_into`."""
        with session(self._engine) as db:
            return put_into(db, number, state, by=by, now=now_ms())

    # -- ledger --------------------------------------------------------------------------------------

    def trial_balance(self) -> list[balances.Balance]:
        """Return every account's balance."""
        with session(self._engine) as db:
            return balances.trial_balance(db)

    def statement(self, account: str, currency: str) -> list[balances.Entry]:
        """Return an account's postings in one currency."""
        with session(self._engine) as db:
            return list(balances.statement(db, account, currency))

    def operate(
        self,
        operation: Operation,
        *,
        key: str,
        amount: Decimal,
        currency: str,
        day: date | None = None,
        tenant: str | None = None,
        operator: str | None = None,
        memo: str | None = None,
    ) -> int:
        """Post an operation and return its journal; under the same key again it is the same one.

        Errors: INVALID_ARGUMENT; CONFLICT where the key was used for another, or an account has less than is taken.
        """
        journal = journal_of(
            operation,
            key=key,
            amount=amount,
            currency=currency,
            day=day or day_of(now_ms()),
            tenant=tenant,
            operator=operator,
            memo=memo,
        )
        with session(self._engine) as db:
            booking_alone(db)
            number = post(db, journal)
            check_covered(db)
            return number

    def mirror(self, journal: int, *, memo: str) -> int:
        """Reverse a whole journal, once; errors as `ledger.posting.mirror`, and CONFLICT as `operate`."""
        with session(self._engine) as db:
            booking_alone(db)
            number = mirror(db, journal, day=day_of(now_ms()), memo=memo)
            check_covered(db)
            return number
