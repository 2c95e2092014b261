"""An identity's keys follow from pins and the log's order alone: nothing is disowned, and who has no live key changes nothing."""

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id, public_bytes
from shared.statements.cose import open_as, parse_statement, sign
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, sign_identity_key
from shared.verification.identities import END_SKEW_MS, Logged, key_history, next_lives

NOW = 1_800_000_000_000
ACME = (Holder.TENANT, "acme")


def private(name):
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def public(name):
    return public_bytes(private(name))


def kid(name):
    return key_id(public(name))


def add(by, new, *, role=Holder.TENANT, name="acme"):
    return sign_identity_key(role, name, new=private(new), by=private(by), now_ms=NOW)


def end(by, key, *, at=NOW, role=Holder.TENANT, name="acme", issuer=None):
    value = IdentityKeyEnd(role, name, public(key), at, "rotated")
    return sign(value, key=private(by), issuer=issuer or name)


def history(*statements, pinned=("one",), first=10):
    logged = [Logged(first + place, raw) for place, raw in enumerate(statements)]
    return key_history(*ACME, [public(name) for name in pinned], logged)


def live(found):
    return {name for name in ("one", "two", "three", "thief") if public(name) in found.live}


def test_a_rotation_ends_the_old_key_and_disowns_nothing_that_it_signed_before():
    found = history(add("one", "two"), end("two", "one"))
    assert live(found) == {"two"}
    assert found.ignored == ()
    assert found.key(kid("one"), 10) == found.key(kid("one"), 3) == public("one")
    assert found.key(kid("two"), 11) == found.key(kid("two")) == public("two")
    for key, index in (("one", 12), ("one", 11), ("one", None), ("two", 10), ("two", 5), ("x", 1)):
        with pytest.raises(CounterfoilError) as caught:
            found.key(kid(key), index)
        assert caught.value.code is Code.UNTRUSTED_KEY, (key, index)
    assert found.ever == {public("one"), public("two")}
    assert found.contested() == ()


def test_several_keys_are_live_and_any_of_them_adds_and_ends():
    found = history(add("one", "two"), add("one", "three"), end("two", "three"))
    assert live(found) == {"one", "two"}
    assert live(history(add("one", "two"), add("two", "three"), end("three", "one"))) == {
        "two",
        "three",
    }


def test_an_order_that_was_begun_before_its_keys_end_stays_good_whatever_the_tenant_does():
    found = history(add("one", "two"), end("two", "one", at=NOW))
    assert found.order_key(kid("one"), NOW - 1) == public("one")
    assert found.order_key(kid("one"), NOW + END_SKEW_MS - 1) == public("one")
    with pytest.raises(CounterfoilError, match="ended: rotated"):
        found.order_key(kid("one"), NOW + END_SKEW_MS)
    assert found.order_key(kid("two"), 2 * NOW) == public("two")


def test_a_time_that_a_signer_writes_changes_no_keys_place_in_the_log():
    early, late = (end("two", "one", at=at) for at in (0, 2 * NOW))
    for ending in (early, late):
        assert history(add("one", "two"), ending).key(kid("one"), 10) == public("one")


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        ([add("thief", "two")], Code.UNTRUSTED_KEY),
        ([end("thief", "one")], Code.UNTRUSTED_KEY),
        ([end("one", "one")], Code.CONFLICT),
        ([add("one", "one")], Code.CONFLICT),
        ([add("one", "two"), add("two", "one")], Code.CONFLICT),
        ([add("one", "two"), add("one", "two")], Code.CONFLICT),
        ([add("one", "two"), end("one", "three")], Code.CONFLICT),
        ([add("one", "two"), end("two", "one"), add("one", "three")], Code.UNTRUSTED_KEY),
        ([add("one", "two"), end("two", "one"), end("one", "two")], Code.UNTRUSTED_KEY),
        ([add("one", "two"), end("two", "one"), add("two", "one")], Code.CONFLICT),
        ([add("one", "two"), end("two", "one"), end("two", "one")], Code.CONFLICT),
        ([add("one", "two", role=Holder.OPERATOR)], Code.UNTRUSTED_KEY),
        ([add("one", "two", name="bolt")], Code.UNTRUSTED_KEY),
        ([add("one", "two"), end("one", "two", issuer="bolt")], Code.UNTRUSTED_KEY),
        ([b"junk"], Code.MALFORMED),
    ],
    ids=[
        "a stranger adds", "a stranger ends", "the last key", "itself", "a cycle", "twice", "a key it never had",
        "an ended key adds", "an ended key ends its successor", "an ended key comes back", "ended twice",
        "another role", "another name", "another issuer", "no statement",
    ],
)  # fmt: skip
def test_what_does_not_count_changes_nothing_and_is_shown(statements, code):
    *before, last = statements
    known, found = history(*before), history(*statements)
    assert found.lives == known.lives
    assert [item.index for item in found.ignored] == [10 + len(before)]
    if code is not Code.MALFORMED:
        with pytest.raises(CounterfoilError) as caught:
            next_lives(known, parse_statement(last))
        assert caught.value.code is code


def test_the_new_keys_proof_of_possession_is_for_this_identity_and_this_signer():
    """Else a thief of one live key could have somebody else's key counted as the tenant's, or replay its proof."""
    value, _ = open_as(IdentityKey, add("one", "two"), None)
    elsewhere, _ = open_as(IdentityKey, add("three", "two"), None)
    other_name, _ = open_as(IdentityKey, add("one", "two", name="bolt"), None)
    other_role, _ = open_as(IdentityKey, add("one", "two", role=Holder.OPERATOR), None)
    for proof in (
        private("one").sign(b"x"),
        elsewhere.possession,
        other_name.possession,
        other_role.possession,
    ):
        forged = sign(replace(value, possession=proof), key=private("one"), issuer="acme")
        found = history(forged)
        assert live(found) == {"one"}
        assert "proof of possession" in found.ignored[0].problem


def test_of_a_thief_and_the_owner_of_one_key_the_first_in_the_log_wins_and_both_are_shown():
    stolen = [add("one", "thief"), add("one", "two")]
    won = history(*stolen, end("two", "thief"), end("thief", "two"))
    assert live(won) == {"one", "two"}
    assert [life.key for life in won.contested()] == [public("thief")]
    assert "ended" in won.ignored[0].problem
    lost = history(*stolen, end("thief", "two"), end("two", "thief"))
    assert live(lost) == {"one", "thief"}
    assert [life.key for life in lost.contested()] == [public("two")]
    undone = history(add("one", "thief"), end("one", "thief"))  # found out in time
    assert live(undone) == {"one"}
    assert undone.contested() == ()


def test_a_pin_further_down_the_chain_is_a_beginning_too():
    found = history(add("one", "two"), end("two", "one"), add("two", "three"), pinned=("two",))
    assert live(found) == {"two", "three"}
    assert [item.index for item in found.ignored] == [10, 11]


NAMES = ("one", "two", "three")
ACTS = st.lists(
    st.tuples(st.sampled_from((add, end)), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    max_size=8,
)


@given(acts=ACTS, order=st.randoms(use_true_random=False))
def test_whoever_hears_of_the_log_in_whatever_order_finds_the_same_keys_and_there_is_always_one(
    acts, order
):
    logged = [Logged(10 + place, act(by, key)) for place, (act, by, key) in enumerate(acts)]
    found = key_history(*ACME, [public("one")], logged)
    shuffled = [*logged, *logged[:2]]
    order.shuffle(shuffled)
    assert key_history(*ACME, [public("one")], shuffled) == found
    assert found.live
    for cut in range(len(logged) + 1):  # what comes later changes nothing about what was there
        before = key_history(*ACME, [public("one")], logged[:cut])
        for name in NAMES:
            then, now = before.life(kid(name)), found.life(kid(name))
            if then is not None and cut:
                assert then.had(9 + cut) == now.had(9 + cut)
