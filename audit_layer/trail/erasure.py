"""Erases a tenant's receipts and orders by destroying the data keys under which they are stored.

The order is: choose (nothing more is stored under these keys), log the erasure statement, destroy. Each step is stored before
the next, and `resume` continues wherever a crash left off. Then the key-encryption key is replaced, so that neither an old
row version nor a backup of the database opens what was erased.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, Select, delete, func, select, update
from sqlalchemy.orm import Session

from audit_layer.storage.engine import alone, session
from audit_layer.trail.at_rest import DAY_MS, ENCRYPTED, KEY_LOCK, Keeper, keeper_of
from audit_layer.trail.models import (
    DataKeyRow,
    ErasureRow,
    EvidenceRow,
    ReceiptRow,
    StatementRow,
)
from audit_layer.trail.service import Refused, Submission, Trail
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.erasures import Erasure
from shared.statements.seals import entries_digest

ERASE_LOCK: Final = 0x63665F6572617365  # "cf_erase": one erasure at a time per installation


@dataclass(frozen=True, slots=True)
class Erased:
    """What one erasure made unreadable."""

    entry: bytes
    """Entry of the erasure statement."""
    value: Erasure


class Eraser:
    """Erases with the audit authority's key. One at a time; every call may be repeated after a crash."""

    def __init__(self, engine: Engine, trail: Trail, key: Signer, *, name: str) -> None:
        self._engine = engine
        self._trail = trail
        self._key = key
        self._name = name

    def erase(
        self, tenant: str, period: Period, *, reason: str, requested_by: str, now: int
    ) -> Erased:
        """Erase what began in a period of whole, past UTC days; finish earlier erasures first.

        Errors: INVALID_ARGUMENT for other periods, NOT_FOUND when nothing of theirs is readable, CONFIGURATION
        without a key file.
        """
        if period.start % DAY_MS or period.end % DAY_MS or period.end > now:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "only whole UTC days that are over can be erased"
            )
        with self._alone():
            self._resume(now)
            with session(self._engine) as db:
                _keeper(db)
                number, statement = self._choose(db, tenant, period, reason, requested_by, now)
            self._finish(number, statement, now)
        return Erased(entry_of(statement), read_as(Erasure, statement))

    def resume(self, now: int) -> int:
        """Finish erasures that a crash interrupted, including the key's replacement; return how many there were."""
        with self._alone():
            return self._resume(now)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other erasures out: two that replace the key at once could destroy each other's. CONFLICT while one runs."""
        with alone(self._engine, ERASE_LOCK) as ours:
            if not ours:
                raise CounterfoilError(
                    Code.CONFLICT, "another erasure is running", remedy="Repeat the command later."
                )
            yield

    def _resume(self, now: int) -> int:
        with session(self._engine) as db:
            pending = db.execute(
                select(ErasureRow.id, ErasureRow.statement)
                .where(ErasureRow.done_at.is_(None))
                .order_by(ErasureRow.id)
            ).all()
        for number, statement in pending:
            self._finish(number, statement, now)
        return len(pending)

    def _choose(
        self, db: Session, tenant: str, period: Period, reason: str, requested_by: str, now: int
    ) -> tuple[int, bytes]:
        """Close the keys of the period, and store the statement about everything stored under them."""
        keys = db.scalars(
            select(DataKeyRow)
            .where(
                DataKeyRow.tenant == tenant,
                DataKeyRow.day >= period.start,
                DataKeyRow.day < period.end,
                DataKeyRow.erasure.is_(None),
            )
            .order_by(DataKeyRow.id)
            .with_for_update()
        ).all()
        entries = db.scalars(
            receipts_under([key.id for key in keys], tenant, period).order_by(ReceiptRow.log_index)
        ).all()
        if not entries:
            raise CounterfoilError(
                Code.NOT_FOUND,
                f"no readable receipt of {tenant!r} is stored encrypted for this period",
            )
        value = Erasure(
            tenant=tenant,
            start=period.start,
            end=period.end,
            statements=len(entries),
            entries=entries_digest(entries),
            reason=reason,
            requested_by=requested_by,
            at=now,
        )
        statement = sign(value, key=self._key, issuer=self._name)
        row = ErasureRow(statement=statement, done_at=None)
        db.add(row)
        db.flush()
        for key in keys:
            key.erasure = row.id
        return row.id, statement

    def _finish(self, number: int, statement: bytes, now: int) -> None:
        (result,) = self._trail.submit([Submission(statement)])
        if isinstance(result, Refused):
            raise result.error
        value = read_as(Erasure, statement)
        with session(self._engine) as db:
            keeper = _keeper(db)
            chosen = db.scalars(select(DataKeyRow.id).where(DataKeyRow.erasure == number)).all()
            under = receipts_under(chosen, value.tenant, Period(value.start, value.end))
            db.execute(delete(EvidenceRow).where(EvidenceRow.receipt.in_(under)))
            db.execute(update(DataKeyRow).where(DataKeyRow.id.in_(chosen)).values(wrapped=None))
        keeper.forget()
        self._replace_key(keeper)
        with session(self._engine) as db:
            db.get_one(ErasureRow, number).done_at = now

    def _replace_key(self, keeper: Keeper) -> None:
        """Wrap what is left under a new key-encryption key, and destroy the old one."""
        keeper.begin_rotation()
        with session(self._engine) as db:
            # A process that makes a data key either wraps it under the new key or is waited for (`erasure._keys_for`).
            db.execute(select(func.pg_advisory_xact_lock(KEY_LOCK)))
            rows = db.scalars(
                select(DataKeyRow).where(DataKeyRow.wrapped.is_not(None)).order_by(DataKeyRow.id)
            )
            for row in rows:
                assert row.wrapped is not None
                secret = keeper.unwrap(row.wrapped, row.tenant, row.day)
                row.wrapped = keeper.wrap(secret, row.tenant, row.day)
        with session(self._engine) as db:
            db.execute(select(func.pg_advisory_xact_lock(KEY_LOCK)))
            newest = func.substring(DataKeyRow.wrapped, 1, 8) == keeper.newest
            stray = select(func.count()).where(DataKeyRow.wrapped.is_not(None), ~newest)
            if db.scalar(stray):
                raise CounterfoilError(
                    Code.CONFLICT,
                    "a data key is not wrapped under the newest key; nothing was destroyed",
                )
            keeper.end_rotation()


def receipts_under(keys: Sequence[int], tenant: str, period: Period) -> Select[bytes]:
    """Return the query for the entries of receipts that are stored under some data keys."""
    heads = [bytes([ENCRYPTED]) + key.to_bytes(8, "big") for key in keys]
    return (
        select(ReceiptRow.entry)
        .join(StatementRow, StatementRow.entry == ReceiptRow.entry)
        .where(
            ReceiptRow.tenant == tenant,
            ReceiptRow.started >= period.start,
            ReceiptRow.started < period.end,
            func.substring(StatementRow.raw, 1, 9).in_(heads),
        )
    )


def _keeper(db: Session) -> Keeper:
    keeper = keeper_of(db)
    if keeper is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "statements are not stored encrypted, so they cannot be erased",
            remedy="Name an erasure_key_file in the configuration; statements stored from then on can be erased.",
        )
    return keeper
