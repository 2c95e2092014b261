"""A real custodian over a folder, with the keys for which `tests.shared.selection.world` seals its request."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit_layer.custodian.core import Custodian
from audit_layer.custodian.store import ReleaseStore
from shared.envelope import sealing
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.header import Envelope, envelope_hash
from shared.envelope.hpke import Opener
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.envelope.shares import split
from shared.parties.beacon_service import BeaconService
from shared.parties.custody import CaseAnswer, ShareAnswer, ShareRequest
from shared.parties.reveal_memory import RevealMemory
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of
from shared.statements.request import RequestBody, SamplingSettings
from shared.verification.limits import Terms
from shared.verification.trust import Trust
from tests.shared.selection.world import (
    AUTHORITY,
    BUNDLE_RAW,
    LOG_POLICY,
    PARTIES,
    TERMS,
    TRUST,
    World,
)
from tests.vectors.samples import BUNDLE, NOW, hpke_key, octets

NAME = "custodian-1"
KEY = hpke_key("custodian")
PARTY = next(party for party in PARTIES if party.name == NAME)
SIGNING = PARTY.key
PUBLIC = public_bytes(SIGNING)
RELEASES = "custodian.sqlite"
POLICY_NONCE = octets("policy nonce")
WRAP = 1392
"""Bytes of a custodian's wrap."""


@contextmanager
def custodian(
    folder: Path,
    *,
    trust: Trust = TRUST,
    terms: Terms = TERMS,
    hpke: Opener = KEY,
) -> Iterator[Custodian]:
    """Open a custodian on its state in a folder."""
    store, memory = ReleaseStore(folder / RELEASES), RevealMemory(folder / "reveals.sqlite")
    try:
        yield Custodian(NAME, SIGNING, hpke, trust, terms, store, memory)
    finally:
        store.close()
        memory.close()


def beacon(holder: Custodian) -> BeaconService:
    """Return the same custodian as a party of the beacon."""
    return BeaconService(PARTY, holder.memory, LOG_POLICY, public_bytes(AUTHORITY))


def case_answer(holder: Custodian, world: World, **changes: Any) -> CaseAnswer:
    """Show a custodian the world's case, with changes."""
    return CaseAnswer.from_cbor(holder.release(world.case(**changes).to_cbor()), max_bytes=2**17)


def release(holder: Custodian, world: World, **changes: Any) -> bytes:
    """Have a custodian sign a release for the world's case."""
    answered = case_answer(holder, world, **changes)
    assert answered.release is not None, "it reported the escrow"
    return answered.release


def share(holder: Custodian, world: World, released: bytes) -> bytes:
    """Log a release, and have its custodian hand out the share."""
    asked = ShareRequest(entry_of(world.request), world.publish(released))
    return ShareAnswer.from_cbor(holder.share(asked.to_cbor()), max_bytes=2**13).share


def kept(folder: Path) -> int:
    """Count the releases on disk, as a separate reader sees them."""
    with sqlite3.connect(folder / RELEASES) as db:
        (count,) = db.execute("SELECT count(*) FROM releases").fetchone()
    db.close()
    return int(count)


def request(audit: Audit = Audit.SAMPLED) -> SealedRequest:
    """Seal the world's request with a chosen audit policy."""
    return seal_request(
        RequestBody(settings=SamplingSettings(max_tokens=4), prompt="x"),
        tenant="acme",
        candidates=[Candidate(entry_of(BUNDLE_RAW), BUNDLE.hpke_key)],
        custodians=[KEY.public_bytes],
        threshold=1,
        model_root=octets("model"),
        max_output_tokens=4,
        policy=AuditPolicy(audit),
        expiry_ms=NOW + 1000,
        policy_nonce=POLICY_NONCE,
    )


def with_wrap(good: SealedRequest, wrap: bytes) -> SealedRequest:
    """Replace the custodian's wrap; header, ctx and kc stay as they are."""
    envelope = replace(Envelope.from_bytes(good.envelope_bytes), escrow=(wrap,)).to_bytes()
    return replace(good, envelope_bytes=envelope, envelope_hash=envelope_hash(envelope))


def rewrapped(good: SealedRequest, **changes) -> SealedRequest:
    """Wrap contents other than those that the header commits to, as a lying client could."""
    escrow = sealing._Escrow(
        1, split(good.ts, 1, 1)[0], AuditPolicy(Audit.SAMPLED).to_bytes(), POLICY_NONCE
    )
    wrap = sealing._seal_share(KEY.public_bytes, replace(escrow, **changes), good.ctx, good.kc)
    return with_wrap(good, wrap)
