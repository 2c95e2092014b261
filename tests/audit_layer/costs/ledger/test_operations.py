"""Operations of the ledger: what is refused, in words, and what happens when several people do one thing at once."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.ledger.operations import Operation
from shared.runtime.errors import Code, CounterfoilError
from tests.postgres import Database

TINY = Decimal(1).scaleb(-24)


@pytest.fixture
def books(database: Database) -> Bookkeeping:
    return Bookkeeping(database.engine("server"))


def operate(books: Bookkeeping, operation: Operation, key: str, amount: str | Decimal = "1", **changes: Any) -> int:  # fmt: skip
    given = {"currency": "EUR", "tenant": "acme", "operator": "alpha", **changes}
    return books.operate(operation, key=key, amount=Decimal(amount), **given)


def balance(books: Bookkeeping, account: str) -> Decimal:
    return sum((b.amount for b in books.trial_balance() if b.account == account), Decimal(0))


@pytest.mark.parametrize(
    ("operation", "account"),
    [
        (Operation.REFUND, "escrow:acme"),
        (Operation.SETTLE, "escrow:acme"),
        (Operation.UNSTAKE, "stake:alpha"),
        (Operation.SLASH, "stake:alpha"),
        (Operation.AWARD, "slash:alpha"),
        (Operation.CLAIM, "bounty:acme"),
        (Operation.UPHOLD, "dispute:alpha"),
        (Operation.REJECT, "dispute:alpha"),
    ],
)
def test_an_overdraw_is_a_conflict_that_names_the_account_and_posts_nothing(
    books: Bookkeeping, operation: Operation, account: str
):
    with pytest.raises(CounterfoilError, match=f"account {account} has less than is taken") as caught:  # fmt: skip
        operate(books, operation, "k")
    assert caught.value.code is Code.CONFLICT
    assert "Nothing was posted" in (caught.value.remedy or "")
    assert books.trial_balance() == []


def test_the_last_digit_is_covered_and_one_more_is_not(books: Bookkeeping):
    operate(books, Operation.PREPAY, "p")
    with pytest.raises(CounterfoilError):
        operate(books, Operation.SETTLE, "s", 1 + TINY)
    operate(books, Operation.SETTLE, "s", 1 - TINY)
    assert balance(books, "escrow:acme") == TINY
    with pytest.raises(CounterfoilError):
        operate(books, Operation.REFUND, "r", 2 * TINY)
    operate(books, Operation.REFUND, "r", TINY)
    assert balance(books, "escrow:acme") == 0


@pytest.mark.parametrize(
    "amount", ["0", "-1", "NaN", "Infinity", "1e24", "1e400", str(TINY / 10), "-1e-30"]
)
def test_an_amount_that_the_books_cannot_hold_exactly_is_refused(books: Bookkeeping, amount: str):
    with pytest.raises(CounterfoilError, match="is not an amount") as caught:
        operate(books, Operation.PREPAY, "k", amount)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert books.trial_balance() == []


def test_what_is_mirrored_must_still_be_there(books: Bookkeeping):
    prepaid = operate(books, Operation.PREPAY, "p")
    operate(books, Operation.SETTLE, "s", "0.5")
    with pytest.raises(CounterfoilError, match="escrow:acme has less") as caught:
        books.mirror(prepaid, memo="mistaken")
    assert caught.value.code is Code.CONFLICT
    assert balance(books, "escrow:acme") == Decimal("0.5")
    with pytest.raises(CounterfoilError) as caught:
        books.mirror(77, memo="mistaken")
    assert caught.value.code is Code.NOT_FOUND


def test_several_who_take_the_same_money_at_once_get_it_once(books: Bookkeeping):
    operate(books, Operation.PREPAY, "p", "3")

    def settle(turn: int) -> Code | None:
        try:
            operate(books, Operation.SETTLE, f"s{turn}", "1")
        except CounterfoilError as error:
            return error.code
        return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(settle, range(8)))
    assert (outcomes.count(None), outcomes.count(Code.CONFLICT)) == (3, 5)
    assert balance(books, "escrow:acme") == 0
    assert balance(books, "payable:alpha") == 3


def test_several_who_do_one_thing_under_one_key_do_it_once(books: Bookkeeping):
    def stake(_: int) -> int:
        return operate(books, Operation.STAKE, "s", "5")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(stake, range(8)))) == 1
    assert balance(books, "stake:alpha") == -5
    (number,) = {stake(0)}

    def undo(_: int) -> int:
        return books.mirror(number, memo="mistaken")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(undo, range(8)))) == 1
    assert not any(item.amount for item in books.trial_balance())


def test_a_key_is_one_operations_and_a_party_that_is_missing_is_named(books: Bookkeeping):
    first = operate(books, Operation.STAKE, "k", "5")
    assert operate(books, Operation.PREPAY, "k", "5") != first
    for changes in ({"operator": "beta"}, {"currency": "USD"}, {"amount": "6"}):
        with pytest.raises(CounterfoilError, match="was used for another journal") as caught:
            operate(books, Operation.STAKE, "k", **{"amount": "5", **changes})
        assert caught.value.code is Code.CONFLICT
    with pytest.raises(CounterfoilError, match="settle needs the tenant"):
        operate(books, Operation.SETTLE, "k", tenant=None)
    with pytest.raises(CounterfoilError, match="stake needs the operator"):
        operate(books, Operation.STAKE, "x", operator=None)
    for changes in ({"currency": "eur"}, {"operator": "a b"}, {"operator": "../x"}):
        with pytest.raises(CounterfoilError) as caught:
            operate(books, Operation.STAKE, "y", **changes)
        assert caught.value.code is Code.INVALID_ARGUMENT
