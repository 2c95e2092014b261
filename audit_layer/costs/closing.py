"""Closing a billing period: its bill is made final, sealed by the audit authority and posted. Everything in one transaction.

People soft-close a period and ask for its close; the authority's process does it. The seal is stored before it is sent, so
that after a crash the same bytes are sent.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from hashlib import sha256
from typing import Any, Final, Protocol

from sqlalchemy import Engine, and_, func, or_, select, text
from sqlalchemy.orm import Session

from audit_layer.costs.billing import bill_of, lines_of, period_row
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.contracts.bill import Bill
from audit_layer.costs.ledger.posting import SCALE, Journal, Posting, post
from audit_layer.costs.models import PeriodEventRow, PeriodRow
from audit_layer.costs.periods import CLOSED, CLOSING, OPEN, SOFT_CLOSED, next_turn, state_of
from audit_layer.costs.rater import alone as booking_alone
from audit_layer.log.tile_table import log_size
from audit_layer.storage.engine import alone, session
from audit_layer.trail.models import StatementRow
from shared.codec.moment import day_of
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.keys import Signer
from shared.statements.cose import entry_of, sign
from shared.statements.periods import NO_PERIOD, PeriodSeal, lines_root

logger = logging.getLogger(__name__)
CLOSE_LOCK: Final = 0x63665F636C6F7365  # "cf_close"
_ACCOUNTS: Final = {
    ChargeKind.DISCOUNT: "discount",
    ChargeKind.CREDIT: "credit",
    ChargeKind.ROUNDING: "rounding",
    ChargeKind.TAX: "tax",
}
"""Where the tenant's side of a period charge is posted; otherwise it is an expense."""
_POSTED: Final = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_UNBOOKED: Final = text(
    "SELECT EXISTS (SELECT FROM trail_receipts WHERE log_index < :size"
    " AND log_index > (SELECT coalesce(max(log_index), -1) FROM costs_rated_receipts))"
    " OR EXISTS (SELECT FROM trail_verdicts WHERE outcome <> 'PASS' AND log_index < :size"
    " AND log_index > (SELECT coalesce(max(log_index), -1) FROM costs_heeded_verdicts))"
    " OR EXISTS (SELECT FROM trail_refusals WHERE log_index < :size"
    " AND log_index > (SELECT coalesce(max(log_index), -1) FROM costs_heeded_refusals))"
)
STEPS: Final = {
    OPEN: (SOFT_CLOSED,),
    SOFT_CLOSED: (OPEN, CLOSING),
    CLOSING: (SOFT_CLOSED,),
    CLOSED: (),
}
"""From each state, those into which a person may put a period."""


class Log(Protocol):
    """The log, as far as closing needs it."""

    def submit(self, statements: Sequence[bytes]) -> Any:
        """Have statements logged."""
        ...


def put_into(db: Session, number: int, state: str, *, by: str, now: int) -> str:
    """Put a period into a state that a person may choose, and return it; doing so again changes nothing.

    Errors: NOT_FOUND; CONFLICT where its present state does not lead there, or the period is not over.
    """
    booking_alone(db)
    row, present = period_row(db, number), state_of(db, number)
    if present == state:
        return present
    if state not in STEPS[present]:
        raise CounterfoilError(
            Code.CONFLICT,
            f"billing period {number} is {present}, from which it cannot become {state}",
            remedy="A closed period never reopens; what comes late is on the bill of the next open one."
            if present == CLOSED
            else f"From {present} it can become {' or '.join(STEPS[present])}.",
        )
    if row.end > now:
        raise CounterfoilError(
            Code.CONFLICT, f"billing period {number} is not over", remedy="Close it after its end."
        )
    _event(db, number, state, by, now)
    return state


@dataclass(frozen=True, slots=True)
class Closing:
    """Closes what people asked to close. `tick` may be repeated after a crash at any point."""

    name: str
    engine: Engine
    log: Log
    key: Signer

    def tick(self, now: int) -> int:
        """Send what was stored, then close what is to be closed; return how many periods were closed.

        A period whose terms do not allow a bill (no exchange rate, say) stays as it is and stops no other.
        """
        with alone(self.engine, CLOSE_LOCK) as ours:
            if not ours:
                return 0
            self._send()
            closed = sum(self._try(number, now) for number in self._asked())
            self._send()
            return closed

    def _asked(self) -> list[int]:
        with session(self.engine) as db:
            numbers = db.scalars(
                select(PeriodRow.id)
                .where(PeriodRow.id.in_(select(PeriodEventRow.period).where(PeriodEventRow.state == CLOSING)))
                .order_by(PeriodRow.start, PeriodRow.id)
            ).all()  # fmt: skip
            return [number for number in numbers if state_of(db, number) == CLOSING]

    def _try(self, number: int, now: int) -> bool:
        try:
            return self._close(number, now)
        except CounterfoilError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            logger.warning("billing period %d cannot be closed: %s", number, error.detail)
            return False

    def _close(self, number: int, now: int) -> bool:
        """Close one period, unless something has yet to be booked or an earlier one to be closed; both resolve themselves."""
        with session(self.engine) as db:
            booking_alone(db)
            if state_of(db, number) != CLOSING:  # somebody thought better of it meanwhile
                return False
            size = log_size(db)
            row = period_row(db, number)
            if db.scalar(_UNBOOKED, {"size": size}) or _earlier_open(db, row):
                logger.info("billing period %d waits: something earlier is not settled", number)
                return False
            bill = bill_of(db, row)
            at = max(now, _last_close(db, row) + 1)
            seal = _seal(db, row, bill, size, at)
            statement = sign(seal, key=self.key, issuer=self.name)
            journal = close_journal(row, bill)
            if journal is not None:
                post(db, journal)
            fault_point("costs.close.posted")
            _event(
                db, number, CLOSED, self.name, at,
                root=seal.root, statement=statement, bill=bill.document(),
            )  # fmt: skip
        fault_point("costs.close.committed")
        logger.info("billing period %d closed: %d lines", number, seal.lines)
        return True

    def _send(self) -> None:
        """Send seals that the log does not have."""
        with session(self.engine) as db:
            statements = db.scalars(
                select(PeriodEventRow.statement)
                .where(PeriodEventRow.state == CLOSED)
                .order_by(PeriodEventRow.at)
            ).all()
            raws = {entry_of(raw): raw for raw in statements if raw is not None}
            known = db.scalars(select(StatementRow.entry).where(StatementRow.entry.in_(raws))).all()
        missing = [raw for entry, raw in raws.items() if entry not in set(known)]
        if missing:
            self.log.submit(missing)
            fault_point("costs.close.sent")


def _seal(db: Session, row: PeriodRow, bill: Bill, size: int, now: int) -> PeriodSeal:
    count, root = lines_root(lines_of(db, row.id))
    return PeriodSeal(
        tenant=row.tenant,
        operator=row.operator,
        currency=row.currency,
        start=row.start,
        end=row.end,
        time_zone=row.time_zone,
        at=now,
        previous=_previous(db, row),
        size=size,
        lines=count,
        root=root,
        bill=sha256(bill.document()).digest(),
    )


def close_journal(row: PeriodRow, bill: Bill) -> Journal | None:
    """Return what the close posts: the exchange of the usage, and each charge of the period; None if there is nothing.

    After an exchange, an amount may have more digits than a posting holds. It is posted to the last digit held, and the
    rounding line takes up the rest: what is payable is the total.
    """
    tenant, operator = row.tenant, f"payable:{row.operator}"
    postings: list[Posting] = []
    usage = _posted(bill.usage)
    if bill.currency != bill.pricing_currency and usage:
        for account in (operator, f"expense:{tenant}"):
            sign_ = -1 if account == operator else 1
            for amount, currency, way in (
                (bill.usage_priced, bill.pricing_currency, -sign_),
                (usage, bill.currency, sign_),
            ):
                signed = amount if way > 0 else amount.copy_negate()
                postings += [
                    Posting(account, signed, currency),
                    Posting(f"fx:{tenant}", signed.copy_negate(), currency),
                ]
    charged = [(charge.kind, _posted(charge.amount)) for charge in bill.charges]
    rest = _POSTED.subtract(bill.total, exact_sum([usage, *(amount for _, amount in charged)]))
    for kind, amount in [*charged, (ChargeKind.ROUNDING, rest)]:
        if amount:
            account = f"{_ACCOUNTS.get(kind, 'expense')}:{tenant}"
            postings += [
                Posting(account, amount, bill.currency),
                Posting(operator, amount.copy_negate(), bill.currency),
            ]
    if not postings:
        return None
    return Journal(
        kind="close",
        key=f"close {row.id}",
        day=day_of(row.end - 1, row.time_zone),
        postings=postings,
        tenant=tenant,
        operator=row.operator,
        memo=f"total {bill.total:f} {bill.currency}",
    )


def _posted(amount: Decimal) -> Decimal:
    """Return an amount as a posting holds it."""
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -SCALE:
        return amount
    return _POSTED.quantize(amount, Decimal(1).scaleb(-SCALE))


def _event(db: Session, period: int, state: str, by: str, now: int, **sealed: bytes | None) -> None:
    event = PeriodEventRow(
        period=period, turn=next_turn(db, period), state=state, at=now, by=by, **sealed
    )
    db.add(event)
    db.flush()


def _same_parties(row: PeriodRow) -> tuple[Any, ...]:
    return (PeriodRow.tenant == row.tenant, PeriodRow.operator == row.operator)


def _earlier_open(db: Session, row: PeriodRow) -> bool:
    """Whether an earlier period of the two parties, in any currency, is not closed: credits are used up in order."""
    closed = select(PeriodEventRow.period).where(PeriodEventRow.state == CLOSED)
    before = or_(
        PeriodRow.start < row.start,
        and_(PeriodRow.start == row.start, PeriodRow.id < row.id),
    )
    earlier = select(PeriodRow.id).where(*_same_parties(row), before, PeriodRow.id.not_in(closed))
    return db.scalar(select(earlier.exists())) or False


def _last_close(db: Session, row: PeriodRow) -> int:
    """Return when a period of the two parties was last closed (ms): their closes have different times, in order."""
    last = (
        select(func.max(PeriodEventRow.at))
        .join(PeriodRow, PeriodRow.id == PeriodEventRow.period)
        .where(*_same_parties(row), PeriodEventRow.state == CLOSED)
    )
    return db.scalar(last) or 0


def _previous(db: Session, row: PeriodRow) -> bytes:
    statement = db.scalar(
        select(PeriodEventRow.statement)
        .join(PeriodRow, PeriodRow.id == PeriodEventRow.period)
        .where(
            *_same_parties(row),
            PeriodRow.start < row.start,
            PeriodRow.currency == row.currency,
            PeriodEventRow.state == CLOSED,
        )
        .order_by(PeriodRow.start.desc())
        .limit(1)
    )
    return NO_PERIOD if statement is None else entry_of(statement)
