"""What the trail holds, found again: statements as they were signed, and their index rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail import at_rest
from audit_layer.trail.disclosures import disclosures_of
from audit_layer.trail.identities import TYPES as IDENTITY_TYPES
from audit_layer.trail.models import (
    FindingRow,
    ReceiptRow,
    RefusalRow,
    ResolutionRow,
    StatementRow,
    VerdictRow,
)
from audit_layer.trail.pages import Span
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.identities import identity
from shared.statements.keys import Revocation


@dataclass(frozen=True, slots=True)
class Revoked:
    """When a key bundle's revocation takes effect (ms), and the statement that says so."""

    at: int
    entry: bytes
    statement: bytes


@dataclass(frozen=True, slots=True)
class ReceiptQuery:
    """Which receipts; None means any."""

    tenant: str | None = None
    operator: str | None = None
    node: str | None = None
    model_root: bytes | None = None
    started_from: int | None = None
    started_to: int | None = None


class Reading:
    """The trail's use cases that change nothing. All methods block; all are safe to call from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def statement(self, entry: bytes) -> StatementRow | None:
        """Return one statement; `raw` is empty if it was erased."""
        with session(self._engine) as db:
            row = db.get(StatementRow, entry)
            if row is not None:
                _detach_readable(db, [row])
        return row

    def receipt_row(self, entry: bytes) -> ReceiptRow | None:
        """Return one receipt's index row."""
        with session(self._engine) as db:
            return db.get(ReceiptRow, entry)

    def statements(
        self,
        *,
        type: str | None = None,  # noqa: A002  # the field's name
        page: Span = Span(),  # noqa: B008  # it cannot be changed
    ) -> list[StatementRow]:
        """Return a page of statements; `raw` is empty for those that were erased."""
        query = select(StatementRow)
        if type is not None:
            query = query.where(StatementRow.type == type)
        with session(self._engine) as db:
            rows = list(db.scalars(page.of(query, StatementRow.log_index)))
            _detach_readable(db, rows)
        return rows

    def receipts(self, query: ReceiptQuery, page: Span) -> list[ReceiptRow]:
        """Return a page of receipts."""
        found = select(ReceiptRow)
        for column, value in (
            (ReceiptRow.tenant, query.tenant),
            (ReceiptRow.operator, query.operator),
            (ReceiptRow.node, query.node),
            (ReceiptRow.model_root, query.model_root),
        ):
            if value is not None:
                found = found.where(column == value)
        if query.started_from is not None:
            found = found.where(ReceiptRow.started >= query.started_from)
        if query.started_to is not None:
            found = found.where(ReceiptRow.started < query.started_to)
        return self._all(page.of(found, ReceiptRow.log_index))

    def refusal_row(self, entry: bytes) -> RefusalRow | None:
        """Return one refusal's index row."""
        with session(self._engine) as db:
            return db.get(RefusalRow, entry)

    def refusals(
        self,
        *,
        tenant: str | None = None,
        operator: str | None = None,
        node: str | None = None,
        page: Span,
    ) -> list[RefusalRow]:
        """Return a page of refusals."""
        found = select(RefusalRow)
        for column, value in (
            (RefusalRow.tenant, tenant),
            (RefusalRow.operator, operator),
            (RefusalRow.node, node),
        ):
            if value is not None:
                found = found.where(column == value)
        return self._all(page.of(found, RefusalRow.log_index))

    def verdicts(
        self,
        *,
        tenant: str | None = None,
        operator: str | None = None,
        node: str | None = None,
        page: Span,
    ) -> list[VerdictRow]:
        """Return a page of verdicts."""
        found = select(VerdictRow)
        for column, value in (
            (VerdictRow.tenant, tenant),
            (VerdictRow.operator, operator),
            (VerdictRow.node, node),
        ):
            if value is not None:
                found = found.where(column == value)
        return self._all(page.of(found, VerdictRow.log_index))

    def disclosures(self, *, tenant: str | None = None, page: Span) -> list[StatementRow]:
        """Return a page of statements about disclosures; a tenant's are those about its receipts."""
        return self._all(page.of(disclosures_of(tenant), StatementRow.log_index))

    def findings(self, limit: int = 100) -> list[tuple[FindingRow, int | None]]:
        """Return the latest findings, each with the time at which it ceased to hold.

        An erased statement in one is empty.
        """
        query = (
            select(FindingRow, ResolutionRow.at)
            .outerjoin(ResolutionRow, ResolutionRow.finding == FindingRow.id)
            .order_by(FindingRow.id.desc())
            .limit(limit)
        )
        with session(self._engine) as db:
            found: list[tuple[FindingRow, int | None]] = []
            found.extend((row, resolved_at) for row, resolved_at in db.execute(query))
            db.expunge_all()
            for row, _ in found:
                row.first_statement = _readable(db, row.first_statement)
                row.second_statement = _readable(db, row.second_statement)
        return found

    def revocations(self) -> Mapping[bytes, Revoked]:
        """Return revoked key bundles, each with its earliest revocation."""
        revoked: dict[bytes, Revoked] = {}
        for row in self._all(select(StatementRow).where(StatementRow.type == Revocation.TYPE)):
            value = read_as(Revocation, row.raw)
            known = revoked.get(value.bundle)
            if known is None or value.at < known.at:
                revoked[value.bundle] = Revoked(value.at, row.entry, row.raw)
        return revoked

    def identity(self, role: str, name: str) -> list[StatementRow]:
        """Return the statements about an identity's keys, in log order."""
        query = select(StatementRow).where(
            StatementRow.type.in_(IDENTITY_TYPES), StatementRow.subject == identity(role, name)
        )
        return self._all(query.order_by(StatementRow.log_index))

    def status(self) -> dict[str, int]:
        """Return counts of statements by type, and of findings."""
        with session(self._engine) as db:
            counts = db.execute(select(StatementRow.type, func.count()).group_by(StatementRow.type))
            status = {str(kind): int(count) for kind, count in counts}
            status["findings"] = db.scalar(select(func.count()).select_from(FindingRow)) or 0
        return status

    def _all(self, query: Select[Any]) -> list[Any]:
        with session(self._engine) as db:
            return list(db.scalars(query).all())


def _detach_readable(db: Session, rows: Sequence[StatementRow]) -> None:
    """Give rows their statements as they were signed; stored rows stay unchanged."""
    for row in rows:
        db.expunge(row)
        row.raw = _readable(db, row.raw)


def _readable(db: Session, stored: bytes) -> bytes:
    """Return a statement as it was signed, or empty bytes when it was erased."""
    try:
        return at_rest.decrypted(db, stored)
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return b""
