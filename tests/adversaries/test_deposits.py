"""Somebody beside the node deposits evidence: to shield a node that cheats, or to frame one that does not.

Nobody is believed for having deposited something. What is not the receipt's was not delivered, and what the node itself has
signed counts against the node alone.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.disclosure.evidence import Ciphertexts
from shared.envelope.delivered import Delivered
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary
from tests.adversaries.asked import REQUESTS
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.evidence import failed_without_evidence
from tests.adversaries.receipts import outcome_changed
from tests.adversaries.trial import Trial, audited

FAILING = Adversary(
    "failing",
    "computes what it should, fails in the end and says so",
    lambda: outcome_changed(failed_without_evidence),
    frozenset(),
)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def honest(trial):
    return trial.run(REQUESTS[:2])


@pytest.fixture(scope="module")
def cheap(trial):
    return trial.run(REQUESTS[:2], ADVERSARIES["cheap-decode"])


def judged(trial, tried, deposit: Ciphertexts) -> Reason | None:
    """What an audit makes of a deposit: a reason, or None if it does not count as delivered."""
    case, _ = audited(tried.receipt, tried.node_key, tried.case.secret, deposit)
    return None if case is None else trial.judge(replace(tried, case=case)).reason


def parts(*sources: Ciphertexts) -> list[tuple]:
    """Every choice of each part from one of several answers."""
    return [
        (order, envelope, nonce, frames, final)
        for order in {source.order for source in sources}
        for envelope in {source.sent.envelope for source in sources}
        for nonce in {source.sent.node_nonce for source in sources}
        for frames in {source.sent.frames for source in sources}
        for final in {
            (b"", b""),
            *((source.sent.final_record, source.sent.final_signature) for source in sources),
        }
    ]


def test_of_all_mixtures_of_two_answers_of_a_node_only_the_true_one_is_delivered(trial, honest):
    first, second = (tried.handed_out for tried in honest)
    found = {
        (order, sent): judged(trial, honest[0], Ciphertexts(order, sent))
        for order, *rest, final in parts(first, second)
        for sent in [Delivered(*rest, *final)]
    }
    assert found.pop((first.order, first.sent)) is Reason.EXACT
    frames_only = [key for key, reason in found.items() if reason is not None]
    assert {found[key] for key in frames_only} == {Reason.WITHHELD}, (
        "which is waited for, not held against anybody"
    )
    assert {(order, sent.frames) for order, sent in frames_only} == {
        (first.order, first.sent.frames)
    }


def test_an_honest_twin_of_a_cheats_answer_shields_it_from_nothing(trial, honest, cheap):
    """The same prompt and seed, answered by an honest machine: no part of it belongs to the cheat's receipt."""
    for lie, truth in zip(cheap, honest, strict=True):
        kept, twin = lie.handed_out, truth.handed_out
        found = {
            judged(trial, lie, Ciphertexts(order, Delivered(*rest, *final)))
            for order, *rest, final in parts(kept, twin)
        }
        assert found == {None, Reason.TOKENS}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_bit_of_a_deposit_changed_is_another_one(trial, honest, data):
    (tried, *_), sent = honest, honest[0].handed_out.sent
    name = data.draw(st.sampled_from(["envelope", "node_nonce", "final_record", "final_signature"]))
    before = getattr(sent, name)
    place = data.draw(st.integers(0, 8 * len(before) - 1))
    changed = bytearray(before)
    changed[place // 8] ^= 1 << place % 8
    deposit = Ciphertexts(tried.handed_out.order, replace(sent, **{name: bytes(changed)}))
    final = name in {"final_record", "final_signature"}
    assert judged(trial, tried, deposit) is (Reason.WITHHELD if final else None)


def test_a_second_final_record_that_the_node_signed_convicts_it_whoever_deposits_it(trial):
    regenerated = trial.run(REQUESTS[:1], ADVERSARIES["regenerated"])
    assert {judged(trial, item, item.handed_out) for item in regenerated} == {Reason.EVIDENCE}


def test_leaving_out_the_final_record_of_a_failed_request_neither_shields_nor_frames(trial):
    """A receipt that names no evidence needs no final record, so anybody can deposit the rest without it."""
    for adversary, reason in (
        (FAILING, Reason.EXACT),
        (ADVERSARIES["failed-unproved"], Reason.TOKENS),
    ):
        for tried in trial.run(REQUESTS[:2], adversary):
            found = tried.handed_out
            bare = replace(found.sent, final_record=b"", final_signature=b"")
            assert judged(trial, tried, found) is reason
            assert judged(trial, tried, Ciphertexts(found.order, bare)) is reason
