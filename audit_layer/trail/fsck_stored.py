"""Stored statements as `fsck` reads them: encrypted ones are opened, erased ones are gone."""

from sqlalchemy.orm import Session

from audit_layer.trail.at_rest import decrypted, parse_encrypted
from audit_layer.trail.models import OrderRow, StatementRow
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.keys import KeyBundle


def signed_bytes(db: Session, row: StatementRow | OrderRow) -> bytes | None:
    """Return the signed bytes, None when they were erased; what is stored must be of the row's entry."""
    encrypted = parse_encrypted(row.raw)
    if encrypted is not None and encrypted.entry != row.entry:
        raise CounterfoilError(Code.CORRUPT, "another statement is stored under this entry")
    return opened(db, row.raw)


def opened(db: Session, stored: bytes) -> bytes | None:
    """Return a stored statement as it was signed, None when it was erased."""
    try:
        return decrypted(db, stored)
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return None


def bundle_of(db: Session, entry: bytes) -> KeyBundle | None:
    """Return a key bundle of the trail."""
    row = db.get(StatementRow, entry)
    return None if row is None else read_as(KeyBundle, row.raw)
