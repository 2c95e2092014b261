"""Bundles: what is written can be read back, and what verifies was signed, logged and witnessed."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import attach, detach
from shared.translog.policy_file import parse_policy_file
from shared.verification.bundle import (
    MAX_BUNDLE,
    MAX_KEYS,
    MAX_TIMESTAMPS,
    Bundle,
    OrderContext,
    parse_bundle,
    read_bundle,
)
from shared.verification.bundle_check import Report, in_words, verify_bundle
from shared.verification.identities import Logged
from shared.verification.trust import Trust
from tests.vectors import bundle_samples as made
from tests.vectors import chained
from tests.vectors.files import apply
from tests.vectors.generate_translog import FOLDER
from tests.vectors.samples import signing_key

VECTORS = json.loads((FOLDER / "bundle.json").read_text("utf-8"))
GOOD = VECTORS["valid"][0]["bundle"].encode()
PINS = {
    "gpu-farm": {public_bytes(signing_key("operator"))},
    "acme": {public_bytes(signing_key("tenant"))},
    "worker-1": {public_bytes(signing_key("worker"))},
    made.ORIGIN: {public_bytes(made.COSE_KEY)},
}
OWN = Trust(made.policy_of(2)).with_signers(PINS)
octets = st.binary(max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def verified(data: bytes, trust: Trust) -> Report:
    return verify_bundle(parse_bundle(data), trust)


bundles = st.builds(
    Bundle,
    statement=octets,
    tlog_proof=texts,
    policy=texts,
    keys=st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_KEYS).map(tuple),
    context=st.none() | st.builds(OrderContext, octets, octets, texts),
    timestamps=st.lists(octets, max_size=MAX_TIMESTAMPS).map(tuple),
    identities=st.lists(st.tuples(octets, texts), max_size=3).map(tuple),
)


@given(bundles)
def test_a_bundle_that_is_written_is_read_again(bundle: Bundle):
    assert parse_bundle(bundle.encode().encode()) == bundle


@settings(max_examples=50)
@given(bundles)
def test_whatever_is_in_a_bundle_verification_ends_with_steps(bundle: Bundle):
    for trust in (Trust(), OWN):
        report = verify_bundle(bundle, trust)
        assert not report.verified
        assert not report.steps[-1].holds


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_input_breaks_the_parser(data: bytes):
    with contextlib.suppress(CounterfoilError):
        parse_bundle(data)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a":' * 50_000, b" " * MAX_BUNDLE + GOOD, b'{"format": 1' + b"0" * 9999],
)
def test_what_would_cost_much_is_malformed(data: bytes):
    with pytest.raises(CounterfoilError) as caught:
        parse_bundle(data)
    assert caught.value.code is Code.MALFORMED


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_a_changed_byte_fails_or_leaves_what_is_verified_as_it_was(at, change, own):
    trust = OWN if own else Trust()
    spoiled = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
    with contextlib.suppress(CounterfoilError):  # it is not read at all
        assert verified(spoiled, trust).facts in ({}, verified(GOOD, trust).facts)


@pytest.mark.parametrize(
    "case", VECTORS["valid"], ids=["receipt", "verdict", "cancelled", "late", "refusal"]
)
@pytest.mark.parametrize("trust", [Trust(), OWN], ids=["on its word", "own pins"])
def test_valid_vectors_verify(case, trust: Trust):
    data = case["bundle"].encode()
    report = verified(data, trust)
    assert report.verified, report.steps
    assert len(report.steps) == case["steps"]
    shown = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in report.facts.items()
    }
    assert case["facts"].items() <= shown.items()
    assert parse_bundle(data).encode().encode() == data


@pytest.mark.parametrize("case", VECTORS["spoiled"], ids=lambda case: case["name"])
def test_spoiled_vectors_fail_where_and_as_they_say(case):
    data = apply(GOOD, case)
    if case["step"] == 0:
        with pytest.raises(CounterfoilError) as caught:
            parse_bundle(data)
        assert caught.value.code.name == case["code"]
        return
    report = verified(data, Trust())
    last = report.steps[-1]
    assert (last.number, last.code) == (case["step"], case["code"]), last
    assert all(step.holds for step in report.steps[:-1])
    assert report.facts == {}


@pytest.mark.parametrize("case", VECTORS["own_policies"], ids=lambda case: case["name"])
def test_the_verifiers_own_policy_decides_whatever_the_bundles_says(case):
    own = parse_policy_file(case["policy"]).policy()
    for policy in (made.OF_RECEIPT.policy, "no policy"):
        bundle = replace(made.OF_RECEIPT, policy=policy)
        report = verify_bundle(bundle, Trust(own))
        assert report.steps[-1].code == case["code"]
        assert report.verified is (case["code"] is None)
        assert "your own policy" in report.rests_on[0]


def test_the_bundles_own_policy_is_called_its_makers_word():
    report = verify_bundle(made.OF_RECEIPT, Trust())
    assert "the bundle's own" in str(report.steps[0].detail)
    text = report.as_text().splitlines()
    assert [line[:5] for line in text[:-1] if line[:1] == "✓"] == [f"✓ ({n})" for n in range(1, 10)]
    words = [line for line in text if line.startswith("!")]
    assert len(words) == 3
    assert "only its maker says" in words[0]
    assert "timestamp" in words[2]
    assert text[-1] == "verified"
    own = verify_bundle(made.OF_VERDICT, OWN)
    assert not any("word of" in line for line in own.rests_on)
    assert not any("timestamp" in line for line in own.rests_on)


@pytest.mark.parametrize(
    ("name", "step"), [("gpu-farm", 2), ("acme", 5), (made.ORIGIN, 9)], ids=str
)
def test_a_name_that_the_verifier_pins_has_no_other_keys(name: str, step: int):
    stranger = {public_bytes(signing_key("stranger"))}
    report = verify_bundle(
        made.OF_RECEIPT, Trust(made.policy_of(2)).with_signers(PINS | {name: stranger})
    )
    assert (report.steps[-1].number, report.steps[-1].code) == (step, "UNTRUSTED_KEY")


def test_where_signers_are_pinned_others_sign_no_statement_but_may_sign_orders():
    farm = {"gpu-farm": PINS["gpu-farm"]}
    report = verify_bundle(made.OF_RECEIPT, Trust(made.policy_of(2)).with_signers(farm))
    assert report.verified
    assert "on the bundle's word" in str(report.steps[4].detail)
    for bundle in (made.OF_RECEIPT, made.OF_VERDICT):
        report = verify_bundle(
            bundle, Trust(made.policy_of(2)).with_signers({"acme": PINS["acme"]})
        )
        assert (report.steps[-1].number, report.steps[-1].code) == (2, "UNTRUSTED_KEY")


def test_attaching_receipts_does_not_change_what_is_verified():
    plain, receipts = detach(made.OF_RECEIPT.statement)
    without = verify_bundle(replace(made.OF_RECEIPT, statement=plain), Trust())
    several = attach(plain, receipts * 3)
    with_three = verify_bundle(replace(made.OF_RECEIPT, statement=several), Trust())
    assert (without.facts["cose_receipts"], with_three.facts["cose_receipts"]) == (0, 3)
    assert len(without.steps) == 8
    del without.facts["cose_receipts"], with_three.facts["cose_receipts"]
    assert without.facts == with_three.facts


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (made.RECEIPT, "stop, which only an audit can check"),
        (made.CANCELLED, "its tenant signed the cancellation"),
        (made.LATE, "the order's time was over"),
    ],
    ids=["stop", "cancelled", "late"],
)
def test_a_verified_end_says_whose_wish_it_was(raw: bytes, said: str):
    report = verify_bundle(made.of_claim(raw), OWN)
    assert report.verified
    assert said in str(report.steps[6].detail)


@pytest.mark.parametrize(
    ("step", "raw", "said"),
    [
        *((7, raw, "") for _, raw, _ in made.UNFOUNDED),
        *((8, raw, "cannot be true") for _, raw in made.IMPOSSIBLE),
    ],
    ids=[name for name, *_ in (*made.UNFOUNDED, *made.IMPOSSIBLE)],
)
def test_a_false_claim_is_shown_as_signed_and_logged_but_never_verified(
    step: int, raw: bytes, said: str
):
    for trust in (Trust(), OWN):
        report = verify_bundle(made.of_claim(raw), trust)
        assert not report.verified
        assert [item.holds for item in report.steps] == [True] * (step - 1) + [False]
        assert said in str(report.steps[-1].detail)
        assert report.steps[5].title == "the receipt is in the witnessed log"


def test_facts_can_be_printed():
    for bundle in (made.OF_RECEIPT, made.OF_VERDICT):
        payload = verify_bundle(bundle, Trust()).facts["payload"]
        assert json.loads(json.dumps(payload)) == payload
    assert payload["outcome"] == "FAIL"


def test_a_quorum_in_words_names_a_witness_with_two_keys_once():
    assert in_words(made.policy_of(2).quorum) == "2 of (w0.example, w1.example, w2.example)"


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        read_bundle(tmp_path / "nowhere")
    assert caught.value.code is Code.NOT_FOUND
    (tmp_path / "bundle").write_bytes(GOOD)
    assert read_bundle(tmp_path / "bundle") == made.OF_RECEIPT


CHAINED = json.loads((FOLDER / "bundle_identities.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CHAINED["cases"], ids=lambda case: case["name"])
def test_pins_are_continued_by_what_the_log_has_and_by_nothing_else(case):
    """Attacks: rotation to disown a receipt; work that an ended key ordered; key bundles from before or after a key's time."""
    data = case["bundle"].encode()
    pins = {name: {bytes.fromhex(key) for key in keys} for name, keys in CHAINED["pins"].items()}
    for trust in (Trust().with_signers(pins), Trust(made.policy_of(2)).with_signers(pins)):
        report = verified(data, trust)
        last = report.steps[-1]
        assert (last.number, last.code) == (case["step"], case["code"]), last
        assert report.verified is (case["code"] is None)
    assert parse_bundle(data).encode().encode() == data


def test_a_verifier_that_knows_of_an_end_heeds_it_though_the_bundle_leaves_it_out():
    def logged(*statements: bytes) -> list[Logged]:
        return [Logged(chained.index_of(raw), raw) for raw in statements]

    own = Trust(made.policy_of(2)).with_signers({n: set(k) for n, k in chained.PINS.items()})
    known = own.followed(logged(*chained.ALL))
    left_out = chained.bundle_of(chained.LATE_ORDER, chained.ADD_OPERATOR, chained.ADD_TENANT)
    assert verify_bundle(left_out, own).verified  # protocol §2.3 rule 9: it was kept from learning
    report = verify_bundle(left_out, known)
    assert (report.steps[-1].number, report.steps[-1].code) == (6, "UNTRUSTED_KEY")
    assert verify_bundle(chained.bundle_of(chained.GOOD), known).verified


def test_a_chain_of_a_name_that_is_not_pinned_makes_nobody_known():
    tenant_alone = Trust(made.policy_of(2)).with_signers({"acme": set(chained.PINS["acme"])})
    report = verify_bundle(chained.bundle_of(chained.GOOD, *chained.ALL), tenant_alone)
    assert (report.steps[-1].number, report.steps[-1].code) == (3, "UNTRUSTED_KEY")


@pytest.mark.parametrize(
    "identities",
    [
        *([], None, {}, [None], [{}], [{"statement": "AA=="}]),
        [{"statement": "AA==", "tlog_proof": 1}],
        [{"statement": "AA==", "tlog_proof": "", "x": 1}],
        [{"statement": "AA==", "tlog_proof": ""}] * 65,
    ],
)
def test_identities_in_another_shape_are_malformed(identities):
    values = {**json.loads(GOOD), "identities": identities}
    with pytest.raises(CounterfoilError) as caught:
        parse_bundle(json.dumps(values).encode())
    assert caught.value.code is Code.MALFORMED


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 255))
def test_a_changed_byte_in_a_bundle_with_a_chain_changes_nothing_that_is_verified(at, change):
    good = chained.bundle_of(chained.GOOD, *chained.ALL).encode().encode()
    trust = Trust(made.policy_of(2)).with_signers({n: set(k) for n, k in chained.PINS.items()})
    place = at % len(good)
    spoiled = good[:place] + bytes([good[place] ^ change]) + good[place + 1 :]
    with contextlib.suppress(CounterfoilError):
        assert verified(spoiled, trust).facts in ({}, verified(good, trust).facts)
