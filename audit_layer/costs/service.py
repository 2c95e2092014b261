"""The books: rate what is in the log, post it, take invoices, reconcile, export.

Every use case is one transaction and may be repeated: a receipt is rated once, an invoice is taken once.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256

from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from audit_layer.costs.focus import Charge
from audit_layer.costs.invoices import Invoice
from audit_layer.costs.models import (
    InvoiceRow,
    JournalRow,
    PostingRow,
    RateCardRow,
    RatedLineRow,
    RatedReceiptRow,
    ReconciliationRow,
)
from audit_layer.costs.rating import RatedLine, TokenKind, is_billable, rate
from audit_layer.costs.reconcile import Key, Proven, Reconciliation, reconcile
from audit_layer.costs.reporting import as_json, exact
from audit_layer.storage.engine import session
from audit_layer.trail.erasure import unseal
from audit_layer.trail.models import OrderRow, PartyRow, ReceiptRow, StatementRow
from shared.codec.moment import Period, day_of, now_ms
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.orders import Order
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt

BATCH = 500
MAX_AMOUNT = Decimal(10) ** 18
RATE_LOCK = 0x63665F72617465  # "cf_rate"


class Costs:
    """Rating, ledger and reconciliation over one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- rating --------------------------------------------------------------------------------------

    def rate_new(self, *, limit: int = BATCH) -> int:
        """Rate and post receipts that the books have not dealt with, oldest first; return how many."""
        with session(self._engine) as db:
            db.execute(select(func.pg_advisory_xact_lock(RATE_LOCK)))  # one rater at a time
            self._learn_cards(db)
            receipts = db.execute(
                select(ReceiptRow, StatementRow.raw)
                .join(StatementRow, StatementRow.entry == ReceiptRow.entry)
                .outerjoin(RatedReceiptRow, RatedReceiptRow.receipt == ReceiptRow.entry)
                .where(RatedReceiptRow.receipt.is_(None))
                .order_by(ReceiptRow.log_index)
                .limit(limit)
            ).all()
            books = _Posting(db)
            for row, raw in receipts:
                try:
                    signed = unseal(db, raw)
                except CounterfoilError as error:
                    if error.code is not Code.ERASED:
                        raise
                    db.add(_unbillable(row, "erased"))
                    continue
                receipt = read_as(Receipt, signed)
                self._rate_one(db, books, row, receipt)
            books.post()
            return len(receipts)

    def _learn_cards(self, db: Session) -> None:
        """Record rate cards that have entered the log since."""
        known = select(RateCardRow.entry)
        new = db.scalars(
            select(StatementRow).where(
                StatementRow.type == RateCard.TYPE, StatementRow.entry.not_in(known)
            )
        )
        for statement in new:
            card = read_as(RateCard, statement.raw)
            db.add(
                RateCardRow(
                    entry=statement.entry,
                    operator=card.operator,
                    name=card.name,
                    currency=card.currency,
                    valid_from=card.valid_from,
                    valid_to=card.valid_to,
                    statement=statement.raw,
                    recorded_at=now_ms(),
                )
            )
        db.flush()

    def _rate_one(self, db: Session, books: "_Posting", row: ReceiptRow, receipt: Receipt) -> None:
        card_row = db.get(RateCardRow, receipt.rate_card)
        lines, reason = _rated(row, receipt, card_row)
        db.add(
            RatedReceiptRow(
                receipt=row.entry, log_index=row.log_index, billable=reason is None, reason=reason
            )
        )
        if reason is not None or card_row is None:
            return
        order_row = db.get(OrderRow, row.order_entry)
        order = (
            None
            if order_row is None  # `audit fsck` reports it; the books go on
            else read_as(Order, unseal(db, order_row.raw))
        )
        day = day_of(receipt.ended)
        for line in lines:
            books.add(
                RatedLineRow(
                    receipt=row.entry,
                    log_index=row.log_index,
                    tenant=row.tenant,
                    operator=row.operator,
                    node=row.node,
                    model_root=row.model_root,
                    rate_card=receipt.rate_card,
                    day=day,
                    started=receipt.started,
                    ended=receipt.ended,
                    kind=line.kind.value,
                    quantity=line.quantity,
                    unit_price=line.unit_price,
                    per=line.per,
                    amount=line.amount,
                    currency=card_row.currency,
                    cost_centre=None if order is None else order.cost_centre,
                )
            )

    # -- invoices ------------------------------------------------------------------------------------

    def take_invoice(self, content: bytes) -> int:
        """Store an invoice as handed in; the same bytes again are the same invoice.

        Errors: MALFORMED; NOT_FOUND when its operator is none of this log's; CONFLICT when other bytes have its number.
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
                    received_at=now_ms(),
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
                    f"invoice {invoice.invoice_id!r} of {invoice.operator} was handed in before "
                    "with another content",
                    remedy="A corrected invoice needs a number of its own.",
                )
            return known.id

    def reconcile(self, invoice_row: int) -> Reconciliation:
        """Compare a stored invoice with the rated lines of its period and currency, and keep the result.

        Errors: NOT_FOUND; CONFLICT when the contract has another currency only.
        """
        with session(self._engine) as db:
            row = db.get(InvoiceRow, invoice_row)
            if row is None:
                raise CounterfoilError(Code.NOT_FOUND, f"there is no invoice {invoice_row}")
            invoice = Invoice.parse(row.content)
            lines = _lines(db, invoice.operator, invoice.days.period)
            currencies = {line.currency for line in lines} or {invoice.currency}
            currency = invoice.currency if invoice.currency in currencies else min(currencies)
            proven = _proven([line for line in lines if line.currency == currency])
            result = reconcile(invoice, proven, currency=currency)
            db.add(
                ReconciliationRow(
                    invoice=row.id,
                    log_size=(db.scalar(select(func.max(ReceiptRow.log_index))) or 0) + 1,
                    result=json.dumps(as_json(result)),
                    computed_at=now_ms(),
                )
            )
            return result

    # -- reading -------------------------------------------------------------------------------------

    def charges(
        self, period: Period, *, tenant: str | None = None, operator: str | None = None
    ) -> Iterator[Charge]:
        """Yield the charges of the receipts that ended in the period, in order of log index."""
        query = select(RatedLineRow).where(*_ended_in(period))
        if tenant is not None:
            query = query.where(RatedLineRow.tenant == tenant)
        if operator is not None:
            query = query.where(RatedLineRow.operator == operator)
        with session(self._engine) as db:
            for line in db.scalars(query.order_by(RatedLineRow.log_index, RatedLineRow.id)):
                yield _charge(line, period)

    def totals(self, *, tenant: str | None = None) -> list[dict[str, str | int]]:
        """Return what is booked by operator and node: receipts, tokens, exact amount."""
        query = (
            select(
                RatedLineRow.operator,
                RatedLineRow.node,
                RatedLineRow.currency,
                func.count(RatedLineRow.receipt.distinct()),
                func.sum(RatedLineRow.quantity),
                func.sum(RatedLineRow.amount),
            )
            .group_by(RatedLineRow.operator, RatedLineRow.node, RatedLineRow.currency)
            .order_by(RatedLineRow.operator, RatedLineRow.node)
        )
        if tenant is not None:
            query = query.where(RatedLineRow.tenant == tenant)
        with session(self._engine) as db:
            return [
                {
                    "operator": operator,
                    "node": node,
                    "currency": currency,
                    "receipts": receipts,
                    "tokens": int(tokens),
                    "amount": exact(Fraction(amount)),
                }
                for operator, node, currency, receipts, tokens, amount in db.execute(query)
            ]

    def pending(self) -> int:
        """Return how many receipts are in the log and not in the books."""
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


class _Posting:
    """Gathers rated lines and posts one journal per tenant, operator, day and currency."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self._lines: dict[tuple[str, str, date, str], list[RatedLineRow]] = defaultdict(list)

    def add(self, line: RatedLineRow) -> None:
        self._lines[line.tenant, line.operator, line.day, line.currency].append(line)

    def post(self) -> None:
        """Debit the tenant's expense, credit what is owed to the operator."""
        for (tenant, operator, day, currency), lines in self._lines.items():
            journal = JournalRow(
                tenant=tenant, operator=operator, day=day, currency=currency, posted_at=now_ms()
            )
            self._db.add(journal)
            self._db.flush()
            total = exact_sum(line.amount for line in lines)
            for line in lines:
                line.journal = journal.id
            self._db.add_all(lines)
            self._db.add_all(
                PostingRow(journal=journal.id, account=account, amount=amount, currency=currency)
                for account, amount in (
                    (f"expense:{tenant}", total),
                    (f"payable:{operator}", -total),
                )
            )


def _unbillable(row: ReceiptRow, reason: str) -> RatedReceiptRow:
    return RatedReceiptRow(
        receipt=row.entry, log_index=row.log_index, billable=False, reason=reason
    )


def _rated(
    row: ReceiptRow, receipt: Receipt, card_row: RateCardRow | None
) -> tuple[tuple[RatedLine, ...], str | None]:
    """Return a receipt's lines, or why it is not billable. One bad card or receipt stops no other."""
    if not is_billable(receipt):
        return (), "failed"
    if card_row is None:
        return (), "rate card not in the log"
    if card_row.operator != row.operator:
        return (), "rate card of another operator"
    if not card_row.valid_from <= receipt.started < (card_row.valid_to or 2**63):
        return (), "rate card not valid at the time"
    try:
        lines = rate(receipt, read_as(RateCard, card_row.statement))
    except CounterfoilError as error:
        return (), error.detail
    if exact_sum(line.amount for line in lines) > MAX_AMOUNT:
        return (), "amount out of range"
    return lines, None


def _check_operator(db: Session, name: str) -> None:
    """Refuse an operator that this log does not know, with those that it does."""
    known = sorted(set(db.scalars(select(PartyRow.name).where(PartyRow.role == "operator"))))
    if name not in known:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the invoice's operator {name!r} is not registered here",
            remedy=f"Known operators: {', '.join(known[:20]) or 'none yet'}.",
        )


def _ended_in(period: Period) -> tuple[ColumnElement[bool], ...]:
    """Return what rated lines of a period fulfil; the day is what the index has."""
    return (
        RatedLineRow.day >= day_of(period.start),
        RatedLineRow.day <= day_of(period.end - 1),
        RatedLineRow.ended >= period.start,
        RatedLineRow.ended < period.end,
    )


def _lines(db: Session, operator: str, period: Period) -> Sequence[RatedLineRow]:
    return db.scalars(
        select(RatedLineRow).where(RatedLineRow.operator == operator, *_ended_in(period))
    ).all()


def _proven(lines: Sequence[RatedLineRow]) -> dict[Key, Proven]:
    """Add lines up per key. Prices that changed within the period are averaged exactly, by quantity."""
    quantities: dict[Key, dict[TokenKind, int]] = defaultdict(lambda: dict.fromkeys(TokenKind, 0))
    values: dict[Key, dict[TokenKind, Fraction]] = defaultdict(
        lambda: dict.fromkeys(TokenKind, Fraction(0))
    )
    listed: dict[Key, dict[TokenKind, Fraction]] = defaultdict(dict)
    for line in lines:
        key, kind = (line.tenant, line.node, line.model_root.hex()), TokenKind(line.kind)
        quantities[key][kind] += line.quantity
        values[key][kind] += Fraction(line.amount)
        listed[key][kind] = Fraction(line.unit_price) / line.per
    return {
        key: Proven(
            counts,
            {
                kind: values[key][kind] / counts[kind]
                if counts[kind]
                else listed[key].get(kind, Fraction(0))
                for kind in TokenKind
            },
        )
        for key, counts in quantities.items()
    }


def _charge(line: RatedLineRow, period: Period) -> Charge:
    return Charge(
        tenant=line.tenant,
        operator=line.operator,
        node=line.node,
        model_root=line.model_root,
        kind=line.kind,
        quantity=line.quantity,
        unit_price=line.unit_price,
        per=line.per,
        amount=line.amount,
        currency=line.currency,
        started=line.started,
        ended=line.ended,
        period_start=period.start,
        period_end=period.end,
        receipt=line.receipt,
        log_index=line.log_index,
        rate_card=line.rate_card,
        cost_centre=line.cost_centre,
    )
