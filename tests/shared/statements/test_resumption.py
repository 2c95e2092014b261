"""Resuming: only the key that signed the order has the rest of its response, from the place and at the time that it names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import entry_of, sign
from shared.statements.resumption import sign_resumption, verify_resumption
from tests.vectors.samples import ORDER, octets, signing_key

KEY = signing_key("tenant")
PUBLIC = public_bytes(KEY)
ENTRY = entry_of(sign(ORDER, key=KEY, issuer="acme"))
TRUE = sign_resumption(ENTRY, 3, 1000, KEY)


def code_of(order=ENTRY, frames=3, at=1000, signature=TRUE, public_key=PUBLIC):
    with pytest.raises(CounterfoilError) as caught:
        verify_resumption(order, frames, at, signature, public_key)
    return caught.value.code


def test_a_tenant_resumes_its_own_stream():
    verify_resumption(ENTRY, 3, 1000, TRUE, PUBLIC)


@pytest.mark.parametrize(
    "change",
    [
        {"order": octets("another order")},
        {"order": ENTRY[:-1]},
        {"frames": 2},
        {"at": 1001},
        {"signature": sign_resumption(ENTRY, 3, 1000, signing_key("other tenant"))},
        {"signature": sign_cancellation(ENTRY, KEY)},
        {"signature": KEY.sign(ENTRY)},
    ],
)
def test_other_values_other_keys_and_other_wishes_resume_nothing(change):
    assert code_of(**change) is Code.BAD_SIGNATURE


@given(st.binary(max_size=130))
def test_other_bytes_resume_nothing(signature):
    assert code_of(signature=signature) is Code.BAD_SIGNATURE


def test_a_key_of_small_order_resumes_nothing():
    assert code_of(signature=bytes(64), public_key=bytes(32)) is Code.UNTRUSTED_KEY
