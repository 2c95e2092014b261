"""Billing periods: which one a charge belongs to, and their state. In the caller's transaction, one process at a time.

A period is a calendar month of the contract's time zone. What is booked into a period that is closed goes to the next one
that is open: a correction there. So does what belongs before a closed one, where no period ever was: periods close in order.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.contracts.store import time_zone_at
from audit_layer.costs.models import PeriodEventRow, PeriodRow
from shared.codec.moment import day_of, month_period

OPEN: Final = "open"
SOFT_CLOSED: Final = "soft-closed"
CLOSING: Final = "closing"
"""Asked to be closed; the audit authority's process does it."""
CLOSED: Final = "closed"
Parties = tuple[str, str, str]
"""(tenant, operator, currency)"""


@dataclass(slots=True)
class _Calendar:
    """The periods of some parties, in order."""

    starts: list[int]
    rows: list[PeriodRow]
    closed: int
    """When the last one that is closed ends; nothing is booked before that."""


class Periods:
    """Finds and makes the periods of one transaction."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self._known: dict[Parties, _Calendar] = {}
        self._closed: set[int] = set(
            db.scalars(select(PeriodEventRow.period).where(PeriodEventRow.state == CLOSED))
        )

    def holding(self, tenant: str, operator: str, currency: str, at: int) -> int:
        """Return the period into which a charge of this time (ms) is booked."""
        parties = (tenant, operator, currency)
        calendar = self._known.get(parties) or self._calendar(parties)
        return self._at(parties, calendar, max(at, calendar.closed)).id

    def _at(self, parties: Parties, calendar: _Calendar, at: int) -> PeriodRow:
        rows, place = calendar.rows, bisect_right(calendar.starts, at)
        if place and at < rows[place - 1].end:
            return rows[place - 1]
        after = rows[place].start if place < len(rows) else None
        made = self._make(parties, at, rows[place - 1].end if place else None, after)
        calendar.starts.insert(place, made.start)
        rows.insert(place, made)
        return made

    def _calendar(self, parties: Parties) -> _Calendar:
        rows = list(self._stored(parties))
        ends = (row.end for row in rows if row.id in self._closed)
        found = _Calendar([row.start for row in rows], rows, max(ends, default=0))
        self._known[parties] = found
        return found

    def _stored(self, parties: Parties) -> Sequence[PeriodRow]:
        tenant, operator, currency = parties
        return self._db.scalars(
            select(PeriodRow)
            .where(
                PeriodRow.tenant == tenant,
                PeriodRow.operator == operator,
                PeriodRow.currency == currency,
            )
            .order_by(PeriodRow.start)
        ).all()

    def _make(
        self, parties: Parties, at: int, earliest: int | None, latest: int | None
    ) -> PeriodRow:
        """Make the month of a time. Where a contract changed the zone, it begins where the one before ends."""
        tenant, operator, currency = parties
        zone = time_zone_at(self._db, tenant, operator, at)
        day = day_of(at, zone)
        month = month_period(day.year, day.month, zone)
        row = PeriodRow(
            tenant=tenant,
            operator=operator,
            currency=currency,
            start=month.start if earliest is None else max(month.start, earliest),
            end=month.end if latest is None else min(month.end, latest),
            time_zone=zone,
        )
        self._db.add(row)
        self._db.flush()
        return row


def state_of(db: Session, period: int) -> str:
    """Return a period's state."""
    last = (
        select(PeriodEventRow.state)
        .where(PeriodEventRow.period == period)
        .order_by(PeriodEventRow.turn.desc())
        .limit(1)
    )
    return db.scalar(last) or OPEN


def next_turn(db: Session, period: int) -> int:
    """Return the number of a period's next event."""
    turn = select(func.max(PeriodEventRow.turn)).where(PeriodEventRow.period == period)
    highest = db.scalar(turn)
    return 0 if highest is None else highest + 1
