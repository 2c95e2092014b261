"""What was erased, compared with the logged statements about it."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.trail.at_rest import keeper_of, parse_encrypted
from audit_layer.trail.erasure import receipts_under
from audit_layer.trail.fsck_parties import between
from audit_layer.trail.models import (
    DataKeyRow,
    ErasureRow,
    OrderRow,
    ReceiptRow,
    StatementRow,
)
from shared.codec.moment import Period
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import open_as
from shared.statements.erasures import Erasure
from shared.statements.seals import entries_digest


def check_erasures(db: Session, now: int) -> Iterator[str]:
    """Check that what is erased is what the erasure statements say, no more and no less."""
    for row in db.scalars(select(ErasureRow).order_by(ErasureRow.id)):
        keys = db.scalars(select(DataKeyRow).where(DataKeyRow.erasure == row.id)).all()
        where = f"trail_erasures[id={row.id}]"
        try:
            value, statement = open_as(Erasure, row.statement, None)
        except CounterfoilError as error:
            yield f"{where}.statement: {error.detail}"
            continue
        if row.done_at is not None and not between(0, row.done_at, now):
            yield f"{where}.done_at: is in the future"
        logged = db.get(StatementRow, statement.entry)
        if logged is None or logged.raw != row.statement:
            if row.done_at is not None or any(key.wrapped is None for key in keys):
                yield f"{where}.statement: it is not in the log"
            continue
        if row.done_at is None and keys and all(key.wrapped is None for key in keys):
            yield f"{where}.done_at: is absent, though its keys are destroyed"
        if row.done_at is not None and any(key.wrapped is not None for key in keys):
            yield f"{where}.done_at: a key that it destroyed exists again"
        under = receipts_under(
            [key.id for key in keys], value.tenant, Period(value.start, value.end)
        )
        entries = db.scalars(under.order_by(ReceiptRow.log_index)).all()
        if (len(entries), entries_digest(entries)) != (value.statements, value.entries):
            yield f"{where}.statement: the erased receipts are not those that it names"


def check_data_keys(db: Session) -> Iterator[str]:
    """Check that each data key opens with the file's key, and that none is missing."""
    keeper = keeper_of(db)
    keys = {row.id: row for row in db.scalars(select(DataKeyRow).order_by(DataKeyRow.id))}
    for number, row in keys.items():
        where = f"trail_data_keys[id={number}]"
        if row.erasure is not None and db.get(ErasureRow, row.erasure) is None:
            yield f"{where}.erasure: no row has it as trail_erasures.id"
        if row.wrapped is None:
            if row.erasure is None:
                yield f"{where}.erasure: is absent, though {where}.wrapped is destroyed"
        elif keeper is not None:
            try:
                keeper.unwrap(row.wrapped, row.tenant, row.day)
            except CounterfoilError as error:
                yield f"{where}.wrapped, {where}.tenant, {where}.day: {error.detail}"
    yield from _missing(db, set(keys))


def _missing(db: Session, known: set[int]) -> Iterator[str]:
    """Name missing data keys under which statements are stored."""
    named: set[int] = set()
    for kind in (StatementRow, OrderRow):
        query = select(kind.raw).execution_options(yield_per=1000)
        for stored in db.scalars(query):
            try:
                encrypted = parse_encrypted(stored)
            except CounterfoilError:
                continue  # reported where statements are read
            if encrypted is not None and encrypted.key not in known | named:
                named.add(encrypted.key)
                yield f"trail_data_keys.id: no row has {encrypted.key}, under which statements are stored"
