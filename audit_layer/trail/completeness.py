"""What the trail has about all receipts of one tenant that began in a period: the seals that cover it, and their receipts."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Engine, and_, null, or_, select
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.models import PartyRow, ReceiptRow, RefusalRow, StatementRow
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.seals import TenantSeal


@dataclass(frozen=True, slots=True)
class Listed:
    """A receipt as lists of receipts show it."""

    index: int
    entry: bytes
    number: int
    attempt: int
    started: int
    part: bool
    """Whether it is for a part of a chain's answer, which has no number of its own."""
    statement: bytes | None
    """The signed receipt, if it was asked for or if only it shows that the receipt belongs to the period."""
    erased: bool
    """Whether it would be present but was erased."""


@dataclass(frozen=True, slots=True)
class ListedRefusal:
    """A refusal that a seal counts."""

    index: int
    entry: bytes
    statement: bytes


@dataclass(frozen=True, slots=True)
class SealWithReceipts:
    """A tenant seal, and the receipts that its digests cover; None if the question does not need them."""

    entry: bytes
    raw: bytes
    seal: TenantSeal
    receipts: tuple[Listed, ...] | None
    late: tuple[Listed, ...] | None
    refusals: tuple[ListedRefusal, ...]
    """Those that it counts, where its receipts are listed."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything about one period, read in one snapshot."""

    seals: tuple[SealWithReceipts, ...]
    """In order: the one before the period if there is one, those that cover it, and all later ones for their late receipts."""
    unsealed: tuple[Listed, ...]
    """Receipts of the period that no tenant seal counts yet."""


def holdings(
    engine: Engine, tenant: str, period: Period, *, limit: int, statements: bool = False
) -> Holdings:
    """Read what there is about `tenant` in `period`; with `statements`, the signed receipts too.

    INVALID_ARGUMENT when more than `limit` receipts would have to be listed.
    """
    with session(engine, isolation="REPEATABLE READ") as db:
        reader = _Reader(db, tenant, limit)
        known = tenant_seals(db, tenant)
        first = next(
            (at for at, item in enumerate(known) if item[1].end > period.start), len(known)
        )
        found: list[SealWithReceipts] = []
        for at in range(max(0, first - 1), len(known)):
            row, seal = known[at]
            before = known[at - 1][1].size if at else 0
            covers = at >= first and seal.start < period.end
            inside = period.start <= seal.start and seal.end <= period.end
            receipts = reader.on_time(seal, statements or not inside) if covers else None
            late = reader.late(seal, before) if at >= first else None
            refusals = reader.refusals(seal, before) if covers else ()
            found.append(SealWithReceipts(row.entry, row.raw, seal, receipts, late, refusals))
        newest = known[-1][1] if known else None
        return Holdings(tuple(found), reader.unsealed(period, newest, statements))


def authority_keys(engine: Engine) -> list[bytes]:
    """Return the public keys that have been believed as the audit authority's, including those now disabled."""
    with session(engine) as db:
        return list(
            db.scalars(
                select(PartyRow.public_key)
                .where(PartyRow.role == "authority")
                .order_by(PartyRow.id)
            )
        )


def tenant_seals(db: Session, tenant: str) -> list[tuple[StatementRow, TenantSeal]]:
    """Return all of a tenant's seals, in order of their numbers."""
    rows = db.scalars(
        select(StatementRow).where(
            StatementRow.type == TenantSeal.TYPE, StatementRow.subject == tenant
        )
    )
    return sorted(
        ((row, read_as(TenantSeal, row.raw)) for row in rows), key=lambda item: item[1].number
    )


class _Reader:
    """Lists receipts of one tenant, up to a total limit."""

    def __init__(self, db: Session, tenant: str, limit: int) -> None:
        self._db = db
        self._tenant = tenant
        self._left = limit

    def on_time(self, seal: TenantSeal, statements: bool) -> tuple[Listed, ...]:
        """Return the receipts that a seal counts as on time."""
        began = (ReceiptRow.started >= seal.start, ReceiptRow.started < seal.end)
        return self._list(statements, *began, ReceiptRow.log_index < seal.size)

    def late(self, seal: TenantSeal, before: int) -> tuple[Listed, ...]:
        """Return the receipts that a seal counts as late; `before` is the size of the seal before it.

        The seal does not say when they began, so each comes with its statement.
        """
        came = (ReceiptRow.log_index >= before, ReceiptRow.log_index < seal.size)
        return self._list(True, *came, ReceiptRow.started < seal.start)

    def refusals(self, seal: TenantSeal, before: int) -> tuple[ListedRefusal, ...]:
        """Return the refusals that a seal counts; `before` is the size of the seal before it."""
        counted = or_(
            and_(RefusalRow.at >= seal.start, RefusalRow.at < seal.end),
            and_(RefusalRow.at < seal.start, RefusalRow.log_index >= before),
        )
        rows = self._db.execute(
            select(RefusalRow.log_index, RefusalRow.entry, StatementRow.raw)
            .join(StatementRow, StatementRow.entry == RefusalRow.entry)
            .where(RefusalRow.tenant == self._tenant, RefusalRow.log_index < seal.size, counted)
            .order_by(RefusalRow.log_index)
            .limit(self._left + 1)
        ).all()
        self._take(len(rows))
        return tuple(ListedRefusal(*row) for row in rows)

    def unsealed(
        self, period: Period, newest: TenantSeal | None, statements: bool
    ) -> tuple[Listed, ...]:
        """Return the period's receipts that no seal counts."""
        began = (ReceiptRow.started >= period.start, ReceiptRow.started < period.end)
        if newest is None:
            return self._list(statements, *began)
        uncounted = (ReceiptRow.log_index >= newest.size) | (ReceiptRow.started >= newest.end)
        return self._list(statements, *began, uncounted)

    def _list(self, statements: bool, *conditions: ColumnElement[bool]) -> tuple[Listed, ...]:
        query = select(
            ReceiptRow.log_index,
            ReceiptRow.entry,
            ReceiptRow.number,
            ReceiptRow.attempt,
            ReceiptRow.started,
            ReceiptRow.part,
            StatementRow.raw if statements else null(),
        ).where(ReceiptRow.tenant == self._tenant, *conditions)
        if statements:
            query = query.join(StatementRow, StatementRow.entry == ReceiptRow.entry)
        query = query.order_by(ReceiptRow.log_index).limit(self._left + 1)
        rows = self._db.execute(query).all()
        self._take(len(rows))
        return tuple(Listed(*row[:-1], *self._readable(row[-1])) for row in rows)

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                "the period has more receipts than one answer may list",
                remedy="Ask for a shorter period.",
            )

    def _readable(self, stored: bytes | None) -> tuple[bytes | None, bool]:
        """Return a statement as it was signed, if asked for and not erased, and whether it is erased."""
        try:
            return (None if stored is None else decrypted(self._db, stored)), False
        except CounterfoilError as error:
            if error.code is not Code.ERASED:
                raise
            return None, True
