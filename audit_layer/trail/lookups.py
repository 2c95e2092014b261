"""Admission's questions, answered from the database and remembered for a moment.

Another process may disable a believed key or revoke a key bundle: what is remembered about those is
at most `FRESH_S` old. What is *not* known is always looked up, so that a party that has just been
registered is not refused. Key bundles and receipts never change.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Final

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail import at_rest
from audit_layer.trail.admission import BEACON_ROLES
from audit_layer.trail.asked import tenant_chose
from audit_layer.trail.models import PartyRow, StatementRow
from shared.runtime.keys import key_id
from shared.statements.cose import read_as
from shared.statements.disclosures import DisclosureRelease
from shared.statements.identities import IdentityKeyEnd
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Verdict
from shared.verification.identities import KeyLife

FRESH_S: Final = 1.0
AT_MOST_EVERY_S: Final = 0.02
"""Strangers' keys must not cost one database query each."""
MAX_BUNDLES: Final = 4096

Party = tuple[str, bytes]
"""Name and public key."""


class DatabaseLookups:
    """Implements `admission.Lookups`. Safe for threads."""

    def __init__(self, engine: Engine, profiles: frozenset[bytes]) -> None:
        self._engine = engine
        self._profiles = profiles
        self._mutex = Lock()
        self._asked = self._until = 0.0
        self._parties: dict[tuple[str, bytes], Party] = {}
        self._disabled: dict[tuple[str, bytes], Party] = {}
        self._ends: dict[tuple[str, bytes], KeyLife] = {}
        self._revoked: dict[bytes, int] = {}
        self._bundles: OrderedDict[bytes, KeyBundle] = OrderedDict()

    def forget(self) -> None:
        """Ask the database again at the next lookup."""
        self._until = 0.0

    def party_key(self, role: str, kid: bytes) -> Party | None:
        """Return (name, public key) of an enabled party with this key id."""
        if time.monotonic() > self._until:
            self._reload()
        found = self._party(role, kid)
        if found is None and time.monotonic() > self._asked + AT_MOST_EVERY_S:
            self._reload()
            found = self._party(role, kid)
        return found

    def identity(self, role: str, name: str) -> tuple[KeyLife, ...]:
        """Return the keys of a name in a role, those that are not believed any more as ended."""
        self._reload()
        believed = [KeyLife(party[1]) for party in _of(self._parties, role, name)]
        return (
            *believed,
            *(KeyLife(party[1], ended=0) for party in _of(self._disabled, role, name)),
        )

    def ended_key(self, role: str, kid: bytes) -> tuple[str, KeyLife] | None:
        """Return (name, life) of a key that an `identity-key-end` in the log has ended."""
        if time.monotonic() > self._until:
            self._reload()
        party, life = self._disabled.get((role, kid)), self._ends.get((role, kid))
        return None if party is None or life is None else (party[0], life)

    def bundle(self, entry: bytes) -> KeyBundle | None:
        """Return a key bundle that is in the log."""
        with self._mutex:
            if (known := self._bundles.get(entry)) is not None:
                self._bundles.move_to_end(entry)
                return known
        raw = self._raw(entry, KeyBundle.TYPE)
        if raw is None:
            return None
        bundle = read_as(KeyBundle, raw)
        with self._mutex:
            self._bundles[entry] = bundle
            if len(self._bundles) > MAX_BUNDLES:
                self._bundles.popitem(last=False)
        return bundle

    def revoked_at(self, bundle: bytes) -> int | None:
        """Return when a bundle was revoked."""
        if time.monotonic() > self._until:
            self._reload()
        return self._revoked.get(bundle)

    def receipt(self, entry: bytes) -> Receipt | None:
        """Return a receipt that is in the log."""
        raw = self._raw(entry, Receipt.TYPE)
        return None if raw is None else read_as(Receipt, raw)

    def release(self, entry: bytes) -> DisclosureRelease | None:
        """Return a disclosure release that is in the log."""
        raw = self._raw(entry, DisclosureRelease.TYPE)
        return None if raw is None else read_as(DisclosureRelease, raw)

    def tenant_chose(self, verdict: Verdict) -> bool:
        """Return whether the receipt's tenant chose it for this audit (`trail.asked`)."""
        with session(self._engine) as db:
            return tenant_chose(db, verdict)

    def numeric_profiles(self) -> frozenset[bytes]:
        """Return the numeric profiles that this log's auditors can compute."""
        return self._profiles

    def _party(self, role: str, kid: bytes) -> Party | None:
        parties = self._parties
        for candidate in BEACON_ROLES if role == "beacon" else (role,):
            if (found := parties.get((candidate, kid))) is not None:
                return found
        return None

    def _raw(self, entry: bytes, kind: str) -> bytes | None:
        with session(self._engine) as db:
            row = db.get(StatementRow, entry)
            return None if row is None or row.type != kind else at_rest.decrypted(db, row.raw)

    def _reload(self) -> None:
        asked = time.monotonic()
        with session(self._engine) as db:
            parties: dict[tuple[str, bytes], Party] = {}
            disabled: dict[tuple[str, bytes], Party] = {}
            for party in db.scalars(select(PartyRow)):
                place = parties if party.disabled_at is None else disabled
                place[party.role, key_id(party.public_key)] = (party.name, party.public_key)
            ends = {
                (end.role.value, key_id(end.key)): KeyLife(
                    end.key, ended=index, ended_at=end.at, reason=end.reason
                )
                for index, end in _ends(db)
            }
            revoked: dict[bytes, int] = {}
            for raw in db.scalars(
                select(StatementRow.raw).where(StatementRow.type == Revocation.TYPE)
            ):
                value = read_as(Revocation, raw)
                revoked[value.bundle] = min(value.at, revoked.get(value.bundle, value.at))
        self._parties, self._revoked = parties, revoked
        self._disabled, self._ends = disabled, ends
        self._asked, self._until = asked, asked + FRESH_S


def _of(parties: Mapping[tuple[str, bytes], Party], role: str, name: str) -> list[Party]:
    return [party for (its, _), party in parties.items() if its == role and party[0] == name]


def _ends(db: Session) -> Iterator[tuple[int, IdentityKeyEnd]]:
    """Yield each identity key's end, with its log index."""
    query = select(StatementRow.log_index, StatementRow.raw)
    for index, raw in db.execute(query.where(StatementRow.type == IdentityKeyEnd.TYPE)):
        yield index, read_as(IdentityKeyEnd, raw)
