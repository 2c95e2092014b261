"""One export of the books into a file, in any format that its charges allow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, and_, or_, select
from sqlalchemy.orm import Session

from audit_layer.costs import reading, schedule
from audit_layer.costs.billing import charges_of, period_row
from audit_layer.costs.charge import Charge
from audit_layer.costs.exports.billing_period import (
    BILLING_PERIOD_1_4,
    BilledPeriod,
    period_rows,
)
from audit_layer.costs.exports.focus_columns import FOCUS_1_2, FOCUS_1_4
from audit_layer.costs.exports.focus_rows import rows_of
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.invoice_detail import INVOICE_DETAIL_1_4, Issue, invoice_rows
from audit_layer.costs.exports.journal import Accounts, Posting, write_journal
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.exports.workbook import write_workbook
from audit_layer.costs.exports.writing import write_table
from audit_layer.costs.invoice_numbers import InvoiceNumbers
from audit_layer.costs.ledger.posting import BY_RULE
from audit_layer.costs.model_names import names_of
from audit_layer.costs.models import CorrectionRow, JournalRow, PostingRow, RatedReceiptRow
from audit_layer.costs.periods import CLOSED
from audit_layer.costs.stored_invoices import stored_invoice
from audit_layer.storage.engine import session
from shared.codec.moment import Period, day_of, now_ms
from shared.runtime.errors import Code, CounterfoilError

OF_CHARGES = {
    Format.FOCUS_1_2_CSV: FOCUS_1_2,
    Format.FOCUS_1_2_PARQUET: FOCUS_1_2,
    Format.FOCUS_1_4_CSV: FOCUS_1_4,
    Format.FOCUS_1_4_PARQUET: FOCUS_1_4,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is exported: a billing period, or the days of a time zone."""

    format: Format
    period: Period | None = None
    number: int | None = None
    """A billing period, instead of `period`."""
    tenant: str | None = None
    operator: str | None = None
    time_zone: str = "UTC"
    invoice: int | None = None
    """A stored invoice, for Invoice Detail."""
    payment_terms: str = "unstated"
    """As that invoice says, which its file does not."""
    accounts: bytes | None = None
    """The customer's GL accounts, for `gl-csv`."""


def export(engine: Engine, path: Path, wanted: Wanted) -> Manifest:
    """Write an export and return what is to be signed about it.

    Errors: NOT_FOUND when there is nothing; UNSUPPORTED where the format needs what was not given.
    """
    with session(engine, isolation="REPEATABLE READ") as db:
        if wanted.invoice is not None:
            return _invoice(db, path, wanted)
        wanted = _scoped(db, wanted)
        period = wanted.period
        assert period is not None
        about = About(period, now_ms())
        if wanted.format in OF_CHARGES:
            rows = rows_of(_charges(db, wanted, period))
            return write_table(path, wanted.format, OF_CHARGES[wanted.format], rows, about)
        if wanted.format is Format.XLSX:
            return write_workbook(path, _charges(db, wanted, period), about, zone=wanted.time_zone)
        if wanted.format is Format.GL_CSV:
            return _journal(db, path, wanted, about)
        if wanted.format in {Format.BILLING_PERIOD_CSV, Format.BILLING_PERIOD_PARQUET}:
            found = period_rows(_periods(db, wanted, period))
            return write_table(path, wanted.format, BILLING_PERIOD_1_4, found, about)
        raise _mismatch(wanted)


_BY_LINE = {Format.FOCUS_1_4_CSV, Format.FOCUS_1_4_PARQUET}
"""FOCUS 1.4 names an invoice only together with its line."""
OF_INVOICES = {Format.INVOICE_DETAIL_CSV, Format.INVOICE_DETAIL_PARQUET}


def _mismatch(wanted: Wanted) -> CounterfoilError:
    if wanted.format in OF_INVOICES:
        return CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{wanted.format} is written from a stored invoice, not from days or a billing period",
            remedy="Name one with --invoice; `counterfoil cost invoice list` shows their numbers.",
        )
    return CounterfoilError(
        Code.INVALID_ARGUMENT, f"{wanted.format} is not written from an invoice"
    )


def _invoice(db: Session, path: Path, wanted: Wanted) -> Manifest:
    if wanted.format not in OF_INVOICES or wanted.tenant is not None or wanted.invoice is None:
        raise _mismatch(wanted)
    invoice, received = stored_invoice(db, wanted.invoice)
    issue = Issue(wanted.payment_terms, received, received)
    about = About(invoice.period, now_ms())
    rows = invoice_rows([(invoice, issue)])
    return write_table(path, wanted.format, INVOICE_DETAIL_1_4, rows, about)


def _scoped(db: Session, wanted: Wanted) -> Wanted:
    """Return what is wanted with its bounds: a billing period is of two parties, and has days of its own time zone."""
    if wanted.number is None:
        return wanted
    row = period_row(db, wanted.number)
    if wanted.tenant not in {None, row.tenant} or wanted.operator not in {None, row.operator}:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no billing period {wanted.number}")
    return replace(
        wanted,
        period=Period(row.start, row.end),
        tenant=row.tenant,
        operator=row.operator,
        time_zone=row.time_zone,
    )


def _charges(db: Session, wanted: Wanted, period: Period) -> Iterator[Charge]:
    names = names_of(db)
    if wanted.number is not None:
        found: Iterator[Charge] = charges_of(db, period_row(db, wanted.number), names)
    else:
        found = reading.charges(db, period, tenant=wanted.tenant, operator=wanted.operator)
    numbers = InvoiceNumbers(db, wanted.operator)
    for charge in found:
        name = None if charge.model_root is None else names.get(charge.model_root)
        billed = numbers.of(charge)
        if billed is not None and billed.line is None and wanted.format in _BY_LINE:
            billed = None
        yield replace(
            charge,
            model_name=name,
            invoice_id=billed and billed.invoice,
            invoice_line=billed and billed.line,
        )


def _periods(db: Session, wanted: Wanted, period: Period) -> Iterator[BilledPeriod]:
    for item in schedule.periods(db, tenant=wanted.tenant, operator=wanted.operator):
        if wanted.number in {None, item.row.id} and period.start <= item.row.start < period.end:
            closed = item.since if item.state == CLOSED else None
            bounds = Period(item.row.start, item.row.end)
            yield BilledPeriod(item.row.operator, bounds, item.row.start, closed)


def _journal(db: Session, path: Path, wanted: Wanted, about: About) -> Manifest:
    if wanted.accounts is None:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            "a GL journal needs the mapping from our accounts to yours",
            remedy="Name a CSV file with --accounts (docs/cost.md has an example).",
        )
    rows = db.execute(
        select(JournalRow, PostingRow)
        .join(PostingRow, PostingRow.journal == JournalRow.id)
        .where(
            _belongs(wanted, about.period),
            *(() if wanted.tenant is None else (JournalRow.tenant == wanted.tenant,)),
            *(() if wanted.operator is None else (JournalRow.operator == wanted.operator,)),
        )
        .order_by(JournalRow.id, PostingRow.id)
    )
    postings = (
        Posting(
            str(journal.id),
            journal.day,
            posting.account,
            posting.amount,
            posting.currency,
            journal.memo
            or f"{journal.kind} {journal.operator or ''} {journal.tenant or ''}".strip(),
        )
        for journal, posting in rows
    )
    return write_journal(path, postings, Accounts.parse(wanted.accounts), about)


def _belongs(wanted: Wanted, period: Period) -> ColumnElement[bool]:
    """Return the condition for the journals of some days, or of a billing period: what its bill rests on, whatever its day.

    A journal's day of usage is one of UTC, and a period's are those of its own zone.
    """
    days = and_(
        JournalRow.day >= day_of(period.start, wanted.time_zone),
        JournalRow.day <= day_of(period.end - 1, wanted.time_zone),
    )
    if wanted.number is None:
        return days
    booked = (
        select(row.journal).where(row.period == wanted.number)
        for row in (RatedReceiptRow, CorrectionRow)
    )
    return or_(
        *(JournalRow.id.in_(journals) for journals in booked),
        JournalRow.key == f"close {wanted.number}",
        and_(days, JournalRow.kind.not_in(BY_RULE)),
    )
