"""A custodian's pins follow the log: keys that rotate change nothing about what was logged in time, and ended keys nothing more."""

import json
from dataclasses import replace

import pytest

from shared.parties.identity_book import IdentityBook
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import sign
from shared.statements.disclosures import DisclosureReason
from shared.statements.identities import Holder, IdentityKeyEnd, sign_identity_key
from shared.verification.identities import END_SKEW_MS
from shared.verification.release_case import ShownIdentity
from shared.verification.trust import Role
from tests.audit_layer.custodian import custody
from tests.shared.selection.world import (
    BUNDLE_RAW,
    LOG_POLICY,
    OPERATOR,
    TENANT,
    TRUST,
    World,
    not_by_rate,
)
from tests.vectors.samples import NOW, signing_key

FIRST = {
    (Holder.OPERATOR, "gpu-farm"): signing_key("operator 1"),
    (Holder.TENANT, "acme"): signing_key("tenant 1"),
}
"""The keys that the custodian pins; those of the world are the second ones."""
OF_OPERATOR, OF_TENANT = FIRST
PINS = {Role(holder.value): {name: (public_bytes(key),)} for (holder, name), key in FIRST.items()}
PINNING = replace(TRUST, pins={**TRUST.pins, **PINS})


def add(identity, new, by=None):
    return sign_identity_key(*identity, new=new, by=by or FIRST[identity], now_ms=NOW)


def end(identity, key, at=NOW + 1):
    value = IdentityKeyEnd(*identity, public_bytes(key), at, "rotated")
    return sign(value, key=FIRST[identity], issuer=identity[1])


ADD_OPERATOR, ADD_TENANT = add(OF_OPERATOR, OPERATOR), add(OF_TENANT, TENANT)
END_OPERATOR, END_TENANT = end(OF_OPERATOR, OPERATOR), end(OF_TENANT, TENANT)
LED = (ADD_OPERATOR, ADD_TENANT)


def follows(holder, tmp_path):
    """Return the custodian with its memory of identities' keys, as it is on disk."""
    return replace(holder, book=IdentityBook(tmp_path / "identities.json", LOG_POLICY))


@pytest.fixture
def holder(tmp_path):
    with custody.custodian(tmp_path, trust=PINNING) as opened:
        yield follows(opened, tmp_path)


def shown(world, *statements):
    return tuple(ShownIdentity(raw, world.publish(raw)) for raw in statements)


def released(holder, world, *identities, **changes):
    shows = {"identities": shown(world, *identities) or None, **changes}
    return custody.release(holder, world, **{"bundle_proof": world.proof(BUNDLE_RAW), **shows})


def refused(holder, world, *identities, **changes):
    with pytest.raises(CounterfoilError) as caught:
        released(holder, world, *identities, **changes)
    return caught.value.code


def test_pins_are_continued_by_what_a_case_shows_and_by_nothing_else(holder):
    world = World(before=LED)
    unknown = (Code.UNTRUSTED_KEY, Code.BAD_SIGNATURE)
    assert refused(holder, world) in unknown
    assert refused(holder, world, ADD_OPERATOR) in unknown  # the order's signer is not led to
    elsewhere = tuple(ShownIdentity(raw, World(before=LED[::-1]).publish(raw)) for raw in LED)
    thief = signing_key("thief")
    other = World(before=(add(OF_OPERATOR, OPERATOR, by=thief), ADD_TENANT))
    assert refused(holder, other, add(OF_OPERATOR, OPERATOR, by=thief), ADD_TENANT) in unknown
    assert refused(holder, world, identities=(replace(elsewhere[0], proof="x"), *elsewhere[1:])) in unknown  # fmt: skip
    assert refused(holder, world, *LED, bundle_proof=None) is Code.BAD_PROOF
    assert refused(holder, world, *LED, bundle_proof=world.proof(world.receipts[world.chosen])) is Code.BAD_PROOF  # fmt: skip
    assert released(holder, world, *LED)


def test_what_was_logged_in_time_is_disclosed_after_its_keys_have_ended(holder):
    """Attack: an operator, or a tenant, rotates so that what it signed cannot be audited any more."""
    assert released(holder, World(before=LED), *LED, END_OPERATOR, END_TENANT)


@pytest.mark.parametrize(
    ("before", "later"),
    [
        ((ADD_OPERATOR, END_OPERATOR, ADD_TENANT), ()),
        ((ADD_TENANT,), (ADD_OPERATOR,)),
    ],
    ids=["after its signer's end", "before its signer was added"],
)
def test_a_key_bundle_that_was_logged_outside_its_signers_time_is_refused(holder, before, later):
    """Attack: whoever has an operator's ended key makes a node of its own, and has others' requests disclosed to it."""
    assert refused(holder, World(before=before), *before, *later) is Code.UNTRUSTED_KEY


def test_an_order_that_an_ended_key_signed_is_refused_from_five_minutes_on(holder):
    """Attack: a tenant's old key after revocation."""
    late = end(OF_TENANT, TENANT, at=NOW - END_SKEW_MS)
    assert refused(holder, World(before=LED), *LED, late) is Code.UNTRUSTED_KEY
    in_time = end(OF_TENANT, TENANT, at=NOW - END_SKEW_MS + 1)
    world = World(before=(*LED, in_time))
    fresh = replace(holder, book=IdentityBook(holder.book._path.with_name("other"), LOG_POLICY))
    assert released(fresh, world, *LED, in_time)


def test_a_revoked_key_of_a_tenant_asks_for_no_audit(holder):
    """Attack: whoever has it has the tenant's requests opened, against its will and at its expense."""
    asked = {"asked": True, "reason": DisclosureReason.TENANT, "subject": not_by_rate}
    world = World(before=(*LED, END_TENANT), **asked)
    assert refused(holder, world, *LED, END_TENANT) is Code.UNTRUSTED_KEY
    again = World(before=LED, **asked)
    fresh = replace(holder, book=IdentityBook(holder.book._path.with_name("other"), LOG_POLICY))
    assert released(fresh, again, *LED, END_TENANT)  # it asked before the end


def test_an_end_that_was_shown_once_is_remembered_over_a_restart(holder, tmp_path):
    """Attack: the authority leaves the end out of later cases."""
    late = end(OF_TENANT, TENANT, at=NOW - END_SKEW_MS)
    world = World(before=(*LED, late))
    assert refused(holder, world, *LED, late) is Code.UNTRUSTED_KEY
    assert refused(holder, world, *LED) is Code.UNTRUSTED_KEY
    assert refused(follows(holder, tmp_path), world, *LED) is Code.UNTRUSTED_KEY


def test_nothing_is_remembered_of_names_that_the_case_is_not_about(holder, tmp_path):
    strangers = [add((Holder.TENANT, f"t{n}"), TENANT, by=signing_key("thief")) for n in range(3)]
    world = World(before=(*LED, *strangers))
    assert released(holder, world, *LED, *strangers)
    kept = json.loads((tmp_path / "identities.json").read_text())
    assert set(kept) == {"operator/gpu-farm", "tenant/acme"}
