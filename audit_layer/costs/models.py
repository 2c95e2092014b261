"""Tables of the cost room: rate cards, rated lines, journals, postings, invoices, reconciliations. All append-only.

The sum of a journal's postings is zero per currency, and no two attempts of a request (tenant, number) are payable;
`guards` has the triggers that refuse a commit that breaks such a rule.
"""

from datetime import date
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

import audit_layer.costs.budgets.models  # its tables are found through these
import audit_layer.costs.guards  # noqa: F401  # what the database refuses in these tables
from audit_layer.costs.columns import KEPT_BY_WORKER, Exact
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
    not_negative,
)


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


class ModelNameRow(Base):
    """A name that people here use for a model; the last row of a name applies."""

    __tablename__ = "costs_model_names"
    __table_args__ = (Index(None, "name"), bytes_check("model_root", 32), KEPT_BY_WORKER)

    id: Mapped[RowId]
    name: Mapped[Name]
    model_root: Mapped[Hash32]
    recorded_at: Mapped[UnixMs]
    recorded_by: Mapped[Name]


class ContractRow(Base):
    """What a tenant and an operator agreed on beyond the rate card (`contracts.terms`); bitemporal.

    Terms in force for one time do not overlap; a row supersedes at most one earlier row, and then that row counts no more.
    """

    __tablename__ = "costs_contracts"
    __table_args__ = (
        UniqueConstraint("supersedes"),
        UniqueConstraint("digest"),
        Index(None, "tenant", "operator"),
        bytes_check("digest", 32),
        CheckConstraint("valid_to IS NULL OR valid_from < valid_to", name="period"),
        CheckConstraint("supersedes < id", name="supersedes_an_earlier_one"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    tenant: Mapped[Name]
    operator: Mapped[Name]
    valid_from: Mapped[UnixMs]
    valid_to: Mapped[UnixMs | None]
    document: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[Hash32]
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("costs_contracts.id"))
    recorded_at: Mapped[UnixMs]
    recorded_by: Mapped[Name]


class PeriodRow(Base):
    """One billing period of a tenant with an operator, in one currency: [start, end)."""

    __tablename__ = "costs_periods"
    __table_args__ = (
        UniqueConstraint("tenant", "operator", "currency", "start"),
        CheckConstraint('"start" < "end"', name="period"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    tenant: Mapped[Name]
    operator: Mapped[Name]
    currency: Mapped[Name]
    """The rate cards' currency."""
    start: Mapped[UnixMs]
    end: Mapped[UnixMs]
    time_zone: Mapped[Name]


class PeriodEventRow(Base):
    """A change of a period's state; without one it is open. Nothing follows `closed`."""

    __tablename__ = "costs_period_events"
    __table_args__ = (
        PrimaryKeyConstraint("period", "turn"),
        CheckConstraint("state IN ('open', 'soft-closed', 'closing', 'closed')", name="state"),
        CheckConstraint(
            "num_nonnulls(statement, root, bill) = CASE WHEN state = 'closed' THEN 3 ELSE 0 END",
            name="sealed",
        ),
        bytes_check("root", 32),
        not_negative("turn"),
        KEPT_BY_WORKER,
    )

    period: Mapped[int] = mapped_column(BigInteger, ForeignKey("costs_periods.id"))
    turn: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    at: Mapped[UnixMs]
    by: Mapped[Name]
    root: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """Merkle root over the period's charges."""
    statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The signed seal, which is sent to the log until it has it."""
    bill: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The bill's document, whose hash the seal has."""


class JournalRow(Base):
    """One journal: postings that were made together and sum to zero in each currency. Posting its key again is refused."""

    __tablename__ = "costs_journals"
    __table_args__ = (
        UniqueConstraint("key"),
        UniqueConstraint("mirrors"),
        CheckConstraint("postings >= 2", name="postings"),
        CheckConstraint("mirrors < id", name="mirrors_an_earlier_one"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    kind: Mapped[Name]
    """`usage`, `correction`, or the operation of `ledger.operations` that made it."""
    key: Mapped[Name]
    """Idempotency key."""
    tenant: Mapped[str | None] = mapped_column(Text)
    operator: Mapped[str | None] = mapped_column(Text)
    day: Mapped[date] = mapped_column(Date)
    posted_at: Mapped[UnixMs]
    postings: Mapped[int] = mapped_column(Integer)
    """How many it has; a posting that comes later breaks the count."""
    mirrors: Mapped[int | None] = mapped_column(ForeignKey("costs_journals.id"))
    """The journal that it reverses as a whole: once."""
    memo: Mapped[str | None] = mapped_column(Text)


class RatedReceiptRow(Base):
    """A receipt that the books have processed, and what it comes to under its rate card. A receipt is rated once.

    `amount` is the sum of `input`, `cached` and `output` (tokens; `input` is what no cache held) at the card's prices.
    """

    __tablename__ = "costs_rated_receipts"
    __table_args__ = (
        Index(
            "uq_costs_rated_receipts_order",
            "order_entry",
            unique=True,
            postgresql_where=text("billable"),
        ),
        UniqueConstraint("log_index"),
        Index(None, "tenant", "number"),
        Index(None, "operator", "day"),
        Index(None, "period"),
        bytes_check("receipt", 32),
        not_negative("input"),
        not_negative("cached"),
        not_negative("output"),
        CheckConstraint("billable = (reason IS NULL)", name="reason"),
        CheckConstraint(
            "NOT billable OR num_nulls(amount, currency, journal, period) = 0",
            name="billable_has_amount",
        ),
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
    """Whether it was posted; its corrections say what became of it."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it is not billable."""
    operator: Mapped[Name]
    node: Mapped[Name]
    model_root: Mapped[Hash32]
    day: Mapped[date] = mapped_column(Date)
    """The UTC day on which it ended."""
    started: Mapped[UnixMs]
    ended: Mapped[UnixMs]
    input: Mapped[Count]
    cached: Mapped[Count]
    output: Mapped[Count]
    rate_card: Mapped[Hash32]
    """The entry that the receipt names, whether or not there is such a card."""
    amount: Mapped[Decimal | None] = mapped_column(Exact)
    """Exact; null where it was never rated."""
    currency: Mapped[str | None] = mapped_column(Text)
    cost_centre: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    journal: Mapped[int | None] = mapped_column(BigInteger)
    period: Mapped[int | None] = mapped_column(BigInteger)
    """The billing period whose bill it is on: the one in which it ended, or the first one that was open then. That both exist
    is checked by a trigger for each statement; a foreign key would look them up for each row."""


class ContestedRequestRow(Base):
    """A billable receipt whose request had another one when it was booked; a trigger writes it.

    Only these need the check, at commit, that one attempt is payable: a check of every receipt would cost more than rating it.
    """

    __tablename__ = "costs_contested_requests"
    __table_args__ = (KEPT_BY_WORKER,)

    receipt: Mapped[bytes] = mapped_column(
        LargeBinary(32), ForeignKey("costs_rated_receipts.receipt"), primary_key=True
    )


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
    period: Mapped[int | None] = mapped_column(ForeignKey("costs_periods.id"), index=True)
    """The billing period that it changes, where it posted something."""
    at: Mapped[UnixMs]


class HeededVerdictRow(Base):
    """A verdict other than PASS that the books have taken into account."""

    __tablename__ = "costs_heeded_verdicts"
    __table_args__ = (bytes_check("verdict", 32), KEPT_BY_WORKER)

    verdict: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)


class HeededRefusalRow(Base):
    """A refusal that the books have taken into account."""

    __tablename__ = "costs_heeded_refusals"
    __table_args__ = (bytes_check("refusal", 32), KEPT_BY_WORKER)

    refusal: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)


class AuditFeeRow(Base):
    """A verdict for which its receipt's tenant had asked, and what it paid for it (`audit_fees`). No journal: no price."""

    __tablename__ = "costs_audit_fees"
    __table_args__ = (
        UniqueConstraint("log_index"),
        bytes_check("verdict", 32),
        bytes_check("contract", 32),
        CheckConstraint("(contract IS NULL) = (journal IS NULL)", name="priced"),
        KEPT_BY_WORKER,
    )

    verdict: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count]
    contract: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """Digest of the terms that have the price."""
    journal: Mapped[int | None] = mapped_column(ForeignKey("costs_journals.id"), unique=True)


class PostingRow(Base):
    """One side of a journal: debits are positive, credits negative."""

    __tablename__ = "costs_postings"
    __table_args__ = (
        Index(None, "account", "currency"),
        CheckConstraint(
            "account ~ '^(expense|payable|escrow|stake|slash|bounty|dispute|rounding|discount|credit|fx|cash|tax)"
            "(:[a-z0-9][a-z0-9./-]{0,126})?$'",
            name="account",
        ),
        KEPT_BY_WORKER,
    )

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
    format: Mapped[Name]
    mapping: Mapped[bytes | None] = mapped_column(LargeBinary)
    """How the file's columns are to be read, where its format needs that."""
    received_at: Mapped[UnixMs]
    received_by: Mapped[Name]


class ReconciliationRow(Base):
    """One comparison of an invoice with the receipts up to a log size. Money as exact text in `result` (JSON)."""

    __tablename__ = "costs_reconciliations"
    __table_args__ = (access(worker=APPEND, server=APPEND | READ),)

    id: Mapped[RowId]
    invoice: Mapped[int] = mapped_column(ForeignKey("costs_invoices.id"), index=True)
    log_size: Mapped[Count]
    result: Mapped[str] = mapped_column(Text)
    computed_at: Mapped[UnixMs]


class CaseEventRow(Base):
    """A change of the state of one invoice's variance (`reconciling.cases`); the last one (by `turn`) applies."""

    __tablename__ = "costs_case_events"
    __table_args__ = (
        PrimaryKeyConstraint("invoice", "turn"),
        CheckConstraint(
            "state IN ('matched', 'within-tolerance', 'open', 'disputed', 'credited', 'write-off-asked', 'written-off')",
            name="state",
        ),
        not_negative("turn"),
        KEPT_BY_WORKER,
    )

    invoice: Mapped[int] = mapped_column(BigInteger, ForeignKey("costs_invoices.id"))
    turn: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    amount: Mapped[Decimal] = mapped_column(Exact)
    """The variance that the state is about: billed − proven."""
    currency: Mapped[Name]
    note: Mapped[Name]
    at: Mapped[UnixMs]
    by: Mapped[Name]
