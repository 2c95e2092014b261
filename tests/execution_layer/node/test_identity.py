"""Keys live one day, overlap by one hour, are in private files, and are deleted when they expire."""

import stat
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.node.identity import (
    LIFE_MS,
    OVERLAP_MS,
    RENEWAL_MS,
    KeyRing,
    NodeFacts,
    request_roll,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as, sign
from shared.statements.keys import HOUR_MS, KeyBundle, Layers, Offer, Revocation

NOW = 1_800_000_000_000
FACTS = NodeFacts("honest", "node-1", "127.0.0.1:1", (b"\x01" * 32,), b"\x02" * 32, {"device": "x"})


@pytest.fixture
def operator():
    return Ed25519PrivateKey.generate()


def test_a_bundle_is_signed_by_the_operator_and_lives_a_day_at_most(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    made = ring.renew(FACTS, NOW)
    bundle, statement = open_as(KeyBundle, made.statement, public_bytes(operator))
    assert statement.entry == made.entry
    assert bundle.not_after - bundle.not_before == LIFE_MS == 24 * HOUR_MS
    assert bundle.hpke_key == made.hpke.public_bytes
    assert bundle.signing_key == public_bytes(ring.signing_key)
    assert bundle.model_roots == FACTS.model_roots


def test_renewal_begins_hours_before_the_end_and_both_keys_open_until_then(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    first = ring.renew(FACTS, NOW)
    end = first.bundle.not_after
    assert RENEWAL_MS > OVERLAP_MS == HOUR_MS
    assert ring.renew(FACTS, end - RENEWAL_MS - 1) is None
    second = ring.renew(FACTS, end - RENEWAL_MS)
    assert second is not None
    assert second.hpke.public_bytes != first.hpke.public_bytes
    assert second.bundle.signing_key == first.bundle.signing_key
    assert ring.newest() is second
    assert ring.find(first.entry, end - 1) is first
    assert ring.find(first.entry, end) is None


def test_clients_are_told_of_a_new_bundle_once_it_is_witnessed(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    first = ring.renew(FACTS, NOW)
    assert ring.current() is first  # there is no other
    ring.staple(first, "a proof")
    request_roll(tmp_path / "keys")
    second = ring.renew(FACTS, NOW + 1)
    assert ring.current() is first
    assert ring.unproved() == [second]
    again = KeyRing(tmp_path / "keys", operator)
    assert (again.current().entry, again.newest().entry) == (first.entry, second.entry)
    ring.staple(second, "another proof")
    assert ring.current() is second


def test_a_roll_that_is_asked_for_happens_once_and_survives_a_kill_before_it(tmp_path, operator):
    KeyRing(tmp_path / "keys", operator).renew(FACTS, NOW)
    request_roll(tmp_path / "keys")
    ring = KeyRing(tmp_path / "keys", operator)  # started again
    assert ring.asked()
    assert ring.renew(FACTS, NOW + 1) is not None
    assert not ring.asked()
    assert ring.renew(FACTS, NOW + 2) is None


def test_a_revoked_bundles_key_is_deleted_and_only_its_operator_can_revoke_it(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    made = ring.renew(FACTS, NOW)
    revocation = Revocation(bundle=made.entry, reason="key lost", at=NOW)
    forged = sign(revocation, key=Ed25519PrivateKey.generate(), issuer="honest")
    true = sign(revocation, key=operator, issuer="honest")
    assert ring.revoked([forged, b"junk"], NOW) == []
    assert ring.revoked([forged, true], NOW - 1) == []
    assert ring.revoked([forged, true], NOW) == [made.entry]
    ring.end(made.entry)
    assert ring.find(made.entry, NOW) is None
    assert not list((tmp_path / "keys").glob(f"{made.entry.hex()}.*"))
    assert ring.renew(FACTS, NOW).entry != made.entry


def test_an_ended_bundles_key_is_deleted(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    first = ring.renew(FACTS, NOW)
    files = set((tmp_path / "keys").glob(f"{first.entry.hex()}.*"))
    assert {path.suffix for path in files} == {".bundle", ".hpke"}
    ring.renew(FACTS, first.bundle.not_after)
    assert not any(path.exists() for path in files)


def test_a_kill_while_a_bundle_is_forgotten_or_made_leaves_no_private_key_behind(
    tmp_path, operator
):
    ring = KeyRing(tmp_path / "keys", operator)
    ended = ring.renew(FACTS, NOW)
    (tmp_path / "keys" / f"{ended.entry.hex()}.bundle").unlink()  # killed after the first step
    again = KeyRing(tmp_path / "keys", operator)
    live = again.renew(FACTS, NOW + 1)
    assert [path.stem for path in (tmp_path / "keys").glob("*.hpke")] == [live.entry.hex()]


def test_keys_and_proofs_survive_a_restart(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    made = ring.renew(FACTS, NOW)
    ring.staple(made, "a proof")
    again = KeyRing(tmp_path / "keys", operator)
    assert again.renew(FACTS, NOW + 1) is None
    assert again.current().entry == made.entry
    assert again.current().proof == "a proof"
    assert again.unproved() == []
    assert again.storage_key == ring.storage_key


def test_another_endpoint_makes_a_new_bundle_and_keeps_the_old_key(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    first = ring.renew(FACTS, NOW)
    second = ring.renew(replace(FACTS, endpoint="127.0.0.1:2"), NOW + 1)
    assert second is not None
    assert ring.find(first.entry, NOW + 2) is first


@pytest.mark.parametrize(
    "change",
    [
        {"model_roots": (b"\x09" * 32,)},
        {"numeric_profile": b"\x09" * 32},
        {"profile": {"device": "y"}},
    ],
)
def test_another_model_or_profile_ends_the_old_bundle_at_once(tmp_path, operator, change):
    ring = KeyRing(tmp_path / "keys", operator)
    first = ring.renew(FACTS, NOW)
    assert ring.renew(replace(FACTS, **change), NOW + 1) is not None
    assert ring.find(first.entry, NOW + 2) is None


def test_a_bundle_says_which_layers_a_stage_has_and_other_layers_end_it(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    claimed = replace(FACTS, layers=Layers(8, 16), offer=Offer(100, 900, 512, "eu-north"))
    made = ring.renew(claimed, NOW)
    assert (made.bundle.layers, made.bundle.offer) == (claimed.layers, claimed.offer)
    assert ring.renew(replace(claimed, offer=Offer(90, 800, 512)), NOW + 1) is None
    assert ring.renew(replace(claimed, layers=Layers(8, 15)), NOW + 2) is not None
    assert ring.known(made.entry) is None


def test_a_bundle_names_the_stages_and_others_make_a_new_one(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    made = ring.renew(replace(FACTS, stages=("farm/s1", "farm/s2")), NOW)
    assert made.bundle.stages == ("farm/s1", "farm/s2")
    assert ring.renew(replace(FACTS, stages=("farm/s1",)), NOW + 1) is not None
    assert ring.find(made.entry, NOW + 2) is made


def test_private_files_are_private(tmp_path, operator):
    ring = KeyRing(tmp_path / "keys", operator)
    ring.renew(FACTS, NOW)
    secret = [
        path for path in (tmp_path / "keys").iterdir() if path.suffix in {".hpke", ".key", ".pem"}
    ]
    assert len(secret) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_another_operators_folder_is_refused(tmp_path, operator):
    KeyRing(tmp_path / "keys", operator).renew(FACTS, NOW)
    with pytest.raises(CounterfoilError) as caught:
        KeyRing(tmp_path / "keys", Ed25519PrivateKey.generate())
    assert caught.value.code is Code.CONFIGURATION


def test_the_keys_are_not_in_the_representation(tmp_path, operator):
    made = KeyRing(tmp_path / "keys", operator).renew(FACTS, NOW)
    assert made.hpke.seed.hex() not in repr(made)
