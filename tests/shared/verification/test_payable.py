"""The rule of protocol §8: one receipt for an order, one attempt for a request, nothing under a confirmed verdict."""

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shared.statements.verdicts import Blame, Outcome, Reason
from shared.verification.opinions import Opinion
from shared.verification.payable import (
    ANSWERED,
    ORDER_REFUSED,
    PAYABLE,
    SUPERSEDED,
    Claim,
    Standing,
    State,
    standings,
)


def name(*parts: object) -> bytes:
    return repr(parts).encode()


def claim(
    index: int,
    *,
    order: int | None = None,
    attempt: int = 0,
    why: str | None = None,
    complete: bool = True,
) -> Claim:
    """A receipt at a log index, for an order of its own unless one is named."""
    return Claim(
        name("receipt", index), index, name("order", index if order is None else order), "acme", 7, attempt, complete, why
    )  # fmt: skip


def opinion(
    index: int, about: Claim, outcome: str, reason: str, worker: str, confirms: Opinion | None = None
) -> Opinion:  # fmt: skip
    entry = None if confirms is None else confirms.entry
    return Opinion(name("verdict", index), index, about.receipt, worker, outcome, reason, entry)


def states(claims: list[Claim], *opinions: Opinion) -> list[State]:
    found = standings(claims, opinions)
    return [found[item.receipt].state for item in claims]


P, H, R = State.PAYABLE, State.HELD, State.REFUSED


def test_of_several_receipts_for_one_order_the_first_in_the_log_counts():
    first, again, third = claim(3), claim(5, order=3), claim(9, order=3)
    found = standings([third, again, first], ())
    assert found[first.receipt] == PAYABLE
    assert found[again.receipt] == found[third.receipt] == Standing(R, ANSWERED, first.receipt)


def test_a_second_receipt_is_not_paid_either_when_the_first_failed():
    assert states([claim(3, why="failed"), claim(5, order=3)]) == [R, R]


def test_a_receipt_whose_order_its_node_refused_is_not_payable_and_supersedes_nothing():
    """The node cannot have it both ways: the refusal closes the number, so the answer is nothing that is owed."""
    first, refused = claim(1), replace(claim(2, attempt=1), refused=name("refusal"))
    found = standings([first, refused], ())
    assert found[refused.receipt] == Standing(R, ORDER_REFUSED, name("refusal"))
    assert found[first.receipt] == PAYABLE
    failed = replace(claim(3, why="failed"), refused=name("refusal"))
    assert standings([failed], ())[failed.receipt] == Standing(R, "failed")


def test_an_attempt_that_was_cut_off_replaces_none_that_was_not():
    """Otherwise a tenant could have a whole answer, cancel the next attempt at once, and pay that alone."""
    whole, cut = claim(1), claim(2, attempt=1, complete=False)
    assert states([whole, cut]) == [P, R]
    assert states([whole, cut, claim(3, attempt=2)]) == [R, R, P]
    assert states([claim(1, complete=False), claim(2, attempt=1, complete=False)]) == [R, P]
    assert states([claim(1, why="failed"), cut]) == [R, P]


def test_the_highest_attempt_is_paid_and_the_others_name_it():
    claims = [claim(1), claim(2, attempt=2), claim(3, attempt=1)]
    found = standings(claims, ())
    assert [found[item.receipt].state for item in claims] == [R, P, R]
    assert found[claims[0].receipt] == Standing(R, SUPERSEDED, claims[1].receipt)
    assert found[claims[2].receipt].because == claims[1].receipt


def test_a_retry_that_is_not_payable_supersedes_nothing():
    first = claim(1)
    assert states([first, claim(2, attempt=1, why="failed")]) == [P, R]
    assert states([first]) == [P]
    retry = claim(2, attempt=1)
    fail = opinion(3, retry, "FAIL", "tokens", "w1")
    assert states([first, retry], fail) == [R, H]
    assert states([first, retry], fail, opinion(4, retry, "FAIL", "tokens", "w2", fail)) == [P, R]


def test_two_orders_for_one_attempt_are_the_tenants_own_and_both_are_paid():
    assert states([claim(1), claim(2)]) == [P, P]
    assert states([claim(1), claim(2), claim(3, attempt=1)]) == [R, R, P]


def test_requests_of_others_and_other_numbers_are_apart():
    one = claim(1)
    others = [Claim(b"x", 2, b"x", "bolt", 7, 1), Claim(b"y", 3, b"y", "acme", 8, 1)]
    assert states([one, *others]) == [P, P, P]


def test_a_fail_is_held_until_another_worker_agrees_or_disagrees():
    one = claim(1)
    fail = opinion(2, one, "FAIL", "tokens", "w1")
    held = standings([one], [fail])[one.receipt]
    assert (held.state, held.because) == (H, fail.entry)
    assert states([one], fail, opinion(3, one, "FAIL", "usage", "w2", fail)) == [R]
    assert states([one], fail, opinion(3, one, "PASS", "exact", "w2")) == [P]
    assert states([one], fail, opinion(3, one, "PASS", "exact", "w1")) == [H]
    assert states([one], fail, opinion(3, one, "INCONCLUSIVE", "unavailable", "w2", fail)) == [H]
    assert states([one], fail, opinion(3, one, "FAIL", "tokens", "w2")) == [H]


def test_what_confirms_a_verdict_is_another_workers_about_the_same_receipt_after_it():
    one, other = claim(1), claim(2, attempt=1)
    fail = opinion(4, one, "FAIL", "tokens", "w1")
    assert states([one], fail, opinion(5, one, "FAIL", "tokens", "w1", fail)) == [H]
    assert states([one], fail, opinion(3, one, "FAIL", "tokens", "w2", fail)) == [H]
    assert states([one, other], fail, opinion(5, other, "FAIL", "tokens", "w2", fail)) == [R, H]
    said = [
        fail,
        opinion(5, one, "FAIL", "usage", "w2", fail),
        opinion(6, one, "PASS", "exact", "w3"),
    ]
    convicted = standings([one], said)[one.receipt]
    assert convicted == Standing(R, "confirmed FAIL: usage", name("verdict", 5))


def test_withholding_and_an_odd_profile_are_not_paid_once_confirmed():
    one = claim(1)
    for reason in ("withheld", "profile"):
        first = opinion(2, one, "INCONCLUSIVE", reason, "w1")
        assert states([one], first) == [P]
        assert states([one], first, opinion(3, one, "INCONCLUSIVE", "withheld", "w2", first)) == [R]
        assert states([one], first, opinion(3, one, "INCONCLUSIVE", "escrow", "w2", first)) == [P]
    for reason in ("unavailable", "escrow"):
        first = opinion(2, one, "INCONCLUSIVE", reason, "w1")
        assert states([one], first, opinion(3, one, "INCONCLUSIVE", reason, "w2", first)) == [P]


attempts = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from((None, None, "failed")))
outcomes = st.sampled_from(("PASS", "FAIL", "INCONCLUSIVE"))
votes = st.tuples(st.integers(0, 5), outcomes, st.sampled_from(("w1", "w2", "w3")), st.booleans())


@given(st.lists(attempts, min_size=1, max_size=6), st.lists(votes, max_size=6), st.randoms())
def test_a_request_is_paid_once_whatever_is_said_and_in_whatever_order(tries, said, chance: random.Random):  # fmt: skip
    claims = [
        claim(index, order=10 * attempt + order, attempt=attempt, why=why)
        for index, (attempt, order, why) in enumerate(tries)
    ]
    opinions: list[Opinion] = []
    for at, (about, outcome, worker, confirming) in enumerate(said, start=100):
        subject = claims[about % len(claims)]
        earlier = [item for item in opinions if item.receipt == subject.receipt]
        confirms = earlier[0] if confirming and earlier else None
        reason = {"PASS": "exact", "FAIL": "tokens", "INCONCLUSIVE": "withheld"}[outcome]
        opinions.append(opinion(at, subject, outcome, reason, worker, confirms))
    found = standings(claims, opinions)
    shuffled, spoken = chance.sample(claims, len(claims)), chance.sample(opinions, len(opinions))
    assert standings(shuffled, spoken) == found
    assert set(found) == {item.receipt for item in claims}
    paid = [item for item in claims if found[item.receipt].state is not R]
    assert len({item.attempt for item in paid}) <= 1
    assert len({item.order for item in paid}) == len(paid)
    assert not [item for item in paid if item.unbillable]
    for item in claims:
        standing = found[item.receipt]
        assert (standing.reason is None) == (standing.state is P)
        if standing.reason == SUPERSEDED:
            assert standing.because in {other.receipt for other in paid}


def test_an_audit_that_custodians_refuse_because_of_never_changes_no_payment():
    """Neither client nor node is blamed for a policy that permits none: after one such verdict or two, the receipt is paid."""
    reason = Reason.UNAVAILABLE
    assert (reason.outcome, reason.blame) == (Outcome.INCONCLUSIVE, Blame.AUDIT)
    one = claim(1)
    first = opinion(2, one, reason.outcome, reason, "w1")
    second = opinion(3, one, reason.outcome, reason, "w2")
    assert states([one]) == states([one], first) == states([one], first, second) == [P]
