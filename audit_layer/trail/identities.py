"""Identity keys in the trail: the believed parties follow the statements of the log, in the transaction that takes them in."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from audit_layer.storage.engine import session
from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import Values, finding_values
from audit_layer.trail.models import FindingRow, PartyRow, StatementRow
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import SignedStatement, read_as, verify_signature
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd
from shared.verification.identities import KeyLife, Logged, key_history

TYPES: Final = (IdentityKey.TYPE, IdentityKeyEnd.TYPE)
CONTESTED: Final = "identity-contested"
"""Kind of the finding that two holders of an identity's key act against each other."""
MOST_FINDINGS: Final = 16
"""Findings about one identity: whoever holds a key that has ended can sign as much as they like."""

_SIGNED: Final = (
    "EXISTS (SELECT FROM trail_parties s WHERE s.role = :role AND s.name = :name AND s.disabled_at IS NULL"
    " AND sha256(s.public_key) = :signer)"
)
_ADD: Final = text(
    "INSERT INTO trail_parties (name, role, public_key, added_at)"  # constants
    f" SELECT :name, :role, :key, :now WHERE {_SIGNED} ON CONFLICT DO NOTHING"
)
_END: Final = text(
    "UPDATE trail_parties SET disabled_at = :now WHERE role = :role AND name = :name AND public_key = :key"  # noqa: S608
    f" AND disabled_at IS NULL AND {_SIGNED} AND EXISTS (SELECT FROM trail_parties o WHERE o.role = :role"
    " AND o.name = :name AND o.public_key <> :key AND o.disabled_at IS NULL)"
)


def follow(connection: Connection, new: Sequence[tuple[Admitted, int]], now: int) -> None:
    """Change the believed keys as new statements say, in the log's order; one that no longer counts changes nothing.

    The rows of the statements themselves have been written. Only the sequencer calls this, one call at a time.
    """
    for item, _ in sorted(new, key=lambda pair: pair[1]):
        value = item.value
        if not isinstance(value, IdentityKey | IdentityKeyEnd):
            continue
        facts = {
            "name": value.name,
            "role": value.role.value,
            "key": value.key,
            "signer": item.statement.kid,
            "now": now,
        }
        connection.execute(_ADD if isinstance(value, IdentityKey) else _END, facts)
        if isinstance(value, IdentityKeyEnd) and (found := _contested(connection, value, now)):
            connection.execute(upsert(FindingRow).on_conflict_do_nothing(), found)


def _contested(connection: Connection, end: IdentityKeyEnd, now: int) -> list[Values]:
    """Return a finding if a key ended one of another branch: the statement that added it, and the one that ended it."""
    query = select(StatementRow.log_index, StatementRow.raw).where(
        StatementRow.type.in_(TYPES), StatementRow.subject == end.subject
    )
    logged = {index: bytes(raw) for index, raw in connection.execute(query)}
    added = {read_as(IdentityKey, raw).key for raw in logged.values() if _adds(raw)}
    rows = connection.execute(
        select(PartyRow.public_key).where(PartyRow.role == end.role, PartyRow.name == end.name)
    )
    pinned = {key for (key,) in rows} - added
    history = key_history(
        Holder(end.role), end.name, pinned, (Logged(index, raw) for index, raw in logged.items())
    )
    return [
        finding_values(CONTESTED, end.subject, _told(life), (logged[first], logged[last]), now)
        for life in history.contested()
        if life.key == end.key and (first := life.added) is not None and (last := life.ended)
    ]


def note_late(
    engine: Engine, statement: SignedStatement, ended: tuple[str, KeyLife], now: int
) -> None:
    """Keep a statement about an identity that a key of it signed after its end: two holders contend, or one is a thief."""
    name, life = ended
    try:
        verify_signature(statement, life.key)
    except CounterfoilError:
        return  # anybody can name a key
    with session(engine) as db:
        end = db.scalar(
            select(StatementRow.raw).where(
                StatementRow.log_index == life.ended, StatementRow.type == IdentityKeyEnd.TYPE
            )
        )
        known = db.scalars(
            select(FindingRow.id).where(
                FindingRow.kind == CONTESTED, FindingRow.issuer == statement.subject
            )
        ).all()
        if end is None or len(known) >= MOST_FINDINGS:
            return
        detail = f"a key of {name} that ended ({life.reason}) has signed another {statement.type}"
        values = finding_values(CONTESTED, statement.subject, detail, (end, statement.raw), now)
        db.execute(upsert(FindingRow).values(values).on_conflict_do_nothing())


def _adds(raw: bytes) -> bool:
    try:
        read_as(IdentityKey, raw)
    except CounterfoilError:
        return False
    return True


def _told(life: KeyLife) -> str:
    return f"the key {life.key.hex()} was ended by a key of another branch: {life.reason}"
