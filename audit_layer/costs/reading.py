"""What the books say: a period's charges, totals, and what an invoice is compared with. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    Select,
    and_,
    any_,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.orm import Session

from audit_layer.costs.books import card_of, held, last_corrections
from audit_layer.costs.charge import AuditState, Charge, ChargeKind
from audit_layer.costs.models import CorrectionRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.reporting import exact
from audit_layer.trail.models import ReceiptRow
from shared.codec.moment import Period, day_of
from shared.verification.payable import ANSWERED, PAYABLE, Standing, State
from shared.verification.rating import RatedLine, price_for, rate_tokens

Total = dict[str, str | int]


def charges(
    db: Session, period: Period, *, tenant: str | None, operator: str | None
) -> Iterator[Charge]:
    """Yield what a period adds to the bill, in order of log index: the exports of all periods sum to the books.

    A receipt that both ended and ceased to be payable in the period adds nothing. What changed later is a
    correction in the period in which the books recorded the change.
    """
    flips = _flips(db, period)
    waiting = held(db)
    query = select(RatedReceiptRow).where(
        RatedReceiptRow.amount.is_not(None),
        or_(and_(*ended_in(period)), RatedReceiptRow.receipt.in_(_changed_in(period))),
    )
    if tenant is not None:
        query = query.where(RatedReceiptRow.tenant == tenant)
    if operator is not None:
        query = query.where(RatedReceiptRow.operator == operator)
    cards = {row.entry: card_of(row) for row in db.scalars(select(RateCardRow))}
    for row in db.scalars(query.order_by(RatedReceiptRow.log_index)):
        own = row.ended in period
        changes = flips.get(row.receipt, ())
        net = own + sum(1 if change.payable else -1 for change in changes)
        if net:
            last = changes[-1] if changes and not own else None
            price = price_for(cards[row.rate_card], row.model_root)
            for line in rate_tokens((row.input, row.cached, row.output), price):
                yield _charge(row, line, period, net, last, waiting.get(row.receipt))


def totals(db: Session, tenant: str | None) -> list[Total]:
    """Return, by operator and node, what is payable, what is held up by a verdict, and what is refused."""
    last = last_corrections()
    amount = RatedReceiptRow.amount
    quantity = RatedReceiptRow.input + RatedReceiptRow.cached + RatedReceiptRow.output
    refused = last.c.payable.is_(False)
    waiting = and_(
        ~func.coalesce(refused, False),
        among(RatedReceiptRow.receipt, held(db)),
    )
    payable = and_(~func.coalesce(refused, False), ~waiting)
    query = (
        select(
            RatedReceiptRow.operator,
            RatedReceiptRow.node,
            RatedReceiptRow.currency,
            func.count().filter(payable),
            _sum(quantity, payable),
            _sum(amount, payable),
            _sum(amount, waiting),
            _sum(amount, refused),
        )
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(amount.is_not(None))
        .group_by(RatedReceiptRow.operator, RatedReceiptRow.node, RatedReceiptRow.currency)
        .order_by(RatedReceiptRow.operator, RatedReceiptRow.node)
    )
    if tenant is not None:
        query = query.where(RatedReceiptRow.tenant == tenant)
    return [
        {
            "operator": name,
            "node": node,
            "currency": currency,
            "receipts": receipts,
            "tokens": int(tokens),
            "amount": exact(Fraction(due)),
            "held": exact(Fraction(stuck)),
            "refused": exact(Fraction(lost)),
        }
        for name, node, currency, receipts, tokens, due, stuck, lost in db.execute(query)
    ]


def _sum(column: Any, part: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return the sum over some of the lines; zero for none."""
    return func.coalesce(func.sum(column).filter(part), 0)


@dataclass(frozen=True, slots=True)
class Unpaid:
    """A receipt that is not payable, or not yet, and why."""

    receipt: bytes
    log_index: int
    tenant: str
    number: int
    attempt: int
    operator: str
    node: str
    state: State
    reason: str
    because: bytes | None
    """Entry of the statement that makes it so: a verdict or another receipt."""
    amount: str | None
    """The exact amount it would come to; None where it was never rated."""
    currency: str | None


def unpaid(db: Session, tenant: str | None, limit: int) -> list[Unpaid]:
    """Return the latest receipts that are refused or held."""
    last, waiting = last_corrections(), held(db)
    query = (
        select(RatedReceiptRow, ReceiptRow, last.c.reason, last.c.because)
        .join(ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt)
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(
            or_(
                ~RatedReceiptRow.billable,
                last.c.payable.is_(False),
                among(RatedReceiptRow.receipt, waiting),
            )
        )
        .order_by(RatedReceiptRow.log_index.desc())
        .limit(limit)
    )
    if tenant is not None:
        query = query.where(RatedReceiptRow.tenant == tenant)
    rows = db.execute(query).all()
    amounts = _amounts(db, [row.receipt for row, *_ in rows])
    answers = _first_answers(db, [row.order_entry for row, *_ in rows if row.reason == ANSWERED])
    found = []
    for row, receipt, corrected, because in rows:
        standing = waiting.get(row.receipt) or Standing(
            State.REFUSED,
            corrected or row.reason,
            because or (answers[row.order_entry] if row.reason == ANSWERED else None),
        )
        amount, currency = amounts.get(row.receipt, (None, None))
        found.append(
            Unpaid(
                receipt=row.receipt,
                log_index=row.log_index,
                tenant=row.tenant,
                number=row.number,
                attempt=row.attempt,
                operator=receipt.operator,
                node=receipt.node,
                state=standing.state,
                reason=standing.reason or "",
                because=standing.because,
                amount=amount,
                currency=currency,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Payability:
    """What becomes of one receipt's amount; exact, None where it was never rated."""

    standing: Standing
    amount: str | None
    currency: str | None


def payability(db: Session, receipt: bytes) -> Payability | None:
    """Return whether one receipt is payable, and why not if it is not; None before the books have processed it."""
    standing = _standing_of(db, receipt)
    if standing is None:
        return None
    return Payability(standing, *_amounts(db, [receipt]).get(receipt, (None, None)))


def _standing_of(db: Session, receipt: bytes) -> Standing | None:
    row = db.get(RatedReceiptRow, receipt)
    if row is None:
        return None
    if not row.billable:
        first = _first_answers(db, [row.order_entry]) if row.reason == ANSWERED else {}
        return Standing(State.REFUSED, row.reason, first.get(row.order_entry))
    last = last_corrections()
    corrected = db.execute(
        select(last.c.payable, last.c.reason, last.c.because).where(last.c.receipt == receipt)
    ).one_or_none()
    if corrected is not None and not corrected.payable:
        return Standing(State.REFUSED, corrected.reason, corrected.because)
    return held(db, receipt).get(receipt, PAYABLE)


def _amounts(db: Session, receipts: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
    query = select(RatedReceiptRow.receipt, RatedReceiptRow.amount, RatedReceiptRow.currency).where(
        among(RatedReceiptRow.receipt, receipts), RatedReceiptRow.amount.is_not(None)
    )
    return {
        receipt: (exact(Fraction(amount or 0)), currency or "")
        for receipt, amount, currency in db.execute(query)
    }


def _first_answers(db: Session, orders: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the receipt that counts for each of these orders."""
    query = (
        select(RatedReceiptRow.order_entry, RatedReceiptRow.receipt)
        .where(among(RatedReceiptRow.order_entry, orders))
        .order_by(RatedReceiptRow.log_index)
    )
    answers: dict[bytes, bytes] = {}
    for order, receipt in db.execute(query):
        answers.setdefault(order, receipt)
    return answers


def among(column: Any, values: Iterable[bytes]) -> ColumnElement[bool]:
    """Return the condition that a column has one of these values, however many."""
    return cast("ColumnElement[bool]", column == any_(literal(list(values), ARRAY(LargeBinary))))


def ended_in(period: Period) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for rated lines of a period; the day is what the index covers."""
    return (
        RatedReceiptRow.day >= day_of(period.start),
        RatedReceiptRow.day <= day_of(period.end - 1),
        RatedReceiptRow.ended >= period.start,
        RatedReceiptRow.ended < period.end,
    )


def _changed_in(period: Period) -> Select[bytes]:
    return select(CorrectionRow.receipt).where(
        CorrectionRow.at >= period.start, CorrectionRow.at < period.end
    )


def _flips(db: Session, period: Period) -> Mapping[bytes, Sequence[CorrectionRow]]:
    """Return a period's corrections that posted something, by receipt, in order."""
    found: dict[bytes, list[CorrectionRow]] = defaultdict(list)
    rows = db.scalars(
        select(CorrectionRow)
        .where(
            CorrectionRow.at >= period.start,
            CorrectionRow.at < period.end,
            CorrectionRow.journal.is_not(None),
        )
        .order_by(CorrectionRow.receipt, CorrectionRow.turn)
    )
    for row in rows:
        found[row.receipt].append(row)
    return found


def _charge(
    row: RatedReceiptRow,
    line: RatedLine,
    period: Period,
    sign: int,
    correction: CorrectionRow | None,
    waiting: Standing | None,
) -> Charge:
    why = correction or waiting
    return Charge(
        tenant=row.tenant,
        operator=row.operator,
        node=row.node,
        model_root=row.model_root,
        kind=ChargeKind(line.kind),
        quantity=sign * line.quantity,
        unit_price=line.unit_price,
        per=line.per,
        amount=line.amount
        if sign > 0
        else line.amount.copy_negate(),  # exact, whatever the context
        currency=row.currency or "",
        started=row.started,
        ended=row.ended,
        period_start=period.start,
        period_end=period.end,
        receipt=row.receipt,
        log_index=row.log_index,
        rate_card=row.rate_card,
        cost_centre=row.cost_centre,
        correction=correction is not None,
        audit=AuditState.UNAUDITED if waiting is None else AuditState.HELD,
        reason=why.reason if why else None,
        because=why.because if why else None,
    )
