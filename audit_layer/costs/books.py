"""What receipts do to the books: usage is posted, and corrections mirror it. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Select, Subquery, exists, select, tuple_
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.ledger.posting import Journal, Posting, post
from audit_layer.costs.models import CorrectionRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.periods import Periods
from audit_layer.trail.models import VerdictRow
from audit_layer.trail.standings import opinion_of
from shared.codec.moment import day_of, now_ms
from shared.codec.money import exact_sum
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.verdicts import Outcome
from shared.verification.payable import Claim, Standing, State, standings

CHUNK = 500
"""Requests settled per query."""
Request = tuple[str, int]
"""(tenant, number)"""
COLUMNS: Final = (
    *("receipt", "log_index", "order_entry", "tenant", "number", "attempt", "complete", "billable", "reason"),
    *("operator", "node", "model_root", "day", "started", "ended", "input", "cached", "output", "rate_card", "amount"),
    *("currency", "cost_centre", "journal", "period"),
)  # fmt: skip
"""Of a rated receipt, in the order in which they are copied."""
_LOG_INDEX, _AMOUNT, _JOURNAL, _PERIOD = map(
    COLUMNS.index, ("log_index", "amount", "journal", "period")
)


class Usage:
    """Gathers what is billable and posts one journal per tenant, operator, day, currency and billing period."""

    def __init__(self) -> None:
        self._groups: dict[tuple[date, str, str, str, int], list[list[Any]]] = defaultdict(list)

    def add(self, day: date, tenant: str, operator: str, currency: str, record: list[Any]) -> None:
        """Gather a rated receipt's values; `post` gives it its journal."""
        self._groups[day, tenant, operator, currency, record[_PERIOD]].append(record)

    def post(self, db: Session) -> None:
        """Debit tenants' expense and credit operators' payable."""
        for (day, tenant, operator, currency, _), group in self._groups.items():
            total = exact_sum(record[_AMOUNT] for record in group)
            journal = post(
                db,
                Journal(
                    kind="usage",
                    key=f"usage {tenant} {operator} {day} {currency} {group[0][_LOG_INDEX]}",
                    day=day,
                    postings=owed(tenant, operator, total, currency),
                    tenant=tenant,
                    operator=operator,
                ),
            )
            for record in group:
                record[_JOURNAL] = journal


def owed(tenant: str, operator: str, amount: Decimal, currency: str) -> tuple[Posting, Posting]:
    """Debit the tenant's expense and credit the operator's payable."""
    return (
        Posting(f"expense:{tenant}", amount, currency),
        Posting(f"payable:{operator}", amount.copy_negate(), currency),
    )


def settle(db: Session, requests: Collection[Request]) -> int:
    """Bring these requests' standing in the books in line with the rule; return how many receipts changed."""
    changed, periods = 0, Periods(db)
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
                changed += _correct(db, periods, claim.receipt, wanted[claim.receipt], last)
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


def _correct(
    db: Session, periods: Periods, receipt: bytes, wanted: Standing, last: CorrectionRow | None
) -> bool:
    """Append a correction where the books differ from the rule; return whether they did."""
    payable = wanted.state is not State.REFUSED  # what is held stays posted
    reason, because = (None, None) if payable else (wanted.reason, wanted.because)
    before = (True, None, None) if last is None else (last.payable, last.reason, last.because)
    if before == (payable, reason, because):
        return False
    row, journal, period = db.get_one(RatedReceiptRow, receipt), None, None
    turn = 0 if last is None else last.turn + 1
    if before[0] is not payable and row.amount is not None and row.currency is not None:
        amount = row.amount if payable else row.amount.copy_negate()
        period = periods.holding(row.tenant, row.operator, row.currency, row.ended)
        journal = post(
            db,
            Journal(
                kind="correction",
                key=f"correction {receipt.hex()} {turn}",
                day=day_of(now_ms()),
                postings=owed(row.tenant, row.operator, amount, row.currency),
                tenant=row.tenant,
                operator=row.operator,
            ),
        )
    db.add(
        CorrectionRow(
            receipt=receipt,
            turn=turn,
            payable=payable,
            reason=reason,
            because=because,
            journal=journal,
            period=period,
            at=now_ms(),
        )
    )
    return True
