"""The books: rate what is in the log, post it, take invoices, reconcile, export.

Every use case is one transaction and may be repeated: a receipt is rated once, and an invoice is stored once.
"""

import json
from fractions import Fraction
from hashlib import sha256

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from audit_layer.costs import rater, reading
from audit_layer.costs.charge import Charge
from audit_layer.costs.check import check_books
from audit_layer.costs.invoices import Invoice
from audit_layer.costs.models import InvoiceRow, RatedReceiptRow, ReconciliationRow
from audit_layer.costs.reading import Contract, Payability, contract
from audit_layer.costs.reconcile import Reconciliation, reconcile
from audit_layer.costs.reporting import as_json
from audit_layer.log.tile_table import log_size
from audit_layer.storage.engine import session
from audit_layer.trail.models import PartyRow, ReceiptRow
from shared.codec.moment import Period, now_ms
from shared.runtime.errors import Code, CounterfoilError

BATCH = 500
RATED_AT_ONCE = 20_000


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

    # -- invoices ------------------------------------------------------------------------------------

    def take_invoice(self, content: bytes) -> int:
        """Store an invoice as submitted; the same bytes again are the same invoice.

        Errors: MALFORMED; NOT_FOUND when this log does not know its operator; CONFLICT when another invoice has its number.
        """
        invoice = Invoice.parse(content)
        digest = sha256(content).digest()
        with session(self._engine) as db:
            _check_operator(db, invoice.operator)
            db.execute(
                upsert(InvoiceRow)
                .values(
                    operator=invoice.operator,
                    invoice_id=invoice.invoice_id,
                    digest=digest,
                    content=content,
                    format="json",
                    received_at=now_ms(),
                    received_by="",
                )
                .on_conflict_do_nothing()
            )
            known = db.scalars(
                select(InvoiceRow).where(
                    InvoiceRow.operator == invoice.operator,
                    InvoiceRow.invoice_id == invoice.invoice_id,
                )
            ).one()
            if known.digest != digest:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"invoice {invoice.invoice_id!r} of {invoice.operator} was submitted before "
                    "with different content",
                    remedy="A corrected invoice needs a number of its own.",
                )
            return known.id

    def reconcile(self, invoice_row: int) -> Reconciliation:
        """Compare a stored invoice with the rated lines of its period and currency, and keep the result.

        Errors: NOT_FOUND; CONFLICT when the contract has only another currency.
        """
        with session(self._engine) as db:
            row = db.get(InvoiceRow, invoice_row)
            if row is None:
                raise CounterfoilError(Code.NOT_FOUND, f"there is no invoice {invoice_row}")
            invoice = Invoice.parse(row.content)
            held_to = contract(db, invoice.operator, invoice.days.period)
            currencies = set(held_to) or {invoice.currency}
            currency = invoice.currency if invoice.currency in currencies else min(currencies)
            terms = held_to.get(currency, Contract({}, Fraction(0)))
            result = reconcile(invoice, terms.proven, currency=currency, held=terms.held)
            db.add(
                ReconciliationRow(
                    invoice=row.id,
                    log_size=log_size(db),
                    result=json.dumps(as_json(result)),
                    computed_at=now_ms(),
                )
            )
            return result

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


def _check_operator(db: Session, name: str) -> None:
    """Refuse an operator that this log does not know, naming those that it does."""
    known = sorted(set(db.scalars(select(PartyRow.name).where(PartyRow.role == "operator"))))
    if name not in known:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the invoice's operator {name!r} is not registered here",
            remedy=f"Known operators: {', '.join(known[:20]) or 'none yet'}.",
        )
