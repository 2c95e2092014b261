"""The log follows its parties' keys: rotation disowns nothing, what has ended is refused, and contention is a finding."""

from dataclasses import replace

import pytest

from audit_layer.trail import admission
from audit_layer.trail.identities import CONTESTED, MOST_FINDINGS
from audit_layer.trail.service import Submission
from shared.codec.moment import now_ms
from shared.runtime.errors import Code
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, sign_identity_key
from shared.statements.keys import KeyBundle, Revocation
from shared.verification.identities import END_SKEW_MS, GRACE_MS
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World
from tests.audit_layer.trail.test_intake import reordered

MINUTE = 60_000


def add(by, new, name, role=Holder.TENANT, at=None):
    now = now_ms() if at is None else at
    return sign_identity_key(role, name, new=made.key(new), by=made.key(by), now_ms=now)


def end(by, key, name, role=Holder.TENANT, at=None, reason="rotated"):
    value = IdentityKeyEnd(role, name, made.public(key), now_ms() if at is None else at, reason)
    return sign(value, key=made.key(by), issuer=name)


def put(world: World, *statements):
    """Submit one after the other, as they happen."""
    return [world.put(Submission(raw))[0] for raw in statements]


def signed_bundle(name, *, by):
    value, _ = open_as(KeyBundle, made.bundle(name, not_after=made.NOW + made.HOUR), None)
    return sign(value, key=made.key(by), issuer=name)


def rotated(world: World, name="acme", role=Holder.TENANT):
    put(world, add(name, f"{name} 2", name, role), end(f"{name} 2", name, name, role))


def contested(world: World):
    return [row for row, _ in world.trail.findings() if row.kind == CONTESTED]


def test_an_operators_new_key_signs_what_the_old_one_did_and_the_old_one_nothing_more(world: World):
    put(world, add("alpha", "alpha 2", "alpha", Holder.OPERATOR))
    put(world, signed_bundle("alpha", by="alpha 2"))
    put(world, end("alpha 2", "alpha", "alpha", Holder.OPERATOR))
    late = replace(open_as(KeyBundle, made.bundle("alpha"), None)[0], endpoint="127.0.0.1:9")
    assert world.code(sign(late, key=made.key("alpha"), issuer="alpha")) is Code.UNTRUSTED_KEY
    put(world, sign(late, key=made.key("alpha 2"), issuer="alpha"))
    put(world, made.bundle("alpha"), made.rate_card("alpha"))  # the log has them, and says so
    revocation = Revocation(bundle=world.bundle, reason="key lost", at=now_ms())
    put(world, sign(revocation, key=made.key("alpha 2"), issuer="alpha"))
    assert world.fsck() == []


def test_receipts_under_a_bundle_of_an_ended_operators_key_are_taken(world: World):
    """Attack: an operator rotates to disown what its node has signed, or to make its receipts unpayable."""
    rotated(world, "alpha", Holder.OPERATOR)
    world.put(world.node.receipt("acme"))
    assert world.fsck() == []


def test_orders_by_any_live_key_are_taken_and_by_an_ended_one_only_what_had_begun(world: World):
    put(world, add("acme", "acme 2", "acme"))
    world.put(world.node.receipt("acme"))
    world.put(reordered(world.node.receipt("acme"), key=made.key("acme 2")))
    ended = now_ms() - 4 * MINUTE
    put(world, end("acme 2", "acme", "acme", at=ended))
    begun = world.node.receipt("acme", started=ended + MINUTE)
    world.put(begun)  # a tenant cannot disown it by ending its key while the node delivers
    later = world.node.receipt("acme", started=ended + END_SKEW_MS)
    assert world.code(later.statement, later.order) is Code.UNTRUSTED_KEY
    world.put(reordered(world.node.receipt("acme"), key=made.key("acme 2")))


def test_what_an_ended_key_ordered_is_taken_for_a_day(world: World, monkeypatch):
    """Else a thief of the old key and a node could go on for ever with work that they date back."""
    rotated(world)
    receipts = [world.node.receipt("acme", started=now_ms() - MINUTE) for _ in range(2)]
    true = admission.admit
    for receipt, moment, taken in (
        (receipts[0], now_ms() + GRACE_MS - MINUTE, True),
        (receipts[1], now_ms() + GRACE_MS + MINUTE, False),
    ):
        monkeypatch.setattr(
            "audit_layer.trail.service.admit",
            lambda raw, order, lookups, _now, moment=moment: true(raw, order, lookups, moment),
        )
        if taken:
            world.put(receipt)
        else:
            assert world.code(receipt.statement, receipt.order) is Code.UNTRUSTED_KEY


@pytest.mark.parametrize("apart", [-END_SKEW_MS - MINUTE, END_SKEW_MS + MINUTE])
def test_an_end_that_is_dated_back_or_ahead_is_refused(world: World, apart):
    put(world, add("acme", "acme 2", "acme"))
    dated = end("acme 2", "acme", "acme", at=now_ms() + apart)
    assert world.code(dated) is Code.INVALID_ARGUMENT
    assert world.code(add("acme", "acme 3", "acme", at=now_ms() + apart)) is (Code.INVALID_ARGUMENT)
    world.put(world.node.receipt("acme"))


def test_what_no_verifier_would_count_does_not_enter_the_log(world: World):
    value, _ = open_as(IdentityKey, add("acme", "acme 2", "acme"), None)
    unproved = replace(value, possession=made.key("stranger").sign(b"x"))
    for statement, code in (
        (add("stranger", "x", "acme"), Code.UNTRUSTED_KEY),
        (add("bolt", "x", "acme"), Code.UNTRUSTED_KEY),  # in another tenant's name
        (add("alpha", "x", "alpha"), Code.UNTRUSTED_KEY),  # an operator's key as a tenant's
        (add("acme", "acme", "acme"), Code.CONFLICT),
        (add("acme", "bolt", "acme"), Code.CONFLICT),  # another tenant's key
        (end("acme", "acme", "acme"), Code.CONFLICT),  # the last one
        (end("acme", "bolt", "acme"), Code.CONFLICT),
        (sign(unproved, key=made.key("acme"), issuer="acme"), Code.BAD_SIGNATURE),
        (sign(value, key=made.key("acme"), issuer="bolt"), Code.UNTRUSTED_KEY),
        (sign(value, key=made.key("acme"), issuer="acme", subject="tenant/bolt"), Code.MALFORMED),
        (sign(value, key=made.key("acme"), issuer="acme", subject="nobody"), Code.UNTRUSTED_KEY),
    ):
        assert world.code(statement) is code
    assert world.fsck() == []


def test_of_two_that_contradict_each_other_at_once_the_first_in_the_log_counts(world: World):
    """Each was right when it was admitted; the second changes nothing, for the log as for every verifier."""
    put(world, add("acme", "acme 2", "acme"))
    world.put(Submission(end("acme 2", "acme", "acme")), Submission(add("acme", "thief", "acme")))
    parties = [row for row in world.trail.parties() if row.name == "acme"]
    assert [row.public_key for row in parties if row.disabled_at is None] == [made.public("acme 2")]
    assert made.public("thief") not in {row.public_key for row in parties}
    world.put(Submission(add("acme 2", "acme 3", "acme")))
    world.put(
        Submission(end("acme 2", "acme 3", "acme")), Submission(end("acme 3", "acme 2", "acme"))
    )
    live = [row for row in world.trail.parties() if row.name == "acme" and not row.disabled_at]
    assert [row.public_key for row in live] == [made.public("acme 2")]  # never none
    assert world.fsck() == []


def test_a_thief_who_rotates_first_wins_and_both_are_in_a_finding(world: World):
    """Attack: the thief of an operator's key adds its own and ends the owner's. What the log can do is show it."""
    mine, theirs = "alpha 2", "thief"
    put(world, add("alpha", theirs, "alpha", Holder.OPERATOR))
    put(world, add("alpha", mine, "alpha", Holder.OPERATOR))
    ending = end(theirs, mine, "alpha", Holder.OPERATOR)
    put(world, ending)
    (found,) = contested(world)
    assert found.issuer == "operator/alpha"
    assert made.public(mine).hex() in found.detail
    assert found.second_statement == ending
    late = end(mine, theirs, "alpha", Holder.OPERATOR)
    assert world.code(late) is Code.UNTRUSTED_KEY
    assert {row.second_statement for row in contested(world)} == {ending, late}
    assert world.fsck() == []


def test_findings_about_an_ended_key_need_its_signature_and_have_a_limit(world: World):
    rotated(world)
    forged, _ = open_as(IdentityKeyEnd, end("acme", "acme 2", "acme"), None)
    raw = bytearray(sign(forged, key=made.key("acme"), issuer="acme"))
    raw[-1] ^= 1
    assert world.code(bytes(raw)) is Code.UNTRUSTED_KEY
    assert contested(world) == []
    for count in range(MOST_FINDINGS + 3):
        assert world.code(end("acme", "acme 2", "acme", reason=str(count))) is Code.UNTRUSTED_KEY
    assert len(contested(world)) == MOST_FINDINGS
    assert world.fsck() == []


def test_a_party_that_is_disabled_has_no_key_left_that_it_added_itself(world: World):
    put(world, add("acme", "acme 2", "acme"))
    world.trail.disable_party("acme", "tenant")
    for key in ("acme", "acme 2"):
        refused = reordered(world.node.receipt("acme"), key=made.key(key))
        assert world.code(refused.statement, refused.order) is Code.UNTRUSTED_KEY
    assert world.code(add("acme 2", "acme 3", "acme")) is Code.UNTRUSTED_KEY


def test_the_same_statement_again_is_the_same_entry(world: World):
    statement = add("acme", "acme 2", "acme")
    (first,) = put(world, statement)
    put(world, end("acme 2", "acme", "acme"))
    (again,) = put(world, statement)
    assert (again.index, again.duplicate) == (first.index, True)
    rows = world.trail.identity("tenant", "acme")
    assert [row.entry for row in rows] == [entry_of(statement), rows[1].entry]
