"""The books: rate what is in the log, post it, tell what they say.

Every use case is one transaction and may be repeated: a receipt is rated once.
"""

from sqlalchemy import Engine, func, select

from audit_layer.costs import audit_fees, rater, reading
from audit_layer.costs.charge import Charge
from audit_layer.costs.check import check_books
from audit_layer.costs.models import RatedReceiptRow
from audit_layer.costs.reading import Payability
from audit_layer.storage.engine import session
from audit_layer.trail.models import ReceiptRow
from shared.codec.moment import Period

BATCH = 500
RATED_AT_ONCE = 40_000


class Costs:
    """Rating, ledger and reconciliation over one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- rating --------------------------------------------------------------------------------------

    def rate_new(self, *, limit: int = RATED_AT_ONCE) -> int:
        """Rate and post receipts that the books have not processed, oldest first; return how many."""
        with session(self._engine) as db:
            return rater.rate_new(db, limit)

    def heed_new(self, *, limit: int = BATCH) -> int:
        """Take into account verdicts that the books have not, oldest first; return how many."""
        with session(self._engine) as db:
            return rater.heed_new(db, limit)

    def charge_audits(self, *, limit: int = BATCH) -> int:
        """Post the prices of audits that tenants asked for and got, oldest first; return how many were looked at."""
        with session(self._engine) as db:
            rater.alone(db)
            return audit_fees.charge_new(db, limit)

    def settle_all(self) -> int:
        """Apply the rule of what is payable (protocol §8) to requests with several receipts; return how many receipts changed."""
        with session(self._engine) as db:
            return rater.settle_all(db)

    def check(self) -> list[str]:
        """Recompute the books from receipts, rate cards and verdicts; return what differs."""
        with session(self._engine, isolation="REPEATABLE READ") as db:
            return list(check_books(db))

    def payability(self, receipt: bytes) -> Payability | None:
        """Return whether a receipt is payable, and why not if it is not; None before it was rated."""
        with session(self._engine) as db:
            return reading.payability(db, receipt)

    # -- reading -------------------------------------------------------------------------------------

    def charges(
        self, period: Period, *, tenant: str | None = None, operator: str | None = None
    ) -> list[Charge]:
        """Return what the period adds to the bill, in log order (`reading.charges`)."""
        with session(self._engine) as db:
            return list(reading.charges(db, period, tenant=tenant, operator=operator))

    def totals(self, *, tenant: str | None = None) -> list[reading.Total]:
        """Return, by operator and node, what is payable (receipts, tokens, exact amount), held and refused."""
        with session(self._engine) as db:
            return reading.totals(db, tenant)

    def unpaid(self, *, tenant: str | None = None, limit: int = 50) -> list[reading.Unpaid]:
        """Return the latest receipts that are refused or held, each with why."""
        with session(self._engine) as db:
            return reading.unpaid(db, tenant, limit)

    def pending(self) -> int:
        """Return how many receipts are in the log but not in the books."""
        with session(self._engine) as db:
            return (
                db.scalar(
                    select(func.count())
                    .select_from(ReceiptRow)
                    .outerjoin(RatedReceiptRow, RatedReceiptRow.receipt == ReceiptRow.entry)
                    .where(RatedReceiptRow.receipt.is_(None))
                )
                or 0
            )
