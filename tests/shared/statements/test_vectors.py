"""The published statement vectors: each valid one opens, each spoiled one meets its error."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.runtime.errors import CounterfoilError
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import entry_of, open_as, parse_statement, sign_statement
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.resumption import verify_resumption
from tests.vectors.files import apply, load
from tests.vectors.samples import SAMPLES

VECTORS = load("statements")
GOOD = VECTORS["valid"]["receipt"]


@pytest.mark.parametrize("name", sorted(VECTORS["valid"]))
def test_a_valid_vector_opens_to_its_payload_and_is_signed_again_to_the_same_bytes(name):
    vector = VECTORS["valid"][name]
    raw = bytes.fromhex(vector["statement"])
    expected = SAMPLES[name][0]
    value, statement = open_as(type(expected), raw, bytes.fromhex(vector["public_key"]))
    assert value == expected
    assert (statement.type, statement.issuer, statement.subject) == (
        vector["type"],
        vector["issuer"],
        vector["subject"],
    )
    assert entry_of(raw).hex() == vector["entry"] == statement.entry.hex()
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_key"]))
    again = sign_statement(
        vector["type"],
        statement.payload,
        key=key,
        issuer=vector["issuer"],
        subject=vector["subject"],
    )
    assert again == raw


def test_there_is_a_vector_forevery_statement():
    assert set(VECTORS["valid"]) == set(SAMPLES)


@pytest.mark.parametrize("change", VECTORS["spoiled_receipt"], ids=lambda change: change["name"])
def test_a_spoiled_receipt_meets_its_error(change):
    raw = apply(bytes.fromhex(GOOD["statement"]), change)
    with pytest.raises(CounterfoilError) as caught:
        open_as(Receipt, raw, bytes.fromhex(GOOD["public_key"]))
    assert caught.value.code.name == change["error"]


def test_the_cancellation_of_the_sample_order_is_signed_over_its_entry():
    vector = {name: bytes.fromhex(text) for name, text in VECTORS["cancellation"].items()}
    assert vector["order"].hex() == VECTORS["valid"]["order"]["entry"]
    label = b"counterfoil/v1/cancel"
    framed = bytes([len(label)]) + label + (32).to_bytes(4, "big") + vector["order"]
    assert vector["message"] == framed
    verify_cancellation(vector["order"], vector["signature"], vector["public_key"])


def test_the_resumption_of_the_sample_order_is_signed_over_entry_place_and_time():
    vector = VECTORS["resumption"]
    order, frames, at = bytes.fromhex(vector["order"]), vector["frames"], vector["at"]
    label = b"counterfoil/v1/resume-signature"
    framed = bytes([len(label)]) + label + (32).to_bytes(4, "big") + order
    for number in (frames, at):
        framed += (8).to_bytes(4, "big") + number.to_bytes(8, "big")
    assert vector["message"] == framed.hex()
    signature, key = (bytes.fromhex(vector[name]) for name in ("signature", "public_key"))
    verify_resumption(order, frames, at, signature, key)


@pytest.mark.parametrize("case", VECTORS["growth"], ids=lambda case: case["name"])
@pytest.mark.parametrize("who", ["verifier", "intake"])
def test_statements_of_other_versions_meet_what_the_rule_of_growth_says(case, who):
    raw = bytes.fromhex(case["statement"])
    key = bytes.fromhex(VECTORS["valid"]["order"]["public_key"])
    if case[who] is None:
        order, statement = open_as(Order, raw, key, new=who == "intake")
        assert statement.entry == entry_of(raw)
        assert order == replace(SAMPLES["order"][0], max_input_tokens=order.max_input_tokens)
        return
    with pytest.raises(CounterfoilError) as caught:
        open_as(Order, raw, key, new=who == "intake")
    assert caught.value.code.name == case[who]


def test_the_spoiled_receipts_are_all_different_from_the_good_one_and_from_each_other():
    good = bytes.fromhex(GOOD["statement"])
    spoiled = [apply(good, change) for change in VECTORS["spoiled_receipt"]]
    assert len({good, *spoiled}) == len(spoiled) + 1
    parse_statement(good)
