"""What receipts do to the books: usage is posted, and corrections mirror it. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, Subquery, and_, exists, select, tuple_
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.chains import links_of
from audit_layer.costs.ledger.posting import Journal, Posting, post_all
from audit_layer.costs.models import CorrectionRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.periods import Periods
from audit_layer.trail.models import RefusalRow, VerdictRow
from audit_layer.trail.standings import opinion_of
from shared.codec.moment import day_of, now_ms
from shared.codec.money import exact_sum
from shared.statements.cose import read_as
from shared.statements.ratecards import RateCard
from shared.statements.verdicts import Outcome
from shared.verification.chain_claims import Link
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
        journals = [
            Journal(
                kind="usage",
                key=f"usage {tenant} {operator} {day} {currency} {group[0][_LOG_INDEX]}",
                day=day,
                postings=owed(
                    tenant, operator, exact_sum(record[_AMOUNT] for record in group), currency
                ),
                tenant=tenant,
                operator=operator,
            )
            for (day, tenant, operator, currency, _), group in self._groups.items()
        ]
        for number, group in zip(post_all(db, journals), self._groups.values(), strict=True):
            for record in group:
                record[_JOURNAL] = number


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
        rows = {row.receipt: row for row in db.scalars(select(RatedReceiptRow).where(these))}
        verdicts = select(VerdictRow).join(
            RatedReceiptRow, RatedReceiptRow.receipt == VerdictRow.receipt
        )
        refused = refusals_of(db, [row.order_entry for row in rows.values()])
        links = links_of(db, these)
        wanted = standings(
            (
                claim_of(row, refused.get(row.order_entry), links.get(row.receipt))
                for row in rows.values()
            ),
            map(opinion_of, db.scalars(verdicts.where(these))),
        )
        present = {row.receipt: row for row in db.scalars(_corrections().where(these))}
        changes = [
            _Change(row, wanted[receipt], present.get(receipt))
            for receipt, row in rows.items()
            if row.billable and _differs(wanted[receipt], present.get(receipt))
        ]
        _correct(db, periods, changes)
        changed += len(changes)
    return changed


def card_of(row: RateCardRow) -> RateCard:
    """Return the contents of a stored rate card."""
    return read_as(RateCard, row.statement)


def refusals_of(db: Session, orders: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return, of these orders, those that were refused, each with the entry of its refusal."""
    query = select(RefusalRow.order_entry, RefusalRow.entry)
    found = db.execute(query.where(RefusalRow.order_entry.in_(orders)))
    return {row.order_entry: row.entry for row in found}


def claim_of(row: RatedReceiptRow, refused: bytes | None = None, link: Link | None = None) -> Claim:
    """Return a rated receipt in the rule's terms, given the refusal of its order and its place in a chain, if it has one."""
    return Claim(
        receipt=row.receipt,
        log_index=row.log_index,
        order=row.order_entry,
        tenant=row.tenant,
        number=row.number,
        attempt=row.attempt,
        complete=row.complete,
        unbillable=row.reason,
        refused=refused,
        link=link,
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
    failed = (
        select(RatedReceiptRow.tenant, RatedReceiptRow.number)
        .join(VerdictRow, VerdictRow.receipt == RatedReceiptRow.receipt)
        .where(VerdictRow.outcome == Outcome.FAIL.value)
    )
    if receipt is not None:
        own = aliased(RatedReceiptRow)
        failed = failed.join(
            own, and_(own.tenant == RatedReceiptRow.tenant, own.number == RatedReceiptRow.number)
        ).where(own.receipt == receipt)
    contested = {(tenant, number) for tenant, number in db.execute(failed)}
    found: dict[bytes, Standing] = {}
    ordered, last = sorted(contested), last_corrections()
    for at in range(0, len(ordered), CHUNK):
        these = tuple_(RatedReceiptRow.tenant, RatedReceiptRow.number).in_(ordered[at : at + CHUNK])
        rows = db.scalars(
            select(RatedReceiptRow)
            .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
            .where(these, RatedReceiptRow.billable, last.c.payable.is_distinct_from(False))
        ).all()
        opinions = db.scalars(
            select(VerdictRow).where(VerdictRow.receipt.in_([row.receipt for row in rows]))
        )
        links = links_of(db, these)
        posted = [claim_of(row, link=links.get(row.receipt)) for row in rows]
        found |= standings(posted, map(opinion_of, opinions))
    return {entry: how for entry, how in found.items() if how.state is State.HELD}


def _corrections() -> Select[CorrectionRow]:
    """Return all corrections of a set of receipts, each receipt's latest last."""
    return (
        select(CorrectionRow)
        .join(RatedReceiptRow, RatedReceiptRow.receipt == CorrectionRow.receipt)
        .order_by(CorrectionRow.receipt, CorrectionRow.turn)
    )


class _Change(NamedTuple):
    """A receipt of which the books do not say what the rule does."""

    row: RatedReceiptRow
    wanted: Standing
    last: CorrectionRow | None

    @property
    def payable(self) -> bool:
        """Whether it stays posted: what is held does."""
        return self.wanted.state is not State.REFUSED

    @property
    def turn(self) -> int:
        """The number of its next correction."""
        return 0 if self.last is None else self.last.turn + 1

    @property
    def posts(self) -> bool:
        """Whether anything is posted or taken back."""
        was = True if self.last is None else self.last.payable
        return was is not self.payable and self.row.amount is not None

    def journal(self) -> Journal:
        """Return what is posted or taken back."""
        row, amount = self.row, self.row.amount or Decimal(0)
        return Journal(
            kind="correction",
            key=f"correction {row.receipt.hex()} {self.turn}",
            day=day_of(now_ms()),
            postings=owed(
                row.tenant,
                row.operator,
                amount if self.payable else amount.copy_negate(),
                row.currency or "",
            ),
            tenant=row.tenant,
            operator=row.operator,
        )


def _differs(wanted: Standing, last: CorrectionRow | None) -> bool:
    payable = wanted.state is not State.REFUSED
    rule = (True, None, None) if payable else (False, wanted.reason, wanted.because)
    return rule != (
        (True, None, None) if last is None else (last.payable, last.reason, last.because)
    )


def _correct(db: Session, periods: Periods, changes: Sequence[_Change]) -> None:
    """Append a correction for each change, and post what that posts."""
    posting = [change for change in changes if change.posts]
    numbers = post_all(db, [change.journal() for change in posting])
    journals = {change.row.receipt: number for change, number in zip(posting, numbers, strict=True)}
    for change in changes:
        row, wanted = change.row, change.wanted
        journal = journals.get(row.receipt)
        db.add(
            CorrectionRow(
                receipt=row.receipt,
                turn=change.turn,
                payable=change.payable,
                reason=None if change.payable else wanted.reason,
                because=None if change.payable else wanted.because,
                journal=journal,
                period=None
                if journal is None
                else periods.holding(row.tenant, row.operator, row.currency or "", row.ended),
                at=now_ms(),
            )
        )
    db.flush()
