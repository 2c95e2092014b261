import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codec.hashing import (
    framing,
    hkdf_expand,
    hkdf_extract,
    labelled_hash,
    labelled_mac,
    sha256,
)


def test_framing_is_the_protocol_s():
    framed = b"\x12counterfoil/v1/ctx" + b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00"
    assert framing("ctx", b"ab", b"") == framed
    assert labelled_hash("ctx", b"ab", b"") == hashlib.sha256(framed).digest()
    assert labelled_mac(b"k", "ctx", b"ab", b"") == hmac.digest(b"k", framed, "sha256")


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_lists_of_parts_never_share_a_framing(left, right):
    assert (framing("x", *left) == framing("x", *right)) == (left == right)


def test_sha256_concatenates():
    assert sha256(b"a", b"bc") == hashlib.sha256(b"abc").digest()


def test_hkdf_extract_is_rfc_5869_test_case_1():
    prk = hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"


@pytest.mark.parametrize("length", [12, 32, 80])
def test_hkdf_expand_is_rfc_5869_over_the_framing(length):
    prk, info = b"\x07" * 32, framing("label", b"context", b"more")
    expected, block, counter = b"", b"", 1
    while len(expected) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        expected, counter = expected + block, counter + 1
    assert hkdf_expand(prk, "label", length, b"context", b"more") == expected[:length]
