"""The double-entry books: journals of rated lines, and the corrections that mirror them. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import date

from sqlalchemy import Select, Subquery, exists, select, tuple_
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.models import (
    CorrectionRow,
    JournalRow,
    PostingRow,
    RateCardRow,
    RatedLineRow,
    RatedReceiptRow,
)
from audit_layer.costs.payable import Claim, Standing, State, standings
from audit_layer.trail.models import VerdictRow
from audit_layer.trail.standings import opinion_of
from shared.codec.moment import day_of, now_ms
from shared.codec.money import exact_sum
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.verdicts import Outcome

CHUNK = 500
"""Requests settled per query."""
Request = tuple[str, int]
"""(tenant, number)"""


class Posting:
    """Gathers rated lines and posts one journal per tenant, operator, day and currency."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self._lines: dict[tuple[str, str, date, str], list[RatedLineRow]] = defaultdict(list)

    def add(self, line: RatedLineRow) -> None:
        """Gather one line; `post` makes its journal."""
        self._lines[line.tenant, line.operator, line.day, line.currency].append(line)

    def post(self) -> None:
        """Debit the tenant's expense and credit the operator's payable."""
        for lines in self._lines.values():
            journal = _journal(self._db, lines, day=lines[0].day, sign=1)
            for line in lines:
                line.journal = journal
            self._db.add_all(lines)
        self._db.flush()


def settle(db: Session, requests: Collection[Request]) -> int:
    """Bring these requests' standing in the books in line with the rule; return how many receipts changed."""
    changed = 0
    ordered = sorted(requests)
    for at in range(0, len(ordered), CHUNK):
        these = tuple_(RatedReceiptRow.tenant, RatedReceiptRow.number).in_(ordered[at : at + CHUNK])
        claims = [claim_of(row) for row in db.scalars(select(RatedReceiptRow).where(these))]
        verdicts = select(VerdictRow).join(
            RatedReceiptRow, RatedReceiptRow.receipt == VerdictRow.receipt
        )
        wanted = standings(claims, map(opinion_of, db.scalars(verdicts.where(these))))
        present = {row.receipt: row for row in db.scalars(_corrections().where(these))}
        for claim in claims:
            if claim.unbillable is None:
                last = present.get(claim.receipt)
                changed += _correct(db, claim.receipt, wanted[claim.receipt], last)
        db.flush()
    return changed


def card_of(row: RateCardRow) -> RateCard:
    """Return the contents of a stored rate card."""
    return read_as(RateCard, row.statement)


def claim_of(row: RatedReceiptRow) -> Claim:
    """Return a rated receipt in the rule's terms."""
    return Claim(
        receipt=row.receipt,
        log_index=row.log_index,
        order=row.order_entry,
        tenant=row.tenant,
        number=row.number,
        attempt=row.attempt,
        complete=row.complete,
        unbillable=row.reason,
    )


def last_corrections() -> Subquery:
    """Return the last correction of each receipt that has one."""
    later = aliased(CorrectionRow)
    superseded = exists().where(
        later.receipt == CorrectionRow.receipt, later.turn > CorrectionRow.turn
    )
    return select(CorrectionRow).where(~superseded).subquery()


def held(db: Session, receipt: bytes | None = None) -> dict[bytes, Standing]:
    """Return the receipts, or only this one, that are posted and await another worker's verdict."""
    failed = select(VerdictRow.receipt).where(VerdictRow.outcome == Outcome.FAIL.value)
    if receipt is not None:
        failed = failed.where(VerdictRow.receipt == receipt)
    last = last_corrections()
    rows = db.scalars(
        select(RatedReceiptRow)
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(
            RatedReceiptRow.billable,
            RatedReceiptRow.receipt.in_(failed),
            last.c.payable.is_distinct_from(False),
        )
    ).all()
    opinions = db.scalars(select(VerdictRow).where(VerdictRow.receipt.in_(failed)))
    alone = [replace(claim_of(row), tenant="", number=row.log_index) for row in rows]
    found = standings(alone, map(opinion_of, opinions))
    return {receipt: how for receipt, how in found.items() if how.state is State.HELD}


def _corrections() -> Select[CorrectionRow]:
    """Return all corrections of a set of receipts, each receipt's latest last."""
    return (
        select(CorrectionRow)
        .join(RatedReceiptRow, RatedReceiptRow.receipt == CorrectionRow.receipt)
        .order_by(CorrectionRow.receipt, CorrectionRow.turn)
    )


def _correct(db: Session, receipt: bytes, wanted: Standing, last: CorrectionRow | None) -> bool:
    """Append a correction where the books differ from the rule; return whether they did."""
    payable = wanted.state is not State.REFUSED  # what is held stays posted
    reason, because = (None, None) if payable else (wanted.reason, wanted.because)
    before = (True, None, None) if last is None else (last.payable, last.reason, last.because)
    if before == (payable, reason, because):
        return False
    journal = None
    if before[0] is not payable:
        lines = db.scalars(select(RatedLineRow).where(RatedLineRow.receipt == receipt)).all()
        if lines:
            journal = _journal(db, lines, day=day_of(now_ms()), sign=1 if payable else -1)
    db.add(
        CorrectionRow(
            receipt=receipt,
            turn=0 if last is None else last.turn + 1,
            payable=payable,
            reason=reason,
            because=because,
            journal=journal,
            at=now_ms(),
        )
    )
    return True


def _journal(db: Session, lines: Iterable[RatedLineRow], *, day: date, sign: int) -> int:
    """Post lines of one tenant, operator and currency, or mirror them (`sign` −1); return the journal."""
    lines = list(lines)
    first = lines[0]
    journal = JournalRow(
        tenant=first.tenant,
        operator=first.operator,
        day=day,
        currency=first.currency,
        posted_at=now_ms(),
    )
    db.add(journal)
    db.flush()
    total = sign * exact_sum(line.amount for line in lines)
    db.add_all(
        PostingRow(journal=journal.id, account=account, amount=amount, currency=first.currency)
        for account, amount in (
            (f"expense:{first.tenant}", total),
            (f"payable:{first.operator}", -total),
        )
    )
    return journal.id
