"""The believed keys, compared with the signatures that were accepted under them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.log.fsck_times import CLOCK_SLACK_MS
from audit_layer.trail.admission import BEACON_ROLES
from audit_layer.trail.identities import TYPES as IDENTITY_TYPES
from audit_layer.trail.models import PartyRow
from shared.codec.moment import now_ms
from shared.runtime.keys import key_id
from shared.statements.cose import Payload, SignedStatement, verify_signature
from shared.verification.identities import GRACE_MS

_NAMED: Final = {
    "operator": "operator",
    "tenant": "tenant",
    "worker": "worker",
    "custodian": "custodian",
    "beacon": "party",
}
"""Role → the field in which its statements name their signer."""


@dataclass(slots=True)
class _Seen:
    """A party's row, and when the first and the last statement by its key were recorded."""

    row: PartyRow
    first: int | None = None
    last: int | None = None


class Parties:
    """All parties; call `check` once `signed` has seen everything."""

    def __init__(self, db: Session) -> None:
        rows = db.scalars(select(PartyRow).order_by(PartyRow.id)).all()
        self._parties = [_Seen(row) for row in rows]
        self._by_key: dict[tuple[str, bytes], _Seen] = {
            (seen.row.role, key_id(seen.row.public_key)): seen for seen in self._parties
        }

    def signed(
        self,
        where: str,
        statement: SignedStatement,
        value: Payload,
        role: str,
        recorded_at: int | None,
    ) -> Iterator[str]:
        """Check a statement against the party that must have signed it in this role."""
        seen = self._signer(role, statement.kid)
        if seen is None:
            yield from self._unknown(where, statement, role)
            return
        place = f"trail_parties[id={seen.row.id}]"
        verify_signature(statement, seen.row.public_key)
        field = "name" if statement.type in IDENTITY_TYPES else _NAMED.get(role, "")
        name = getattr(value, field, seen.row.name)
        if name != seen.row.name:
            yield f"{place}.name: is {seen.row.name!r}, but its key signed as {name!r}"
        if recorded_at is not None:
            seen.first = min(recorded_at, seen.first or recorded_at)
            seen.last = max(recorded_at, seen.last or recorded_at)

    def key_of(self, role: str, statement: SignedStatement) -> bytes | None:
        """Return the public key (32 bytes) of a statement's signer in this role; None if no party has it."""
        seen = self._signer(role, statement.kid)
        return None if seen is None else seen.row.public_key

    def _signer(self, role: str, kid: bytes) -> _Seen | None:
        for candidate in BEACON_ROLES if role == "beacon" else (role,):
            if (seen := self._by_key.get((candidate, kid))) is not None:
                return seen
        return None

    def _unknown(self, where: str, statement: SignedStatement, role: str) -> Iterator[str]:
        others = [seen.row for (_, kid), seen in self._by_key.items() if kid == statement.kid]
        for row in others:
            yield (
                f"trail_parties[id={row.id}].role: is {row.role!r}, but its key signed"
                f" a {statement.type}, as {role}"
            )
        if not others:
            yield f"{where}: no {role}'s trail_parties.public_key is its signer's"

    def check(self) -> Iterator[str]:
        """Check the times of belief, once everything that the keys signed has been seen."""
        for seen in self._parties:
            place = f"trail_parties[id={seen.row.id}]"
            if not between(0, seen.row.added_at, seen.first or now_ms()):
                yield f"{place}.added_at: is after the first statement by its key, or in the future"
            ended = seen.row.disabled_at
            last = seen.last or seen.row.added_at
            if seen.row.role == "tenant":  # orders on which work had begun by then
                last = max(seen.row.added_at, last - GRACE_MS)
            if ended is not None and not between(last, ended, now_ms()):
                yield f"{place}.disabled_at: is before the last statement by its key, or in the future"


def between(first: int, moment: int, last: int) -> bool:
    """Return whether a time lies between two others, within clock error."""
    return first - CLOCK_SLACK_MS <= moment <= last + CLOCK_SLACK_MS
