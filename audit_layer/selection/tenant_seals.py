"""Tenant seals (protocol §5.1): the audit authority counts every tenant's receipts and refusals, period by period.

A seal is stored before it is sent, like everything that the authority signs: after a crash, the same bytes are sent.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, Select, and_, or_, select
from sqlalchemy.orm import Session

from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.selection.models import SealRow
from audit_layer.selection.settings import AuthoritySettings, SealPeriod
from audit_layer.storage.engine import alone, session
from audit_layer.trail.disclosures import disclosures_of
from audit_layer.trail.models import (
    PartyRow,
    ReceiptRow,
    RefusalRow,
    StatementRow,
    own_number,
)
from shared.codec.moment import Period, day_of, day_period, month_period
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.seals import (
    NO_SEAL,
    TenantSeal,
    counted,
    entries_digest,
    order_numbers,
    refusals_of,
)
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.notes import parse_note

logger = logging.getLogger(__name__)

SEAL_LOCK: Final = 0x63665F7365616C  # "cf_seal": one tick at a time per installation
MAX_BATCH: Final = 500
"""Seals per call to the log; a tick makes no more."""


def period_at(kind: SealPeriod, at: int) -> Period:
    """Return the UTC day or month in which a time (ms) falls."""
    day = day_of(at)
    return day_period(day) if kind == "day" else month_period(day.year, day.month)


@dataclass(frozen=True, slots=True)
class Sealing:
    """Makes the seals that are due. `tick` may be repeated after a crash at any point."""

    name: str
    engine: Engine
    server: AuditServer
    key: Signer
    settings: AuthoritySettings

    def tick(self, now: int) -> int:
        """Send what was stored, then seal what is due at `now` (ms); return how many seals were made.

        Returns at once if another tick is running, or before the log's first witnessed checkpoint.
        """
        with alone(self.engine, SEAL_LOCK) as ours:
            return self._advance(now) if ours else 0

    def _advance(self, now: int) -> int:
        self._send()
        checkpoint = self._checkpoint()
        if checkpoint is None:
            return 0
        with session(self.engine) as db:
            tenants = db.scalars(
                select(PartyRow.name).where(PartyRow.role == "tenant").distinct()
            ).all()
        made = 0
        for tenant in sorted(tenants):
            while made < MAX_BATCH and self._seal_next(tenant, checkpoint, now):
                made += 1
        self._send()
        return made

    def _checkpoint(self) -> Checkpoint | None:
        try:
            note = self.server.checkpoint()
        except CounterfoilError as error:
            if error.code is not Code.NOT_WITNESSED:
                raise
            return None
        return parse_checkpoint(parse_note(note).text)

    def _seal_next(self, tenant: str, checkpoint: Checkpoint, now: int) -> bool:
        """Make and store the tenant's next seal if it is due; return whether it was."""
        with session(self.engine, isolation="REPEATABLE READ") as db:
            row = db.scalar(
                select(SealRow)
                .where(SealRow.tenant == tenant)
                .order_by(SealRow.number.desc())
                .limit(1)
            )
            previous = None if row is None else row.statement
            start = _start(db, tenant, previous, self.settings.seal_period)
            if start is None:
                return False
            end = period_at(self.settings.seal_period, start).end
            closing = end + int(self.settings.seal_grace_seconds * 1000)
            if now < closing or not _covers(db, tenant, checkpoint.size, closing):
                return False
            seal = make_seal(db, tenant, previous, Period(start, end), checkpoint, now)
            statement = sign(seal, key=self.key, issuer=self.name)
            db.add(SealRow(tenant=tenant, number=seal.number, statement=statement))
        logger.info(
            "tenant seal made over %d receipts of %s, %d of them late",
            seal.receipts,
            tenant,
            seal.late,
        )
        return True

    def _send(self) -> None:
        """Send what the log has not acknowledged."""
        with session(self.engine) as db:
            rows = db.scalars(
                select(SealRow)
                .where(SealRow.log_index.is_(None))
                .order_by(SealRow.tenant, SealRow.number)
                .limit(MAX_BATCH)
            ).all()
            if not rows:
                return
            logged = self.server.submit([row.statement for row in rows])
            for row, place in zip(rows, logged, strict=True):
                row.log_index = place.index


def make_seal(
    db: Session,
    tenant: str,
    previous: bytes | None,
    period: Period,
    checkpoint: Checkpoint,
    now: int,
) -> TenantSeal:
    """Return the seal of the period after the previous seal's, from the trail's receipts."""
    before = None if previous is None else read_as(TenantSeal, previous)
    sealed = 0 if before is None else before.size
    receipts = _below(ReceiptRow, own_number(), tenant, checkpoint.size)
    began_within = (ReceiptRow.started >= period.start, ReceiptRow.started < period.end)
    began_before = (ReceiptRow.started < period.start, ReceiptRow.log_index >= sealed)
    on_time = db.execute(receipts.where(*began_within)).all()
    late = db.execute(receipts.where(*began_before)).all()
    disclosed = db.scalars(
        disclosures_of(tenant, StatementRow.entry)
        .where(StatementRow.log_index >= sealed, StatementRow.log_index < checkpoint.size)
        .order_by(StatementRow.log_index)
    ).all()
    due = or_(
        and_(RefusalRow.at >= period.start, RefusalRow.at < period.end),
        and_(RefusalRow.at < period.start, RefusalRow.log_index >= sealed),
    )
    refusals = _below(RefusalRow, RefusalRow.number, tenant, checkpoint.size)
    refused = db.execute(refusals.where(due)).all()
    return TenantSeal(
        tenant=tenant,
        number=0 if before is None else before.number + 1,
        start=period.start,
        end=period.end,
        at=now,
        previous=NO_SEAL if previous is None else entry_of(previous),
        size=checkpoint.size,
        root=checkpoint.root,
        receipts=len(on_time),
        entries=entries_digest(entry for entry, _ in on_time),
        late=len(late),
        late_entries=entries_digest(entry for entry, _ in late),
        orders=order_numbers(
            None if before is None else before.orders,
            (number for _, number in (*on_time, *late, *refused) if number is not None),
        ),
        disclosures=counted(disclosed),
        refusals=refusals_of([entry for entry, _ in refused]),
    )


def _below(kind: Any, number: Any, tenant: str, size: int) -> Select[Any]:
    """Return the query for (entry, number) of a tenant's receipts or refusals below a log index, in its order."""
    return (
        select(kind.entry, number)
        .where(kind.tenant == tenant, kind.log_index < size)
        .order_by(kind.log_index)
    )


def _start(db: Session, tenant: str, previous: bytes | None, kind: SealPeriod) -> int | None:
    """Return where the tenant's next seal begins; None before its first receipt."""
    if previous is not None:
        return read_as(TenantSeal, previous).end
    began = db.scalar(
        select(ReceiptRow.started)
        .where(ReceiptRow.tenant == tenant)
        .order_by(ReceiptRow.log_index)
        .limit(1)
    )
    return None if began is None else period_at(kind, began).start


def _covers(db: Session, tenant: str, size: int, closing: int) -> bool:
    """Whether all of the tenant's receipts and refusals that were recorded before `closing` (ms) are below `size`."""
    return all(_recorded_at(db, kind, tenant, size) >= closing for kind in (ReceiptRow, RefusalRow))


def _recorded_at(db: Session, kind: Any, tenant: str, size: int) -> float:
    """Return when (ms) the first of a tenant's receipts or refusals from a log index on was recorded."""
    found = db.scalar(
        select(StatementRow.recorded_at)
        .join(kind, kind.log_index == StatementRow.log_index)
        .where(kind.tenant == tenant, kind.log_index >= size)
        .order_by(kind.log_index)
        .limit(1)
    )
    return float("inf") if found is None else found
