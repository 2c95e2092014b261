"""Admission's questions, answered from the database and remembered for a moment.

Another process may disable a believed key or revoke a key bundle: what is remembered about those is
at most `FRESH_S` old. What is *not* known is always looked up, so that a party that has just been
registered is not refused. Key bundles and receipts never change.
"""

import time
from collections import OrderedDict
from threading import Lock
from typing import Final

from sqlalchemy import Engine, select

from audit_layer.storage.engine import session
from audit_layer.trail import at_rest
from audit_layer.trail.admission import BEACON_ROLES
from audit_layer.trail.models import PartyRow, StatementRow
from shared.runtime.keys import key_id
from shared.statements.cose import read_as
from shared.statements.disclosures import DisclosureRelease
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.receipts import Receipt

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
            parties = {
                (party.role, key_id(party.public_key)): (party.name, party.public_key)
                for party in db.scalars(select(PartyRow).where(PartyRow.disabled_at.is_(None)))
            }
            revoked: dict[bytes, int] = {}
            for raw in db.scalars(
                select(StatementRow.raw).where(StatementRow.type == Revocation.TYPE)
            ):
                value = read_as(Revocation, raw)
                revoked[value.bundle] = min(value.at, revoked.get(value.bundle, value.at))
        self._parties, self._revoked = parties, revoked
        self._asked, self._until = asked, asked + FRESH_S
