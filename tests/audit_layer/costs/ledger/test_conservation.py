"""No sequence of operations, receipts, verdicts and closes loses or invents money: a state machine over a real database."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.ledger.operations import Operation
from audit_layer.costs.periods import CLOSED
from shared.codec.moment import MAX_MS
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.keeping import keeping_over
from tests.postgres import PostgresServer

SIDES = {
    Operation.PREPAY: ("escrow:acme", "cash:acme"),
    Operation.REFUND: ("cash:acme", "escrow:acme"),
    Operation.PAY: ("payable:alpha", "cash:acme"),
    Operation.SETTLE: ("payable:alpha", "escrow:acme"),
    Operation.STAKE: ("cash:alpha", "stake:alpha"),
    Operation.UNSTAKE: ("stake:alpha", "cash:alpha"),
    Operation.SLASH: ("stake:alpha", "slash:alpha"),
    Operation.AWARD: ("slash:alpha", "bounty:acme"),
    Operation.CLAIM: ("bounty:acme", "cash:acme"),
    Operation.DISPUTE: ("payable:alpha", "dispute:alpha"),
    Operation.UPHOLD: ("dispute:alpha", "expense:acme"),
    Operation.REJECT: ("dispute:alpha", "payable:alpha"),
}
"""(debited, credited), as the test has them."""
HOLDS = {"escrow": 1, "stake": -1, "slash": -1, "bounty": -1, "dispute": -1}
"""Accounts that hold what may only be taken once it is there, and the sign of what they hold."""
OWN_ACCOUNT = {
    ChargeKind.DISCOUNT: "discount:acme",
    ChargeKind.CREDIT: "credit:acme",
    ChargeKind.ROUNDING: "rounding:acme",
}
amounts = st.sampled_from(["0.000001", "0.5", "1", "1", "3", "7", "10"]).map(Decimal)
currencies = st.sampled_from(["EUR", "USD"])
few = st.integers(0, 3)


@dataclass
class Journal:
    """One journal that an operation made."""

    number: int
    key: str
    operation: Operation
    amount: Decimal
    currency: str
    mirrored: int | None = None


@dataclass
class Answer:
    """One attempt of a request."""

    receipt: bytes
    operator: str
    amount: Decimal
    convicted: bool = False


@dataclass
class Model:
    """What the books must say, worked out apart from them."""

    journals: list[Journal] = field(default_factory=list)
    requests: list[list[Answer]] = field(default_factory=list)
    closed: dict[int, Any] = field(default_factory=dict)
    kept: dict[tuple[str, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """Balances from operations alone."""

    def move(self, operation: Operation, amount: Decimal, currency: str) -> None:
        debited, credited = SIDES[operation]
        self.kept[debited, currency] += amount
        self.kept[credited, currency] -= amount

    def overdraws(self, operation: Operation, amount: Decimal, currency: str) -> bool:
        """Whether a guarded account has less than would be taken from it."""
        for account, change in zip(SIDES[operation], (amount, -amount), strict=True):
            held = HOLDS.get(account.partition(":")[0])
            if held and held * change < 0 and held * (self.kept[account, currency] + change) < 0:
                return True
        return False

    def usage(self) -> dict[str, Decimal]:
        """Return what each operator is owed: the last attempt of a request that no verdict took away."""
        owed: dict[str, Decimal] = defaultdict(Decimal)
        for attempts in self.requests:
            for answer in reversed(attempts):
                if not answer.convicted:
                    owed[answer.operator] += answer.amount
                    break
        return owed


class Conservation(RuleBasedStateMachine):
    """Money under any sequence of what people, nodes and workers do."""

    def __init__(self, postgres: PostgresServer, folder: Path) -> None:
        super().__init__()
        self._keeping = keeping_over(postgres, folder)
        self.keeping = self._keeping.__enter__()
        self.scene = self.keeping.scene
        self.model = Model()

    def teardown(self) -> None:
        try:
            self.catch_up()
            for journal in self.model.journals:
                self.repeated(journal)
        finally:
            self._keeping.__exit__(None, None, None)

    # -- operations ----------------------------------------------------------------------------------

    @initialize(
        minimum=st.sampled_from(["0", "0.05"]),
        credit=st.sampled_from(["0.01", "100"]),
        served=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 60)), min_size=2, max_size=4),
        booked=st.booleans(),
    )
    def begin(self, minimum: str, credit: str, served: list[tuple[int, int]], booked: bool) -> None:
        """Most of what can go wrong needs a contract, receipts and a period."""
        self.keeping.contract(
            minimum=minimum,
            credits=[{"id": "launch", "amount": credit}],
            discounts=[{"tiers": [{"above": "0.02", "percent": "12.5"}]}],
            credit_for_failed="50",
        )
        self.serves(served)
        self.convicts(0, 0)
        if booked:
            self.closes(book=True, operator="alpha")

    def operate(self, operation: Operation, key: str, amount: Decimal, currency: str) -> int:
        return self.keeping.books.operate(
            operation, key=key, amount=amount, currency=currency, tenant="acme", operator="alpha"
        )

    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from(Operation), amounts, currencies), min_size=1, max_size=4
        )
    )
    def operates(self, steps: list[tuple[Operation, Decimal, str]]) -> None:
        for step in steps:
            self.one_operation(*step)

    @rule(amount=amounts, share=st.sampled_from([Decimal("0.5"), Decimal(1), Decimal(2)]))
    def slashes_and_awards(self, amount: Decimal, share: Decimal) -> None:
        """The way of a stake: what is taken on is a part of what there is, all of it, or more."""
        self.one_operation(Operation.STAKE, amount, "USD")
        for operation in (Operation.SLASH, Operation.AWARD, Operation.CLAIM):
            self.one_operation(operation, amount * share, "USD")

    def one_operation(self, operation: Operation, amount: Decimal, currency: str) -> None:
        key = f"k{len(self.model.journals)}"
        if self.model.overdraws(operation, amount, currency):
            with pytest.raises(CounterfoilError, match="has less than is taken from it") as caught:
                self.operate(operation, key, amount, currency)
            assert caught.value.code is Code.CONFLICT
            return
        number = self.operate(operation, key, amount, currency)
        self.model.move(operation, amount, currency)
        self.model.journals.append(Journal(number, key, operation, amount, currency))

    @precondition(lambda self: self.model.journals)
    @rule(pick=st.integers(0))
    def repeats(self, pick: int) -> None:
        journal = self.model.journals[pick % len(self.model.journals)]
        self.repeated(journal)
        with pytest.raises(CounterfoilError) as caught:
            self.operate(journal.operation, journal.key, journal.amount + 1, journal.currency)
        assert caught.value.code is Code.CONFLICT

    def repeated(self, journal: Journal) -> None:
        again = self.operate(journal.operation, journal.key, journal.amount, journal.currency)
        assert again == journal.number

    @precondition(lambda self: self.model.journals)
    @rule(pick=st.integers(0))
    def mirrors(self, pick: int) -> None:
        journal = self.model.journals[pick % len(self.model.journals)]
        undone = -journal.amount
        if journal.mirrored is not None:
            assert self.keeping.books.mirror(journal.number, memo="again") == journal.mirrored
        elif self.model.overdraws(journal.operation, undone, journal.currency):
            with pytest.raises(CounterfoilError, match="has less than is taken from it"):
                self.keeping.books.mirror(journal.number, memo="mistaken")
        else:
            journal.mirrored = self.keeping.books.mirror(journal.number, memo="mistaken")
            self.model.move(journal.operation, undone, journal.currency)
            with pytest.raises(CounterfoilError, match="a mirror, which is not mirrored"):
                self.keeping.books.mirror(journal.mirrored, memo="back")

    @rule()
    def mirrors_what_the_rule_posted(self) -> None:
        kinds = "SELECT min(id) FROM costs_journals WHERE kind IN ('usage', 'correction', 'close') GROUP BY kind"
        for (number,) in self.keeping.world.rows(kinds):
            with pytest.raises(CounterfoilError, match="which is not mirrored by hand"):
                self.keeping.books.mirror(number, memo="no")

    # -- receipts and verdicts -------------------------------------------------------------------------

    def answered(self, number: int, attempt: int, node: int, tokens: int) -> Answer:
        cached = tokens % 6
        receipt = self.keeping.serve(number, tokens, cached=cached, attempt=attempt, node=node)
        amount = Decimal(5 - cached) + cached * Decimal("0.5") + 2 * tokens
        return Answer(receipt, ("alpha", "beta")[node], amount / 1000)

    @rule(served=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 60)), min_size=1, max_size=3))
    def serves(self, served: list[tuple[int, int]]) -> None:
        for node, tokens in served:
            self.model.requests.append([self.answered(len(self.model.requests), 0, node, tokens)])

    @rule(pick=st.integers(0), node=st.integers(0, 1), tokens=st.integers(1, 60))
    def serves_again(self, pick: int, node: int, tokens: int) -> None:
        number = pick % len(self.model.requests)
        attempts = self.model.requests[number]
        attempts.append(self.answered(number, len(attempts), node, tokens))

    @rule(pick=st.integers(0), which=few)
    def convicts(self, pick: int, which: int) -> None:
        attempts = self.model.requests[pick % len(self.model.requests)]
        answer = attempts[which % len(attempts)]
        if not answer.convicted:
            self.scene.convict(answer.receipt)
            answer.convicted = True

    @rule(limit=st.integers(1, 3))
    def rates(self, limit: int) -> None:
        self.scene.books.costs.rate_new(limit=limit)

    @rule(limit=st.integers(1, 3))
    def heeds(self, limit: int) -> None:
        self.scene.books.costs.heed_new(limit=limit)

    @rule()
    def catch_up(self) -> None:
        self.scene.catch_up()
        assert self.keeping.balances() == self.expected()

    def expected(self) -> dict[tuple[str, str], Decimal]:
        """Return every balance: operations, what receipts come to, and what the closes charged."""
        found = defaultdict(Decimal, self.model.kept)
        for operator, amount in self.model.usage().items():
            found["expense:acme", "EUR"] += amount
            found[f"payable:{operator}", "EUR"] -= amount
        for operator, _, bill in self.model.closed.values():
            for charge in json.loads(bill)["charges"]:
                account = OWN_ACCOUNT.get(ChargeKind(charge["kind"]), "expense:acme")
                found[account, "EUR"] += Decimal(charge["amount"])
                found[f"payable:{operator}", "EUR"] -= Decimal(charge["amount"])
        return {account: amount for account, amount in found.items() if amount}

    # -- periods ---------------------------------------------------------------------------------------

    def booked(self) -> bool:
        """Whether the books have every receipt and verdict that the log has."""
        unheeded = "SELECT FROM trail_verdicts WHERE outcome <> 'PASS' AND entry NOT IN (SELECT verdict FROM costs_heeded_verdicts)"
        return not self.scene.books.costs.pending() and not self.keeping.world.rows(unheeded)

    def some_period(self, pick: int) -> int | None:
        periods = self.keeping.periods()
        return periods[pick % len(periods)] if periods else None

    @rule(pick=st.integers(0), state=st.sampled_from(["open", "soft-closed", "closing", "closed"]))
    def puts(self, pick: int, state: str) -> None:
        number = self.some_period(pick)
        if number is None:
            return
        steps = {
            "open": {"soft-closed"}, "soft-closed": {"open", "closing"}, "closing": {"soft-closed"}, "closed": set(),
        }  # fmt: skip
        before = self.keeping.state(number)
        if state == before or state in steps[before]:
            assert self.keeping.put(number, state) == state
        else:
            with pytest.raises(CounterfoilError) as caught:
                self.keeping.put(number, state)
            assert caught.value.code is Code.CONFLICT
            assert self.keeping.state(number) == before

    @rule(book=st.sampled_from([True, True, False]), operator=st.sampled_from(["alpha", "beta"]))
    def closes(self, book: bool, operator: str) -> None:
        """Ask for the close of all of an operator's periods; they wait where the books are not up to date."""
        if book:
            self.catch_up()
        for number in self.keeping.periods(operator=operator):
            if self.keeping.state(number) == "open":
                self.keeping.put(number, "soft-closed")
            if self.keeping.state(number) == "soft-closed":
                self.keeping.put(number, "closing")
        booked = self.booked()
        assert bool(self.keeping.closing().tick(MAX_MS)) <= booked
        for item in self.keeping.books.periods():
            if item.state == CLOSED and item.row.id not in self.model.closed:
                seal = self.keeping.sealed(item.row.id)
                self.model.closed[item.row.id] = (item.row.operator, seal[:2], seal[2])

    # -- what always holds -----------------------------------------------------------------------------

    @invariant()
    def every_journal_balances_and_nothing_is_mirrored_twice(self) -> None:
        rows = self.keeping.world.rows
        unbalanced = (
            "SELECT journal FROM costs_postings GROUP BY journal, currency HAVING sum(amount) <> 0"
        )
        assert rows(unbalanced) == []
        assert rows("SELECT mirrors FROM costs_journals GROUP BY 1 HAVING count(mirrors) > 1") == []

    @invariant()
    def accounts_sum_to_zero_and_hold_what_is_taken_from_them(self) -> None:
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for account, currency, amount in self.keeping.books.trial_balance():
            sums[currency] += amount
            held = HOLDS.get(account.partition(":")[0])
            assert held is None or held * amount >= 0, account
        assert not any(sums.values())

    @invariant()
    def what_is_closed_stays_as_it_was(self) -> None:
        for number, (_, seal, bill) in self.model.closed.items():
            assert self.keeping.state(number) == CLOSED
            assert self.keeping.sealed(number) == (*seal, bill)
            assert self.keeping.books.bill(number).document() == bill


def test_no_sequence_of_events_loses_or_invents_money(postgres: PostgresServer, tmp_path: Path):
    class Bound(Conservation):
        def __init__(self) -> None:
            super().__init__(postgres, tmp_path)

    run_state_machine_as_test(
        Bound,
        settings=settings(max_examples=10, stateful_step_count=15, deadline=None),
    )
