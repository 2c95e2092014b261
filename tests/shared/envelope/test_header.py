"""The envelope's outer form: lists that match each other, size classes, limits."""

from dataclasses import replace

import pytest

from shared.envelope.header import Envelope, Header
from shared.envelope.padding import padded_size
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.envelope.sealed import sealed_request
from tests.vectors.samples import octets

GOOD = Envelope.from_bytes(sealed_request().envelope_bytes)


def refused(call, says):
    with pytest.raises(CounterfoilError, match=says) as caught:
        call()
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("one share per custodian", {"shares": GOOD.header.shares[:2]}),
        ("one share per custodian", {"custodians": GOOD.header.custodians[:2]}),
        ("fewer shares than its threshold", {"threshold": 4}),
        ("a candidate twice", {"candidates": (octets("a"), octets("a"))}),
        ("a custodian twice", {"custodians": (octets("a"), octets("a"), octets("b"))}),
        ("no size class", {"padded": 257}),
        ("no size class", {"padded": 65_536 * 2 - 1}),
        ("candidates", {"candidates": ()}),
        ("candidates", {"candidates": tuple(octets(str(i)) for i in range(9))}),
        ("custodians", {"custodians": tuple(octets(str(i)) for i in range(17))}),
        ("request", {"request": bytes(15)}),
        ("padded", {"padded": padded_size(2**21, 256) + 65_536}),
        ("max_output_tokens", {"max_output_tokens": 0}),
    ],
)
def test_a_header_that_disagrees_with_itself_is_refused(says, changes):
    refused(lambda: replace(GOOD.header, **changes), says)


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("one wrap per candidate", {"wraps": GOOD.wraps * 2}),
        ("one wrap per custodian", {"escrow": GOOD.escrow[:2]}),
        ("body of another size", {"body": GOOD.body + GOOD.body}),
        ("wraps", {"wraps": (GOOD.wraps[0][:-1],)}),
        ("escrow", {"escrow": (GOOD.escrow[0] + b"x", *GOOD.escrow[1:])}),
        ("kc", {"kc": bytes(31)}),
    ],
)
def test_an_envelope_that_disagrees_with_its_header_is_refused(says, changes):
    refused(lambda: replace(GOOD, **changes), says)


def test_an_envelope_above_4_mib_is_refused_before_it_is_read():
    refused(lambda: Envelope.from_bytes(bytes(4 * 2**20 + 1)), "bytes")


def test_the_header_is_a_byte_string_so_that_ctx_is_the_hash_of_what_travelled():
    payload = GOOD.to_payload()
    assert payload["header"] == GOOD.header.to_cbor()
    assert Header.from_cbor(GOOD.header.to_cbor(), max_bytes=2**16) == GOOD.header
    refused(
        lambda: Envelope.from_payload({**payload, "header": GOOD.header.to_payload()}), "header"
    )
