"""HPKE keys and sealing: X-Wing's key expansion, its files, and one error for everything that does not open."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.envelope.hpke import (
    OVERHEAD,
    HpkePrivateKey,
    check_hpke_public_key,
    generate_hpke_key,
    hpke_key_id,
    load_hpke_key,
    load_or_create_hpke_key,
    open_sealed,
    save_hpke_key,
    seal,
)
from shared.runtime.errors import Code, CounterfoilError
from tests.vectors.samples import hpke_key, octets

KEY = hpke_key("node")


def code_of(call):
    with pytest.raises(CounterfoilError) as caught:
        call()
    return caught.value.code


def test_a_seed_expands_as_the_x_wing_draft_says():
    """First test vector of draft-connolly-cfrg-xwing-kem."""
    seed = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    key = HpkePrivateKey.from_seed(seed)
    assert len(key.public_bytes) == 1216
    assert key.public_bytes.hex().startswith(
        "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"
    )


@settings(max_examples=20, deadline=None)
@given(info=st.binary(max_size=80), plaintext=st.binary(max_size=300))
def test_what_is_sealed_opens_for_the_recipient_under_the_same_info(info, plaintext):
    data = seal(KEY.public_bytes, info, plaintext)
    assert len(data) == len(plaintext) + OVERHEAD
    assert open_sealed(KEY, info, data) == plaintext
    for wrong in (
        lambda: open_sealed(hpke_key("other"), info, data),
        lambda: open_sealed(KEY, info + b"\x00", data),
        lambda: open_sealed(KEY, info, data[:-1]),
        lambda: open_sealed(KEY, info, data[:100]),
        lambda: open_sealed(KEY, info, b""),
        lambda: open_sealed(KEY, info, bytes([data[0] ^ 1]) + data[1:]),
        lambda: open_sealed(KEY, info, data[:1119] + bytes([data[1119] ^ 1]) + data[1120:]),
    ):
        assert code_of(wrong) is Code.UNREADABLE


def test_sealing_is_randomised():
    assert seal(KEY.public_bytes, b"", b"x") != seal(KEY.public_bytes, b"", b"x")


def test_bytes_that_are_no_public_key_are_malformed():
    good = KEY.public_bytes
    for public in (b"", good[:-1], good + b"\x00", b"\xff" * 1216):
        assert code_of(lambda public=public: seal(public, b"", b"x")) is Code.MALFORMED
    assert code_of(lambda: seal(good[:1184] + bytes(32), b"", b"x")) is Code.MALFORMED
    with pytest.raises(CounterfoilError, match="1216 bytes long, not 5"):
        check_hpke_public_key(b"short")
    check_hpke_public_key(good)


def test_a_key_file_is_private_and_gives_the_same_key_back(tmp_path):
    path = tmp_path / "keys" / "hpke.key"
    made = load_or_create_hpke_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_hpke_key(path).public_bytes == made.public_bytes
    other = generate_hpke_key()
    assert not save_hpke_key(path, other)  # a key that is there is not replaced
    assert load_hpke_key(path).key_id == made.key_id
    other_path = path.with_name("other.key")
    assert save_hpke_key(other_path, other)
    assert other_path.stat().st_mode & 0o777 == 0o600
    assert load_hpke_key(other_path).key_id == other.key_id == hpke_key_id(other.public_bytes)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"00" * 31, b"\xff\xfe"])
def test_a_file_without_a_key_is_a_configuration_error(tmp_path, content):
    path = tmp_path / "hpke.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert code_of(lambda: load_hpke_key(path)) is Code.CONFIGURATION
    assert code_of(lambda: load_hpke_key(tmp_path / "absent")) is Code.CONFIGURATION


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "hpke.key"
    save_hpke_key(path, KEY)
    path.chmod(0o644)
    assert code_of(lambda: load_hpke_key(path)) is Code.CONFIGURATION


def test_no_repr_shows_the_seed():
    assert KEY.seed.hex() not in repr(KEY)
    assert repr(KEY.seed) not in repr(KEY)
    assert octets("hpke key of node") == KEY.seed
