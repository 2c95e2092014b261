"""A chain is paid to all of its nodes or to none (protocol §8.3 step 6)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from shared.verification.chain_claims import BROKEN, MISSING, OTHER_USAGE, OTHERS_ORDER, Link
from shared.verification.opinions import Opinion
from shared.verification.payable import (
    ANSWERED,
    CHAIN_UNPAID,
    SUPERSEDED,
    UNLISTED,
    Claim,
    Standing,
    State,
    standings,
)

P, H, R = State.PAYABLE, State.HELD, State.REFUSED
USAGE = (5, 2, 7)


def name(*parts: object) -> bytes:
    return repr(parts).encode()


@dataclass
class Chain:
    """The receipts of a head and its stages, in the log from an index on."""

    claims: list[Claim]

    @classmethod
    def of(cls, stages: int = 2, *, at: int = 1, attempt: int = 0) -> "Chain":
        receipts = [name("receipt", at, place) for place in range(stages + 1)]
        roots = [name("boundary", at, place) for place in range(stages + 1)]
        order = name("order", at, 0)

        def link(place: int) -> Link:
            part = order if place else None
            listed = () if place else tuple(receipts[1:])
            return Link(USAGE, part, place, roots[place], roots[place - 1], listed)

        return cls(
            [
                Claim(receipts[place], at + place, name("order", at, place), "acme", 7, attempt, link=link(place))
                for place in range(stages + 1)
            ]
        )  # fmt: skip

    def changed(self, place: int, **changes: object) -> "Chain":
        """The same chain with another link of one receipt."""
        claims = list(self.claims)
        link = claims[place].link
        assert link is not None
        claims[place] = replace(claims[place], link=replace(link, **changes))  # type: ignore[arg-type]
        return Chain(claims)


def told(*chains: Chain, said: tuple[Opinion, ...] = (), absent: frozenset[int] = frozenset()) -> list[Standing]:  # fmt: skip
    claims = [claim for chain in chains for claim in chain.claims]
    logged = [claim for at, claim in enumerate(claims) if at not in absent]
    found = standings(logged, said)
    assert standings(reversed(logged), said) == found
    return [found[claim.receipt] for claim in logged]


def states(*chains: Chain, said: tuple[Opinion, ...] = (), absent: frozenset[int] = frozenset()) -> list[State]:  # fmt: skip
    return [standing.state for standing in told(*chains, said=said, absent=absent)]


def conviction(claim: Claim, at: int = 100) -> Iterator[Opinion]:
    first = Opinion(name("verdict", at), at, claim.receipt, "w1", "FAIL", "activations")
    yield first
    yield Opinion(name("verdict", at + 1), at + 1, claim.receipt, "w2", "FAIL", "activations", first.entry)  # fmt: skip


def test_every_receipt_of_an_honest_chain_is_payable():
    for stages in (1, 2, 5):
        assert states(Chain.of(stages)) == [P] * (stages + 1)


@pytest.mark.parametrize("convicted", [0, 1, 2])
def test_one_convicted_receipt_takes_the_whole_chain_with_it(convicted: int):
    chain = Chain.of(2)
    first, second = conviction(chain.claims[convicted])
    assert states(chain, said=(first,)) == [H, H, H]
    found = told(chain, said=(first, second))
    assert {standing.state for standing in found} == {R}
    assert {standing.because for standing in found} == {second.entry}
    assert found[convicted].reason == "confirmed FAIL: activations"
    for place in {1, 2} - {convicted}:
        assert (found[place].reason or "").startswith(CHAIN_UNPAID)


def test_a_stage_that_another_worker_cleared_holds_nobody_up():
    chain = Chain.of(2)
    first, _ = conviction(chain.claims[1])
    clear = Opinion(name("clear"), 101, chain.claims[1].receipt, "w2", "PASS", "exact")
    assert states(chain, said=(first, clear)) == [P, P, P]


def test_a_boundary_that_was_wrong_is_nothing_against_whoever_received_it():
    chain = Chain.of(2)
    first = Opinion(name("one"), 9, chain.claims[2].receipt, "w1", "INCONCLUSIVE", "boundary")
    second = Opinion(name("two"), 10, chain.claims[2].receipt, "w2", "INCONCLUSIVE", "boundary", first.entry)  # fmt: skip
    assert states(chain, said=(first, second)) == [P, P, P]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("side", ["sent", "received"])
def test_a_place_that_says_that_something_else_passed_has_its_whole_chain_unpaid(place: int, side: str):  # fmt: skip
    """So a stage that lies about what it received, to be excused from what it sent, gains nothing by it."""
    found = told(Chain.of(2).changed(place, **{side: b"another"}))
    assert [standing.state for standing in found] == [R, R, R]
    assert found[0].reason == BROKEN
    assert found[1].reason == f"{CHAIN_UNPAID}: {BROKEN}"


def test_nodes_that_bill_different_tokens_are_not_paid():
    for usage in ((5, 2, 8), (5, 1, 7), (6, 2, 7)):
        found = told(Chain.of(2).changed(1, usage=usage))
        assert [standing.state for standing in found] == [R, R, R]
        assert found[0].reason == OTHER_USAGE


def test_a_head_that_lists_a_receipt_of_another_order_or_place_is_not_paid():
    chain = Chain.of(2)
    other = told(chain.changed(1, head=name("order", 99, 0)))
    assert other[0] == Standing(R, OTHERS_ORDER, chain.claims[1].receipt)
    assert [standing.state for standing in other] == [R, R, R]
    assert other[1] == Standing(R, UNLISTED)
    swapped = tuple(reversed(chain.claims[0].link.stages))  # type: ignore[union-attr]
    assert told(chain.changed(0, stages=swapped))[0].reason == OTHERS_ORDER


def test_a_part_that_its_head_does_not_list_is_not_paid_and_hurts_nobody():
    two, one = Chain.of(2), Chain.of(1)
    loose = replace(two.claims[2], log_index=9, order=name("loose"))
    assert states(Chain([*one.claims, loose])) == [P, P, R]
    assert told(Chain([loose]))[0] == Standing(R, UNLISTED)


def test_nobody_is_paid_before_all_receipts_that_the_head_lists_have_come():
    """An operator could otherwise cheat in a stage whose receipt it never hands in, and be paid as the head."""
    chain = Chain.of(2)
    for missing in (1, 2):
        found = told(chain, absent=frozenset({missing}))
        assert found[0] == Standing(R, MISSING)
        assert found[1] == Standing(R, f"{CHAIN_UNPAID}: {MISSING}", chain.claims[0].receipt)
    assert states(Chain.of(1).changed(0, stages=(name("of another request"),))) == [R, R]


def test_a_stages_second_answer_is_not_paid_and_a_head_that_lists_it_is_not_either():
    chain = Chain.of(1)
    again = replace(chain.claims[1], receipt=name("again"), log_index=9)
    assert told(chain, Chain([again]))[2] == Standing(R, ANSWERED, chain.claims[1].receipt)
    assert states(chain, Chain([again])) == [P, P, R]
    listing = chain.changed(0, stages=(again.receipt,))
    assert states(listing, Chain([again])) == [R, R, R]


def test_a_part_with_no_price_leaves_all_unpaid():
    chain = Chain.of(2)
    chain.claims[2] = replace(chain.claims[2], unbillable="rate card not in the log before it")
    assert states(chain) == [R, R, R]


def test_a_retry_supersedes_a_whole_chain_and_one_that_is_not_payable_supersedes_nothing():
    """The other attempt may be a chain or one node's: the rule goes by the head's."""
    first, retry = Chain.of(2), Chain.of(1, at=20, attempt=1)
    found = told(first, retry)
    assert [standing.state for standing in found] == [R, R, R, P, P]
    assert found[0] == Standing(R, SUPERSEDED, retry.claims[0].receipt)
    assert found[1] == Standing(R, f"{CHAIN_UNPAID}: {SUPERSEDED}", retry.claims[0].receipt)
    assert states(first, retry.changed(1, received=b"another")) == [P, P, P, R, R]
    assert states(first, retry, said=tuple(conviction(retry.claims[1]))) == [P, P, P, R, R]
    alone = Chain([Claim(name("alone"), 30, name("order", 30), "acme", 7, 2)])
    assert states(first, retry, alone) == [R] * 5 + [P]


def test_a_part_of_one_attempt_supersedes_nothing_by_itself():
    """A stage of the highest attempt whose head never answered leaves the attempt before it paid."""
    first, retry = Chain.of(1), Chain.of(1, at=20, attempt=1)
    assert states(first, retry, absent=frozenset({2})) == [P, P, R]
