"""COSE_Sign1 framing: what is signed, by whom, and what never changes the entry."""

from hashlib import sha256

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import (
    _SMALL_ORDER,
    attach,
    check_signing_key,
    detach,
    entry_of,
    open_as,
    parse_statement,
    sign,
    sign_statement,
    verify_signature,
)
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from tests.vectors.samples import BUNDLE, ORDER, octets, signing_key
from tests.vectors.spoil import join, resigned, split

KEY = signing_key("tenant")
PUBLIC = public_bytes(KEY)
RAW = sign(ORDER, key=KEY, issuer="acme")
P = 2**255 - 19


def code_of(call):
    with pytest.raises(CounterfoilError) as caught:
        call()
    return caught.value.code


def test_another_implementation_reads_the_members_and_verifies_the_signature():
    tagged = cbor2.loads(RAW)
    protected, unprotected, payload, signature = tagged.value
    assert (tagged.tag, unprotected) == (18, {})
    assert cbor2.loads(protected) == {
        1: -8,
        3: "application/vnd.counterfoil.order+cbor",
        4: sha256(PUBLIC).digest(),
        15: {1: "acme", 2: ORDER.ctx.hex()},
    }
    assert cbor2.loads(payload)["tenant"] == "acme"
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(signature, to_be_signed)


def test_the_entry_is_the_hash_of_the_bytes_and_attached_receipts_do_not_change_it():
    carrying = attach(RAW, [b"first", b"second"])
    assert carrying != RAW
    assert entry_of(carrying) == entry_of(RAW) == sha256(RAW).digest()
    assert detach(carrying) == (RAW, (b"first", b"second"))
    assert detach(RAW) == (RAW, ())
    assert attach(RAW, []) == RAW


def test_a_statement_with_receipts_attached_must_be_detached_first():
    assert code_of(lambda: parse_statement(attach(RAW, [b"x"]))) is Code.MALFORMED


@pytest.mark.parametrize(
    "header", [{395: [b"x"]}, {394: []}, {394: b"x"}, {394: ["x"]}, {394: [b"x"] * 9}]
)
def test_only_receipts_can_be_detached(header):
    protected, _, payload, signature = cbor2.loads(RAW).value
    raw = cbor2.dumps(cbor2.CBORTag(18, [protected, header, payload, signature]))
    assert code_of(lambda: detach(raw)) is Code.MALFORMED
    assert code_of(lambda: entry_of(raw)) is Code.MALFORMED


def test_a_statement_by_another_key_is_untrusted_whatever_its_header_claims():
    other = Ed25519PrivateKey.generate()
    forged = sign(ORDER, key=other, issuer="acme")
    assert code_of(lambda: open_as(Order, forged, PUBLIC)) is Code.UNTRUSTED_KEY
    _, _, payload, signature = cbor2.loads(forged).value
    ours = cbor2.loads(RAW).value[0]
    borrowed = cbor2.dumps(cbor2.CBORTag(18, [ours, {}, payload, signature]))
    assert code_of(lambda: open_as(Order, borrowed, PUBLIC)) is Code.BAD_SIGNATURE


def test_a_statement_of_another_type_is_refused():
    assert code_of(lambda: open_as(Receipt, RAW, PUBLIC)) is Code.MALFORMED


def test_the_length_limit_depends_on_the_type():
    def signed(content, size):
        return sign_statement(content, {"v": 1, "x": bytes(size)}, key=KEY, issuer="a", subject="b")

    assert code_of(lambda: signed("order", 65_536)) is Code.MALFORMED
    oversized = resigned(KEY, split(RAW)[0], cbor2.dumps({"v": 1, "x": bytes(65_536)}))
    assert code_of(lambda: parse_statement(oversized)) is Code.MALFORMED
    long = signed("draw", 65_536)
    assert parse_statement(long).type == "draw"
    assert code_of(lambda: parse_statement(long, max_bytes=65_536)) is Code.MALFORMED
    assert code_of(lambda: signed("draw", 2**20)) is Code.MALFORMED


def test_points_of_small_order_are_no_signing_keys_with_either_sign():
    for point in _SMALL_ORDER:
        for sign_bit in (0, 0x80):
            raw = point[:31] + bytes([point[31] | sign_bit])
            assert code_of(lambda raw=raw: check_signing_key(raw)) is Code.UNTRUSTED_KEY
            assert (
                code_of(
                    lambda raw=raw: KeyBundle.from_payload(
                        {**BUNDLE.to_payload(), "signing_key": raw}
                    )
                )
                is Code.MALFORMED
            )


def test_the_table_of_small_order_points_is_complete():
    """The curve has 8 points of small order: two with y = ±1, two with y = 0, four with y = ±y8."""
    d = -121665 * pow(121666, -1, P) % P

    def double(x, y, z):  # projective coordinates, dbl-2008-bbjlp with a = -1
        b, c, dd = (x + y) ** 2 % P, x * x % P, y * y % P
        e = -c % P
        f = (e + dd) % P
        j = (f - 2 * z * z) % P
        return (b - c - dd) * j % P, f * (e - dd) % P, f * j % P

    def is_small(y):
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(x2, (P + 3) // 8, P)
        if (x * x - x2) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        if (x * x - x2) % P:
            return False
        point = (x, y, 1)
        for _ in range(3):
            point = double(*point)
        return point[0] % P == 0 and (point[1] - point[2]) % P == 0

    table = {int.from_bytes(point, "little") for point in _SMALL_ORDER}
    assert all(is_small(y % P) for y in table)
    assert not is_small(4 * pow(5, -1, P) % P), "the base point"
    first, second = {y % P for y in table} - {0, 1, P - 1}
    assert first + second == P
    # Only y = 0 and y = 1 have a second spelling below 2^255.
    assert table == {0, 1, P - 1, P, P + 1, first, second}


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, len(RAW) - 1), flip=st.integers(1, 255))
def test_no_changed_or_random_byte_passes(data, at, flip):
    changed = RAW[:at] + bytes([RAW[at] ^ flip]) + RAW[at + 1 :]
    for raw in (data, changed):
        with pytest.raises(CounterfoilError):
            open_as(Order, raw, PUBLIC)


def test_claims_that_could_forge_log_lines_are_not_signed():
    for issuer in ("", "a\nb", "a\x1b[31m", "x" * 257, "\ud800"):
        assert code_of(lambda issuer=issuer: sign(ORDER, key=KEY, issuer=issuer)) is Code.MALFORMED
        assert (
            code_of(lambda issuer=issuer: sign(ORDER, key=KEY, issuer="i", subject=issuer))
            is Code.MALFORMED
        )
    assert (
        code_of(lambda: sign_statement("Order", {}, key=KEY, issuer="a", subject="b"))
        is Code.MALFORMED
    )


def test_nobody_verifies_under_a_point_of_small_order():
    """Under the neutral element, R = [S]B verifies for every message."""
    neutral = b"\x01" + bytes(31)
    protected, body, _ = split(RAW)
    header = cbor2.loads(protected)
    header[4] = sha256(neutral).digest()
    everything = neutral + bytes(32)  # R is the neutral element, S = 0
    raw = join(cbor2.dumps(header, canonical=True), {}, body, everything)
    Ed25519PublicKey.from_public_bytes(neutral).verify(everything, b"any message at all")
    assert code_of(lambda: open_as(Order, raw, neutral)) is Code.UNTRUSTED_KEY


@pytest.mark.parametrize(
    ("says", "members"),
    [
        ("headers of the wrong type", [{}, {}, b"", b""]),
        ("headers of the wrong type", [b"", [], b"", b""]),
        ("four members", 7),
        ("payload or signature", [b"", {}, b"", 1]),
        ("missing or unknown protected members", [cbor2.dumps({}), {}, b"", b""]),
        ("missing or unknown protected members", [cbor2.dumps([1, 3, 4, 15]), {}, b"", b""]),
    ],
)
def test_the_shape_of_the_message_is_checked_first(says, members):
    with pytest.raises(CounterfoilError, match=says) as caught:
        parse_statement(cbor2.dumps(cbor2.CBORTag(18, members)))
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("content type", {3: 1}),
        ("content type", {3: "application/vnd.counterfoil.Order+cbor"}),
        ("content type", {3: "application/vnd.counterfoil.order+json"}),
        ("key id", {4: "x" * 32}),
        ("claims", {15: {1: "acme"}}),
        ("claims", {15: [1, 2]}),
        ("issuer", {15: {1: 7, 2: "x"}}),
        ("subject", {15: {1: "x", 2: b"x"}}),
        ("EdDSA", {1: -7}),
    ],
)
def test_each_protected_member_is_checked(says, changes):
    protected, body, _ = split(RAW)
    header = cbor2.dumps({**cbor2.loads(protected), **changes}, canonical=True)
    with pytest.raises(CounterfoilError, match=says) as caught:
        parse_statement(resigned(KEY, header, body))
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("payload", [{1: 2}, {b"x": 1}, [1], 7])
def test_a_payload_is_a_map_with_text_keys(payload):
    raw = resigned(KEY, split(RAW)[0], cbor2.dumps(payload))
    with pytest.raises(CounterfoilError, match="text keys") as caught:
        open_as(Order, raw, PUBLIC)
    assert caught.value.code is Code.MALFORMED


def test_what_a_statement_is_about_follows_from_its_payload():
    raw = sign(ORDER, key=KEY, issuer="acme", subject="weekly-maintenance")
    verify_signature(parse_statement(raw), PUBLIC)
    with pytest.raises(CounterfoilError, match="weekly-maintenance") as caught:
        open_as(Order, raw, PUBLIC)
    assert caught.value.code is Code.MALFORMED


def test_a_payload_is_decoded_only_after_the_signature(monkeypatch):
    """A stranger's payload costs its length, not what it decodes to."""
    bomb = b"\x9a" + (60_000).to_bytes(4, "big") + b"\x80" * 60_000
    raw = resigned(Ed25519PrivateKey.generate(), split(RAW)[0], bomb)
    assert code_of(lambda: open_as(Order, raw, PUBLIC)) in {Code.UNTRUSTED_KEY, Code.BAD_SIGNATURE}


def test_a_signature_is_made_once_and_is_the_same_every_time():
    assert sign(ORDER, key=KEY, issuer="acme") == RAW
    statement = parse_statement(RAW)
    verify_signature(statement, PUBLIC)
    assert statement.entry == sha256(statement.raw).digest()
    assert statement.entry != octets("other")
