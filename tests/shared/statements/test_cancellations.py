"""Cancellations: only the key that signed the order ends its answer, and only that order's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation, verify_cancellation
from shared.statements.cose import entry_of, sign
from tests.vectors.samples import ORDER, octets, signing_key

KEY = signing_key("tenant")
PUBLIC = public_bytes(KEY)
STATEMENT = sign(ORDER, key=KEY, issuer="acme")
ENTRY = entry_of(STATEMENT)


def code_of(order: bytes, signature: bytes, public_key: bytes = PUBLIC) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        verify_cancellation(order, signature, public_key)
    return caught.value.code


def test_a_tenant_cancels_its_own_order():
    verify_cancellation(ENTRY, sign_cancellation(ENTRY, KEY), PUBLIC)


def test_a_cancellation_of_another_order_or_by_another_key_is_refused():
    assert code_of(octets("another order"), sign_cancellation(ENTRY, KEY)) is Code.BAD_SIGNATURE
    foreign = sign_cancellation(ENTRY, signing_key("other tenant"))
    assert code_of(ENTRY, foreign) is Code.BAD_SIGNATURE


def test_the_orders_own_signature_and_one_over_the_bare_entry_cancel_nothing():
    assert code_of(ENTRY, STATEMENT[-64:]) is Code.BAD_SIGNATURE
    assert code_of(ENTRY, KEY.sign(ENTRY)) is Code.BAD_SIGNATURE


@given(st.binary(max_size=130))
def test_other_bytes_are_no_cancellation(signature):
    assert code_of(ENTRY, signature) is Code.BAD_SIGNATURE


def test_a_key_of_small_order_cancels_nothing():
    assert code_of(ENTRY, bytes(64), bytes(32)) is Code.UNTRUSTED_KEY
