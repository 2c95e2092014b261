"""A request that a chain of three operators answered is billed in three parts, each by its own rate card, or not at all."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest

from audit_layer.trail.service import Submission
from shared.statements.cose import entry_of, read_as
from shared.statements.ratecards import Price
from shared.statements.receipts import Chain, Receipt
from shared.verification.chain_claims import BROKEN
from shared.verification.payable import CHAIN_UNPAID, UNLISTED
from tests.audit_layer.api import chain as chained
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_books import WORKERS, Scene
from tests.audit_layer.costs.test_service import Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]

PRICES = {"alpha": ("1", "2"), "beta": ("0.3", "0.4"), "gamma": ("0.5", "0.7")}
"""Per thousand tokens of input and output. A request has 5 and 7 of them."""
EACH = {name: (5 * Decimal(of[0]) + 7 * Decimal(of[1])) / 1000 for name, of in PRICES.items()}
WHOLE = sum(EACH.values(), Decimal(0))


@dataclass
class ChainScene:
    """A chain of three operators over the books."""

    scene: Scene
    parties: chained.Parties

    def answer(self, number: int = 0, **facts) -> list[bytes]:
        """Log a request's receipts, the head's last; return their entries, the head's first."""
        submissions = self.parties.answer(number, **facts)
        self.scene.books.world.put(*reversed(submissions))
        return [entry_of(item.statement) for item in submissions]

    def owed(self) -> dict[str, Decimal]:
        assert self.scene.paid() == sum(self._payable().values())
        return self._payable()

    def _payable(self) -> dict[str, Decimal]:
        total = self.scene.books.total
        return {name: -total(f"payable:{name}") for name in PRICES}


@pytest.fixture
def chain(books: Books) -> ChainScene:
    trail = books.world.trail
    for name in WORKERS[1:]:
        trail.add_party(name, "worker", made.public(name))
    trail.add_party("gamma", "operator", made.public("gamma"))

    def card(operator: str) -> bytes:
        fresh, output = PRICES[operator]
        price = Price(model_root=made.MODEL, input=fresh, cached="0.1", output=output, per=1000)
        return books.card(operator, name="chain", prices=(price,))

    stages = []
    for operator, first in (("beta", 1), ("gamma", 2)):
        (bundle,) = books.world.put(Submission(chained.stage_bundle(operator, first, first + 1)))
        stages.append(made.Node(operator, bundle.entry, card(operator)))
    books.world.node.card = card("alpha")
    return ChainScene(Scene(books, []), chained.Parties(books.world.node, stages))


def test_a_request_is_billed_in_parts_that_sum_to_the_whole_and_reconcile(chain: ChainScene):
    chain.answer()
    chain.scene.catch_up()
    assert chain.owed() == EACH
    assert chain.scene.books.total("expense:acme") == WHOLE
    for operator, (fresh, output) in PRICES.items():
        lines = (line("input", 5, fresh), line("output", 7, output))
        found = chain.scene.books.reconcile(
            chain.scene.books.take(invoice(*lines, operator=operator))
        )
        assert (found.gap, found.billed) == (Fraction(0), Fraction(EACH[operator])), operator


def test_a_stage_that_is_convicted_later_reverses_all_three(chain: ChainScene):
    head, first, second = chain.answer()
    chain.answer(1)
    chain.scene.catch_up()
    assert chain.owed() == {name: 2 * each for name, each in EACH.items()}
    fail = chain.scene.verdict(first, "FAIL", reason="activations")
    chain.scene.catch_up()
    assert {Decimal(str(row["held"])) for row in chain.scene.books.costs.totals()} == set(
        EACH.values()
    )
    confirming = chain.scene.verdict(first, "FAIL", "second", fail, reason="activations")
    chain.scene.catch_up()
    assert chain.owed() == EACH
    reason = "confirmed FAIL: activations"
    assert chain.scene.standing(first) == (False, reason, confirming)
    because = f"a receipt of its chain is not payable: {reason}"
    assert chain.scene.standing(head) == (False, because, confirming)
    assert chain.scene.standing(second) == (False, f"{CHAIN_UNPAID}: {because}", confirming)
    for operator, (fresh, output) in PRICES.items():
        lines = (line("input", 10, fresh), line("output", 14, output))
        found = chain.scene.books.reconcile(
            chain.scene.books.take(invoice(*lines, operator=operator))
        )
        assert found.gap == EACH[operator], f"{operator} bills what was taken back"


def test_a_part_that_comes_first_is_not_paid_before_its_head_lists_it(chain: ChainScene):
    submissions = chain.parties.answer()
    for submission in reversed(submissions):
        before = chain.owed()
        assert set(before.values()) == {0}
        chain.scene.books.world.put(submission)
        chain.scene.catch_up()
    assert chain.owed() == EACH
    listed = entry_of(submissions[1].statement)
    assert chain.scene.standing(listed) == (True, None, None)


def test_a_part_without_a_head_stays_unpaid(chain: ChainScene):
    part = chain.parties.answer()[1]
    chain.scene.books.world.put(part)
    chain.scene.catch_up()
    assert chain.scene.standing(entry_of(part.statement)) == (False, UNLISTED, None)
    assert set(chain.owed().values()) == {0}


def test_a_stage_that_lies_about_what_it_received_has_nobody_paid(chain: ChainScene):
    submissions = chain.parties.answer()
    said = read_as(Receipt, submissions[1].statement).chain
    assert said is not None
    lie = Chain(1, sent=said.sent, received=made.some("another"))
    head, *_ = chain.answer(1, changes={1: {"chain": lie}})
    chain.scene.catch_up()
    standing = chain.scene.standing(head)
    assert standing[:2] == (False, BROKEN)
    assert set(chain.owed().values()) == {0}
