"""Payloads are read strictly: exactly their fields, each within its bounds."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec import cbor
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import (
    MAX_ITEMS,
    MAX_LONG_STATEMENT,
    MAX_STATEMENT,
    MAX_STATEMENT_ITEMS,
    MAX_STATEMENT_NESTED,
    parse_statement,
    sign,
    sign_statement,
)
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.receipts import EnergyQuality, Finish, Receipt, Usage
from shared.statements.schema import Statement
from shared.statements.seals import MAX_MISSING, Missing, OrderNumbers
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from tests.vectors.samples import BUNDLE, EARLY_FAILURE, NOW, ORDER, RECEIPT, SAMPLES, octets

VALUES: dict[str, Any] = {name: sample[0] for name, sample in SAMPLES.items()}


def refused(call):
    with pytest.raises(CounterfoilError) as caught:
        call()
    assert caught.value.code is Code.MALFORMED
    return caught.value.detail


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_statement_survives_the_wire(name):
    value = VALUES[name]
    assert type(value).from_payload(cbor.decode(cbor.encode(value.to_payload()))) == value


@pytest.mark.parametrize("cls", Statement.__subclasses__(), ids=lambda cls: cls.TYPE)
def test_every_permitted_payload_is_within_what_a_statement_of_its_type_may_hold(cls):
    assert cls.max_items() <= MAX_ITEMS.get(cls.TYPE, MAX_STATEMENT_ITEMS)
    assert cls.max_nested() <= MAX_STATEMENT_NESTED


def test_the_longest_statements_are_read():
    missing = tuple(Missing(2 * i, 2 * i) for i in range(MAX_MISSING))
    many = {octets(f"{i}"): bytes(32) for i in range(8192)}
    longest = [
        replace(VALUES["draw"], drawn=tuple(range(230_000)), reveals=()),
        replace(VALUES["epoch-seal"], nodes=many, strict=tuple(sorted(many))),
        replace(VALUES["tenant-seal"], orders=OrderNumbers(2 * MAX_MISSING, missing)),
    ]
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    for value in longest:
        raw = sign(value, key=key, issuer="authority")
        assert type(value).from_payload(parse_statement(raw).payload) == value


@pytest.mark.parametrize(
    ("content", "most"), [("receipt", MAX_STATEMENT_ITEMS), *MAX_ITEMS.items()]
)
def test_a_payload_of_empty_arrays_is_refused_before_they_are_made(content, most, monkeypatch):
    made = [0]
    array = cbor._NESTED[4]

    def counting(*args):
        made[0] += 1
        return array(*args)

    monkeypatch.setattr(cbor, "_NESTED", {**cbor._NESTED, 4: counting})
    size = (MAX_LONG_STATEMENT if content in MAX_ITEMS else MAX_STATEMENT) - 512
    payload = {"v": [[] for _ in range(size)]}
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    raw = sign_statement(content, payload, key=key, issuer="i", subject="s")
    assert f"more than the permitted {most} items" in refused(lambda: parse_statement(raw).payload)
    assert made[0] < 10


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_field_is_required_unless_it_has_a_default_and_none_may_be_null(name):
    value = VALUES[name]
    cls, payload = type(value), value.to_payload()
    for field in fields(value):
        left_out = {field.name, "crit"} if field.name in cls.CRITICAL else {field.name}
        without = {key: item for key, item in payload.items() if key not in left_out}
        if field.default is None:
            assert getattr(cls.from_payload(without), field.name) is None
        else:
            assert f"{field.name} is missing" in refused(lambda w=without: cls.from_payload(w))
        null = {**payload, field.name: None}
        if field.name in cls.CRITICAL:
            null["crit"] = [field.name]
        assert "is null" in refused(lambda n=null: cls.from_payload(n))


@pytest.mark.parametrize("name", sorted(VALUES))
def test_unknown_fields_are_not_taken_in_and_unknown_versions_are_refused(name):
    value = VALUES[name]
    cls, payload = type(value), value.to_payload()
    taken_in = partial(cls.from_payload, new=True)
    assert "unknown fields" in refused(lambda: taken_in({**payload, "extra": 1}))
    assert cls.from_payload({**payload, "extra": 1}) == taken_in(payload) == value
    assert "unknown fields" in refused(lambda: cls.from_payload({**payload, 7: 1}))
    for version in (0, 2, True, "1", None):
        refused(lambda v=version: cls.from_payload({**payload, "v": v}))


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), -1),
    st.integers(2**63, 2**64 - 1),
    st.text(max_size=3).map(lambda text: text + "\x00"),
    st.binary(max_size=31),
    st.lists(st.just(True), max_size=2).map(lambda items: [*items, []]),
    st.just({"nested": {}}),
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(VALUES)), data=st.data())
def test_a_field_of_the_wrong_kind_is_malformed_and_nothing_else(name, data):
    value = VALUES[name]
    payload = value.to_payload()
    field = data.draw(st.sampled_from(sorted(set(payload) - {"v", "whole"})))
    wrong = data.draw(WRONG)
    if field == "profile" and isinstance(wrong, dict):
        wrong = {"nested": {}}
    detail = refused(lambda: type(value).from_payload({**payload, field: wrong}))
    assert field in detail


def test_an_invalid_value_cannot_be_made_here_either():
    assert "order.tenant" in refused(lambda: replace(ORDER, tenant="Acme"))
    assert "order.ctx" in refused(lambda: replace(ORDER, ctx=b"short"))
    assert "order.number" in refused(lambda: replace(ORDER, number=-1))
    refused(lambda: replace(ORDER, expiry=ORDER.created))
    refused(lambda: replace(ORDER, max_output_tokens=0))
    refused(lambda: replace(ORDER, max_output_tokens=2**20 + 1))
    refused(lambda: replace(ORDER, attempt=2**32))
    refused(lambda: replace(ORDER, created=2**50))


def test_fields_reserved_for_later_are_not_taken_in_until_they_are_defined():
    verdict = VALUES["verdict"]
    for name in ("sketch_seed", "attestation", "stages"):
        refused(lambda n=name: Receipt.from_payload({**RECEIPT.to_payload(), n: b"x"}, new=True))
    for name in ("false_positive_rate", "e_value"):
        payload = {**verdict.to_payload(), name: 1}
        refused(lambda p=payload: type(verdict).from_payload(p, new=True))


def test_a_receipt_of_an_early_failure_lacks_what_there_was_nothing_to_commit_to():
    payload = EARLY_FAILURE.to_payload()
    absent = {"settings", "activation_root", "input", "output", "evidence"}
    assert not absent & set(payload)
    assert "energy_mj" not in EARLY_FAILURE.usage.to_payload()


def test_unmeasured_energy_is_absent_and_measured_energy_is_there():
    good = Usage(input=1, cached=0, output=1, energy_quality=EnergyQuality.UNMEASURED)
    refused(lambda: replace(good, energy_mj=0))
    refused(lambda: replace(good, energy_quality=EnergyQuality.ESTIMATED))
    assert replace(good, energy_quality=EnergyQuality.MEASURED, energy_mj=0).energy_mj == 0


def test_finish_has_exactly_the_protocols_values():
    assert [finish.value for finish in Finish] == [
        "stop",
        "length",
        "cancelled",
        "deadline",
        "failed",
    ]


def test_the_chain_of_receipts_starts_with_zeros_and_only_there():
    refused(lambda: replace(RECEIPT, node_sequence=0))
    refused(lambda: replace(RECEIPT, previous=bytes(32)))
    assert replace(RECEIPT, node_sequence=0, previous=bytes(32)).node_sequence == 0


def test_a_key_bundle_lives_at_most_25_hours():
    refused(lambda: replace(BUNDLE, not_after=BUNDLE.not_after + 1))
    refused(lambda: replace(BUNDLE, not_after=BUNDLE.not_before))
    assert BUNDLE.is_live(BUNDLE.not_before)
    assert not BUNDLE.is_live(BUNDLE.not_after)
    assert not BUNDLE.is_live(NOW - 1)


@pytest.mark.parametrize(
    "profile", [{"": 1}, {"a": 1.5}, {"a": True}, {"a": None}, {1: "x"}, {"a": []}]
)
def test_a_profile_is_text_to_text_or_integers(profile):
    refused(lambda: replace(BUNDLE, profile=profile))


def test_lists_have_bounds_and_no_duplicates():
    opened = VALUES["epoch-open"]
    assert isinstance(opened, EpochOpen)
    refused(lambda: replace(opened, commitments=(octets("a"),) * 2))
    refused(lambda: replace(opened, commitments=tuple(octets(str(i)) for i in range(65))))
    refused(lambda: replace(BUNDLE, model_roots=()))
    refused(lambda: replace(BUNDLE, model_roots=BUNDLE.model_roots * 2))
    seal = VALUES["epoch-seal"]
    assert isinstance(seal, EpochSeal)
    refused(lambda: replace(seal, size=seal.first - 1))
    draw = VALUES["draw"]
    assert isinstance(draw, Draw)
    for drawn in ((2, 1), (1, 1)):
        refused(lambda d=drawn: replace(draw, drawn=d))


def test_a_verdicts_reason_is_one_of_its_outcome():
    verdict = replace(VALUES["verdict"], confirms=None)
    for reason in Reason:
        made = replace(verdict, outcome=reason.outcome, reason=reason)
        assert Verdict.from_payload(made.to_payload()) == made
        for other in set(Outcome) - {reason.outcome}:
            refused(lambda r=reason, o=other: replace(verdict, outcome=o, reason=r))
    refused(lambda: replace(verdict, reason="made-up"))


def test_only_a_verdict_that_blames_the_node_confirms_another():
    for reason in Reason:
        make = lambda r=reason: replace(VALUES["verdict"], outcome=r.outcome, reason=r)  # noqa: E731
        if reason.blame is Blame.NODE:
            assert make().confirms is not None
        else:
            refused(make)


@pytest.mark.parametrize(
    "amount", ["", "-1", "1.", ".5", "01", "1e3", "1,5", "NaN", "0.0000000000001", "١"]
)
def test_a_price_is_a_plain_decimal(amount):
    card = VALUES["rate-card"]
    refused(lambda: replace(card.prices[0], input=amount))


def test_a_rate_card_has_one_price_per_model_and_a_period():
    card = VALUES["rate-card"]
    refused(lambda: replace(card, prices=card.prices * 2))
    refused(lambda: replace(card, valid_to=card.valid_from))
    refused(lambda: replace(card, currency="eur"))
    assert card.price_of(octets("model")) is card.prices[0]
    assert card.price_of(octets("another")) is None
