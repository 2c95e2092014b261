"""HPKE against the vectors that its authors publish (RFC 9180 and draft-ietf-hpke-pq, package `cryptography_vectors`).

They have X-Wing with another AEAD than ours. So the key schedule of RFC 9180 §5.1 is computed here from HKDF alone and held
against every vector of base mode with HKDF-SHA256; then it gives the key and nonce of our suite for their
encapsulations, and what is encrypted under these must open.
"""

import json
from importlib.resources import files

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from shared.envelope.hpke import HpkePrivateKey, open_sealed
from shared.runtime.errors import Code, CounterfoilError

X_WING, HKDF_SHA256, AES_256_GCM, EXPORT_ONLY = 0x647A, 1, 2, 0xFFFF
KEY_BYTES = {1: 16, 2: 32, 3: 32}
NONCE_BYTES = 12


def vectors_of(name):
    raw = files("cryptography_vectors").joinpath("HPKE", name).read_bytes()
    numbers = ("mode", "kem_id", "kdf_id", "aead_id")
    return [one | {key: int(one[key]) for key in numbers} for one in json.loads(raw)]


def base_mode_with_our_kdf(name):
    wanted = [
        one
        for one in vectors_of(name)
        if (one["mode"], one["kdf_id"]) == (0, HKDF_SHA256) and one["aead_id"] != EXPORT_ONLY
    ]
    assert wanted
    return wanted


def key_schedule(shared_secret, info, kem_id, aead_id):
    """RFC 9180 §4 and §5.1, base mode, HKDF-SHA256: key, base_nonce, exporter_secret."""
    suite = b"HPKE" + kem_id.to_bytes(2) + HKDF_SHA256.to_bytes(2) + aead_id.to_bytes(2)

    def extract(salt, label, ikm):
        return HKDF.extract(SHA256(), salt or bytes(32), b"HPKE-v1" + suite + label + ikm)

    def expand(prk, label, context, length):
        framed = length.to_bytes(2) + b"HPKE-v1" + suite + label + context
        return HKDFExpand(SHA256(), length, framed).derive(prk)

    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared_secret, b"secret", b"")
    return (
        expand(secret, b"key", context, KEY_BYTES[aead_id]),
        expand(secret, b"base_nonce", context, NONCE_BYTES),
        expand(secret, b"exp", context, 32),
    )


@pytest.mark.parametrize("name", ["test-vectors.json", "hpke-pq-test-vectors.json"])
def test_the_key_schedule_of_the_tests_is_the_published_one(name):
    for one in base_mode_with_our_kdf(name):
        found = key_schedule(
            bytes.fromhex(one["shared_secret"]),
            bytes.fromhex(one["info"]),
            one["kem_id"],
            one["aead_id"],
        )
        told = (one["key"], one["base_nonce"], one["exporter_secret"])
        assert tuple(part.hex() for part in found) == told


def x_wing():
    wanted = [one for one in vectors_of("hpke-pq-test-vectors.json") if one["kem_id"] == X_WING]
    assert wanted
    return wanted


def test_a_published_seed_gives_the_published_public_key():
    for one in x_wing():
        assert (
            HpkePrivateKey.from_seed(bytes.fromhex(one["skRm"])).public_bytes.hex() == one["pkRm"]
        )


def test_what_is_sealed_by_a_published_encapsulation_under_our_suite_opens():
    for one in x_wing():
        key = HpkePrivateKey.from_seed(bytes.fromhex(one["skRm"]))
        enc, info = bytes.fromhex(one["enc"]), bytes.fromhex(one["info"])
        secret, nonce, _ = key_schedule(
            bytes.fromhex(one["shared_secret"]), info, X_WING, AES_256_GCM
        )
        sealed = enc + AESGCM(secret).encrypt(nonce, b"a transcript secret", b"")
        assert open_sealed(key, info, sealed) == b"a transcript secret"
        with pytest.raises(CounterfoilError) as caught:
            open_sealed(key, info + b"!", sealed)
        assert caught.value.code is Code.UNREADABLE
