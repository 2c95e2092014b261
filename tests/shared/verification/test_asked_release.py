"""What a tenant asks for is released for its own receipt, and nobody else can ask in its name (protocol §6.2)."""

from dataclasses import replace
from typing import Any

import pytest

from shared.envelope.body import Audit
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of
from shared.statements.disclosures import DisclosureReason
from shared.statements.verdicts import Outcome, Reason
from shared.verification.limits import InsistenceError, Limits, Released, Rule
from shared.verification.release_case import MAX_CASE, OF_A_DRAW, ReleaseCase
from shared.verification.trust import Role
from tests.shared.selection.world import (
    AUTHORITY,
    TENANT,
    TRUST,
    World,
    not_by_rate,
    trusting,
)
from tests.vectors.samples import octets, signing_key

STRANGER = signing_key("stranger")
ASKED: dict[str, Any] = {"asked": True, "reason": DisclosureReason.TENANT, "subject": not_by_rate}
GOOD = World(**ASKED)
DRAWN = World()
NOBODY_PINNED = trusting(Role.TENANT, None)


def asked(**options):
    return World(**(ASKED | options))


def refused(expected, world=GOOD, **arguments):
    with pytest.raises(CounterfoilError) as caught:
        world.check(**arguments)
    assert caught.value.code is expected, caught.value
    return caught.value.detail


def test_a_receipt_that_no_draw_lists_is_released_because_its_tenant_asks():
    assert GOOD.chosen not in GOOD.drawn
    permitted = GOOD.check()
    assert permitted.drawn_by is DisclosureReason.TENANT
    assert (permitted.epoch, permitted.without_own, permitted.only_always) == (None, False, False)


def test_its_case_survives_the_wire_without_any_field_of_a_draw():
    case = GOOD.case()
    assert not set(OF_A_DRAW) & set(case.to_payload())
    assert ReleaseCase.from_cbor(case.to_cbor(), max_bytes=MAX_CASE) == case


def test_a_fail_of_another_worker_is_confirmed_on_the_same_audit_request():
    confirming = {"reason": DisclosureReason.CONFIRM}
    assert asked(**confirming).check().drawn_by is DisclosureReason.TENANT
    refused(Code.BAD_PROOF, asked(**confirming), verdict=None, verdict_proof=None)
    passed = asked(
        **confirming, verdict=lambda v: replace(v, outcome=Outcome.PASS, reason=Reason.EXACT)
    )
    refused(Code.BAD_PROOF, passed)


# -- attacks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("forger", [AUTHORITY, STRANGER], ids=["authority", "stranger"])
def test_nobody_asks_in_the_name_of_a_pinned_tenant(forger):
    refused(Code.UNTRUSTED_KEY, asked(signer={"audit": forger}))
    everything = asked(signer={"audit": forger, "order": forger})
    refused(Code.UNTRUSTED_KEY, everything)


def test_a_tenant_without_a_pinned_key_is_refused_where_others_have_one():
    others = trusting(Role.TENANT, {"bolt": (public_bytes(TENANT),)})
    assert "no key that is pinned" in refused(Code.UNTRUSTED_KEY, trust=others)


def test_a_tenants_second_pinned_key_may_ask_about_an_order_under_the_first():
    both = {"acme": (*TRUST.pins[Role.TENANT]["acme"], public_bytes(STRANGER))}
    world = asked(signer={"audit": STRANGER})
    assert world.check(trust=trusting(Role.TENANT, both)).request_entry == entry_of(world.request)


def test_without_pinned_tenants_another_key_than_the_orders_is_refused():
    forged = asked(signer={"audit": AUTHORITY})
    assert "another key" in refused(Code.BAD_PROOF, forged, trust=NOBODY_PINNED)


def test_without_pinned_tenants_only_the_sealed_policy_always_permits():
    """Otherwise whoever signs requests and orders could have every request opened."""
    permitted = GOOD.check(trust=NOBODY_PINNED)
    permitted.check_policy(Audit.ALWAYS)
    for policy in (Audit.SAMPLED, Audit.NEVER):
        with pytest.raises(CounterfoilError) as caught:
            permitted.check_policy(policy)
        assert caught.value.code is Code.FORBIDDEN


def test_with_pinned_tenants_only_never_forbids():
    for permitted in (GOOD.check(), DRAWN.check(trust=NOBODY_PINNED)):
        permitted.check_policy(Audit.ALWAYS)
        permitted.check_policy(Audit.SAMPLED)
        with pytest.raises(CounterfoilError) as caught:
            permitted.check_policy(Audit.NEVER)
        assert caught.value.code is Code.FORBIDDEN


def test_an_audit_request_about_another_receipt_or_by_another_tenant_is_refused():
    for change in ({"receipt": octets("receipt")}, {"tenant": "bolt"}):
        world = asked(audit=lambda a, change=change: replace(a, **change))
        for trust in (TRUST, NOBODY_PINNED):
            assert "another receipt" in refused(Code.BAD_PROOF, world, trust=trust)


def test_a_request_that_names_something_else_than_the_audit_request_is_refused():
    world = asked(request=lambda r: replace(r, draw=octets("draw")))
    assert "another audit request" in refused(Code.BAD_PROOF, world)


def test_an_audit_request_must_be_witnessed_and_in_the_log_before_the_disclosure_request():
    refused(Code.NOT_WITNESSED, audit_proof=GOOD.proof(GOOD.audit, witnesses=()))
    refused(Code.MALFORMED, audit_proof=None)
    late = asked()
    position = late.entries.index(entry_of(late.audit))
    late.entries.append(late.entries.pop(position))
    late.entries.insert(position, octets("in its place"))
    late.entries[-1], late.entries[-2] = late.entries[-2], late.entries[-1]
    assert "came after" in refused(Code.BAD_PROOF, late)


@pytest.mark.parametrize(
    "reason", [DisclosureReason.DRAW, DisclosureReason.FLOOR, DisclosureReason.WHOLE]
)
def test_an_audit_request_stands_for_no_draw(reason):
    assert "in the name of a draw" in refused(Code.BAD_PROOF, asked(reason=reason))


@pytest.mark.parametrize("name", OF_A_DRAW)
def test_a_case_with_an_audit_request_shows_nothing_of_a_draw(name):
    assert "either" in refused(Code.BAD_PROOF, **{name: getattr(DRAWN.case(), name)})


@pytest.mark.parametrize("name", OF_A_DRAW[:-1])
def test_a_draw_without_one_of_its_parts_is_refused(name):
    refused(Code.MALFORMED, DRAWN, **{name: None})


def test_junk_in_place_of_an_audit_request_is_malformed():
    refused(Code.MALFORMED, audit=b"\xd2\x84\x40\xa0\x40\x40")
    refused(Code.MALFORMED, audit=GOOD.request)


# -- a day -------------------------------------------------------------------------------------------


def test_what_tenants_ask_for_has_a_limit_of_its_own_and_leaves_room_for_draws():
    limits = Limits(max_asked_per_day=2)
    tenant, draw = DisclosureReason.TENANT, DisclosureReason.DRAW
    limits.check_day(tenant, Released({tenant: 1, draw: 5}))
    limits.check_day(draw, Released({tenant: 2}))
    with pytest.raises(InsistenceError) as caught:
        limits.check_day(tenant, Released({tenant: 2}))
    assert (caught.value.rule, caught.value.code) == (Rule.ASKED_A_DAY, Code.QUOTA)
