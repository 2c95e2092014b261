"""What tenants ask for, turned into work: each receipt once, soon after its request, within a limit for each tenant (§6.2.7).

In the caller's transaction. Which audit requests were looked at is kept beside what became of them, so that a repeated,
lost or killed tick neither forgets one nor answers it twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from audit_layer.selection.models import AskedRow
from audit_layer.selection.requesting import Requesting
from audit_layer.selection.settings import AuthoritySettings
from audit_layer.selection.work import Assignment
from audit_layer.trail.models import ReceiptRow, StatementRow
from shared.statements.cose import read_as
from shared.statements.disclosures import AuditRequest

AT_ONCE: Final = 500
"""Audit requests that one tick looks at; the rest waits for the next one."""
DAY_MS: Final = 86_400_000
_UNLOGGED: Final = and_(AskedRow.request_statement.is_not(None), ~AskedRow.logged)


class Left(StrEnum):
    """Why an audit request is not answered."""

    AGAIN = "again"
    """The receipt's audit was asked for before."""
    LATE = "late"
    """The receipt was in the log too long before: its node need not have the evidence any more."""
    LIMIT = "limit"
    """Its tenant had as much answered in a day as is permitted; it may ask again."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Looks at audit requests in the order of the log."""

    requesting: Requesting
    within_ms: int
    """How long after its receipt is in the log a request's audit may be asked for."""
    per_day: int
    """How much is answered for one tenant in any 24 hours."""

    @classmethod
    def of(cls, requesting: Requesting, settings: AuthoritySettings) -> "Asking":
        """Return it with an authority's settings."""
        return cls(
            requesting, int(settings.asked_within_seconds * 1000), settings.max_asked_per_day
        )

    def new(self, db: Session, now: int) -> list[Assignment]:
        """Look at what was asked since the last call; return the work that comes of it."""
        return [assigned for assigned in self._looked_at(db, now) if assigned is not None]

    def _looked_at(self, db: Session, now: int) -> Iterator[Assignment | None]:
        seen = select(func.coalesce(func.max(AskedRow.log_index), -1)).scalar_subquery()
        found = db.execute(
            select(
                StatementRow.entry,
                StatementRow.log_index,
                StatementRow.raw,
                StatementRow.recorded_at,
            )
            .where(StatementRow.type == AuditRequest.TYPE, StatementRow.log_index > seen)
            .order_by(StatementRow.log_index)
            .limit(AT_ONCE)
        ).all()
        for entry, index, raw, recorded_at in found:
            wanted = read_as(AuditRequest, raw)
            receipt = db.get_one(ReceiptRow, wanted.receipt)
            since = db.get_one(StatementRow, wanted.receipt).recorded_at
            late = recorded_at > since + self.within_ms
            why = Left.LATE if late else self._left(db, receipt, now)
            assigned = (
                self.requesting.asked(receipt.entry, receipt.log_index, entry, now)
                if why is None
                else None
            )
            db.add(
                AskedRow(
                    audit_request=entry,
                    log_index=index,
                    receipt=receipt.entry,
                    tenant=receipt.tenant,
                    at=now,
                    request_statement=None if assigned is None else assigned.request_statement,
                    left_why=None if why is None else why.value,
                )
            )
            db.flush()
            yield assigned

    def _left(self, db: Session, receipt: ReceiptRow, now: int) -> Left | None:
        answered = select(func.count()).where(AskedRow.request_statement.is_not(None))
        if db.scalar(answered.where(AskedRow.receipt == receipt.entry)):
            return Left.AGAIN
        today = answered.where(AskedRow.tenant == receipt.tenant, AskedRow.at > now - DAY_MS)
        return Left.LIMIT if (db.scalar(today) or 0) >= self.per_day else None


def unlogged(db: Session) -> Sequence[bytes]:
    """Return the disclosure requests of answers that the log has not acknowledged yet, the oldest first."""
    waiting = select(AskedRow.request_statement).where(_UNLOGGED).order_by(AskedRow.log_index)
    return [statement for statement in db.scalars(waiting) if statement is not None]


def note_logged(db: Session) -> None:
    """Record that the log has what `unlogged` returned."""
    db.execute(update(AskedRow).where(_UNLOGGED).values(logged=True))
