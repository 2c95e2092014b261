"""Tables of the cost room: rate cards, rated lines, journals, postings, invoices, reconciliations. All append-only.

The sum of a journal's postings is zero per currency, and no two attempts of a request (tenant, number) are payable;
constraint triggers refuse a commit that breaks either rule.
"""

from datetime import date
from decimal import Decimal

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import (
    APPEND,
    READ,
    Base,
    Count,
    Hash32,
    Name,
    RowId,
    Statement,
    UnixMs,
    access,
    bytes_check,
    declare_function,
    declare_trigger,
    not_negative,
)

KEPT_BY_WORKER = access(worker=APPEND, server=APPEND)
Exact = Numeric(48, 24)


class RateCardRow(Base):
    """A rate card statement in the log, and when the books learned of it (bitemporal)."""

    __tablename__ = "costs_rate_cards"
    __table_args__ = (bytes_check("entry", 32), KEPT_BY_WORKER)

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    operator: Mapped[Name]
    name: Mapped[Name]
    currency: Mapped[Name]
    valid_from: Mapped[UnixMs]
    valid_to: Mapped[UnixMs | None]
    statement: Mapped[Statement]
    recorded_at: Mapped[UnixMs]


class JournalRow(Base):
    """One journal: the lines of one tenant, operator and day that were posted together."""

    __tablename__ = "costs_journals"
    __table_args__ = (KEPT_BY_WORKER,)

    id: Mapped[RowId]
    tenant: Mapped[Name]
    operator: Mapped[Name]
    day: Mapped[date] = mapped_column(Date)
    currency: Mapped[Name]
    posted_at: Mapped[UnixMs]


class RatedLineRow(Base):
    """One kind of token of one receipt under one price. A receipt is rated once."""

    __tablename__ = "costs_rated_lines"
    __table_args__ = (
        UniqueConstraint("receipt", "kind"),
        Index(None, "operator", "day"),
        bytes_check("receipt", 32),
        not_negative("quantity"),
        CheckConstraint("kind IN ('input', 'cached', 'output')", name="kind"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    receipt: Mapped[Hash32]
    log_index: Mapped[Count]
    journal: Mapped[int] = mapped_column(ForeignKey("costs_journals.id"))
    tenant: Mapped[Name]
    operator: Mapped[Name]
    node: Mapped[Name]
    model_root: Mapped[Hash32]
    rate_card: Mapped[bytes] = mapped_column(LargeBinary(32), ForeignKey("costs_rate_cards.entry"))
    day: Mapped[date] = mapped_column(Date)
    started: Mapped[UnixMs]
    ended: Mapped[UnixMs]
    kind: Mapped[str] = mapped_column(Text)
    quantity: Mapped[Count]
    unit_price: Mapped[Decimal] = mapped_column(Exact)
    per: Mapped[Count]
    amount: Mapped[Decimal] = mapped_column(Exact)
    currency: Mapped[Name]
    cost_centre: Mapped[bytes | None] = mapped_column(LargeBinary(32))


class RatedReceiptRow(Base):
    """A receipt that the books have processed, billable or not: nothing is rated twice."""

    __tablename__ = "costs_rated_receipts"
    __table_args__ = (
        Index(
            "uq_costs_rated_receipts_order",
            "order_entry",
            unique=True,
            postgresql_where=text("billable"),
        ),
        Index(None, "tenant", "number"),
        bytes_check("receipt", 32),
        KEPT_BY_WORKER,
    )

    receipt: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count]
    order_entry: Mapped[Hash32]
    """An order is billed once."""
    tenant: Mapped[Name]
    number: Mapped[Count]
    attempt: Mapped[Count]
    complete: Mapped[bool] = mapped_column(Boolean)
    """Whether the answer ended by its own rules."""
    billable: Mapped[bool] = mapped_column(Boolean)
    """Whether its lines were posted; its corrections say what became of them."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it is not billable."""


class CorrectionRow(Base):
    """What became of a billable receipt after it was posted, one row per change; the last one (by `turn`) applies.

    Where a row makes it cease to be payable, or payable again, its journal mirrors what was posted before it: once.
    """

    __tablename__ = "costs_corrections"
    __table_args__ = (
        PrimaryKeyConstraint("receipt", "turn"),
        CheckConstraint("payable = (reason IS NULL)", name="reason"),
        Index(None, "at"),
        bytes_check("because", 32),
        not_negative("turn"),
        KEPT_BY_WORKER,
    )

    receipt: Mapped[bytes] = mapped_column(
        LargeBinary(32), ForeignKey("costs_rated_receipts.receipt")
    )
    turn: Mapped[int] = mapped_column(Integer)
    payable: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str | None] = mapped_column(Text)
    because: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """Entry of the statement that caused it: a verdict, or the receipt of a later attempt."""
    journal: Mapped[int | None] = mapped_column(ForeignKey("costs_journals.id"))
    at: Mapped[UnixMs]


class HeededVerdictRow(Base):
    """A verdict other than PASS that the books have taken into account."""

    __tablename__ = "costs_heeded_verdicts"
    __table_args__ = (bytes_check("verdict", 32), KEPT_BY_WORKER)

    verdict: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)


class PostingRow(Base):
    """One side of a journal: debits are positive, credits negative."""

    __tablename__ = "costs_postings"
    __table_args__ = (Index(None, "account"), KEPT_BY_WORKER)

    id: Mapped[RowId]
    journal: Mapped[int] = mapped_column(ForeignKey("costs_journals.id"), index=True)
    account: Mapped[Name]
    amount: Mapped[Decimal] = mapped_column(Exact)
    currency: Mapped[Name]


class InvoiceRow(Base):
    """An invoice as it was submitted."""

    __tablename__ = "costs_invoices"
    __table_args__ = (
        UniqueConstraint("operator", "invoice_id"),
        bytes_check("digest", 32),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    operator: Mapped[Name]
    invoice_id: Mapped[Name]
    digest: Mapped[Hash32]
    content: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[UnixMs]


class ReconciliationRow(Base):
    """One comparison of an invoice with the receipts up to a log size. Money as exact text in `result` (JSON)."""

    __tablename__ = "costs_reconciliations"
    __table_args__ = (access(worker=APPEND, server=APPEND | READ),)

    id: Mapped[RowId]
    invoice: Mapped[int] = mapped_column(ForeignKey("costs_invoices.id"), index=True)
    log_size: Mapped[Count]
    result: Mapped[str] = mapped_column(Text)
    computed_at: Mapped[UnixMs]


declare_function(
    "costs_journal_balances",
    """
CREATE FUNCTION costs_journal_balances() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (
    SELECT FROM costs_postings WHERE journal IN (OLD.journal, NEW.journal)
     GROUP BY journal, currency HAVING sum(amount) <> 0
  ) THEN
    RAISE EXCEPTION 'the postings of journal % do not sum to zero', coalesce(NEW.journal, OLD.journal)
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_postings_balance';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_postings_balance",
    "costs_postings",
    """
CREATE CONSTRAINT TRIGGER costs_postings_balance
AFTER INSERT OR UPDATE OR DELETE ON costs_postings
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_journal_balances()
""",
)
declare_function(
    "costs_one_attempt_is_paid",
    """
CREATE FUNCTION costs_one_attempt_is_paid() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF (
    SELECT count(DISTINCT other.attempt)
      FROM costs_rated_receipts this
      JOIN costs_rated_receipts other ON other.tenant = this.tenant AND other.number = this.number
     WHERE this.receipt = NEW.receipt AND other.billable
       AND coalesce((SELECT payable FROM costs_corrections WHERE receipt = other.receipt
                      ORDER BY turn DESC LIMIT 1), true)
  ) > 1 THEN
    RAISE EXCEPTION 'two attempts of one request are payable, one of them by receipt %', encode(NEW.receipt, 'hex')
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_one_attempt';
  END IF;
  RETURN NULL;
END $$
""",
)
for _table in ("costs_rated_receipts", "costs_corrections"):
    declare_trigger(
        f"{_table}_one_attempt",
        _table,
        f"""
CREATE CONSTRAINT TRIGGER {_table}_one_attempt
AFTER INSERT ON {_table}
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_one_attempt_is_paid()
""",
    )
