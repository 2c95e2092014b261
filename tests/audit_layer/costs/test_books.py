"""The books follow the rule of protocol §8: append-only, mirrored once, and the same in whatever order things arrive."""

import csv
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.exports.focus_csv import to_csv
from audit_layer.costs.reports import Reports
from audit_layer.storage import migrate
from audit_layer.trail.service import Submission
from shared.codec.moment import MAX_MS, Period
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from shared.verification.payable import ANSWERED, ORDER_REFUSED, SUPERSEDED
from shared.verification.rating import rated
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_service import EACH, Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]

WORKERS = ("worker", "second", "third")
EVER = Period(0, MAX_MS)


@dataclass
class Scene:
    """Requests, attempts and verdicts over the books."""

    books: Books
    nodes: list[made.Node]
    orders: dict[tuple[int, int, int], bytes] = field(default_factory=dict, repr=False)

    def receipt(
        self, number: int = 0, attempt: int = 0, *, order: int = 0, node: int = 0, card: bytes = b"", **changes: Any
    ) -> bytes:  # fmt: skip
        """Log a receipt; `order` distinguishes orders for one attempt. Return its entry."""
        maker = self.nodes[node]
        maker.card = card or maker.card
        raw, value = self.made(maker, number, attempt, order, **changes)
        (accepted,) = self.books.world.put(Submission(raw, self.orders[number, attempt, order]))
        maker.number, maker.previous = value.node_sequence + 1, entry_of(raw)
        return accepted.entry

    def made(
        self, maker: made.Node, number: int, attempt: int, order: int, **changes: Any
    ) -> tuple[bytes, Receipt]:
        template = made.Node(maker.operator, maker.bundle, maker.card).receipt("acme")
        first, _ = open_as(Order, template.order or b"", None)
        about = {"number": number, "attempt": attempt, "envelope": made.some("e", number, attempt, order)}  # fmt: skip
        signed = self.orders.get((number, attempt, order)) or sign(
            Order(**{**_fields(first), **about}), key=made.key("acme"), issuer="acme"
        )  # fmt: skip
        self.orders[number, attempt, order] = signed
        asked, _ = open_as(Order, signed, None)
        value, _ = open_as(Receipt, template.statement, None)
        same = {name: getattr(asked, name) for name in ("number", "attempt", "envelope", "bundle", "rate_card")}  # fmt: skip
        chain = {"node_sequence": maker.number, "previous": maker.previous}
        answer = Receipt(
            **{**_fields(value), **same, "order": entry_of(signed), **chain, **changes}
        )
        issuer = f"{maker.operator}/one"
        return sign(answer, key=made.key(issuer), issuer=issuer), answer

    def verdict(
        self, receipt: bytes, outcome: str, worker: str = "worker", confirms: bytes | None = None, reason: str | None = None
    ) -> bytes:  # fmt: skip
        """Log a verdict; return its entry."""
        raw = verdict(receipt, outcome, worker, confirms, reason)
        return self.books.world.put(Submission(raw))[0].entry

    def convict(self, receipt: bytes) -> bytes:
        return self.verdict(receipt, "FAIL", "second", self.verdict(receipt, "FAIL"))

    def catch_up(self) -> None:
        while self.books.costs.rate_new() or self.books.costs.heed_new():
            continue
        assert self.books.costs.check() == []

    def standing(self, receipt: bytes) -> tuple[bool, str | None, bytes | None]:
        rows = self.books.world.rows(
            "SELECT payable, reason, because FROM costs_corrections WHERE receipt = %s ORDER BY turn DESC LIMIT 1", receipt
        )  # fmt: skip
        return tuple(rows[0]) if rows else (self.books.reason(receipt) is None, self.books.reason(receipt), None)  # type: ignore[return-value]  # fmt: skip

    def paid(self) -> Decimal:
        """What is owed; both sides of the books agree on it."""
        operators = ("alpha", "beta", "gamma")
        owed = -sum((self.books.total(f"payable:{name}") for name in operators), Decimal(0))
        assert self.books.total("expense:acme") == owed
        rows = self.books.costs.totals()
        assert sum(Decimal(str(row[part])) for row in rows for part in ("amount", "held")) == owed
        ((half,),) = self.books.world.rows(
            "SELECT coalesce((SELECT at FROM costs_corrections ORDER BY random() LIMIT 1), 1)"
        )
        for periods in ([EVER], [Period(0, half), Period(half, MAX_MS)]):
            assert sum(self.exported(period) for period in periods) == owed
        assert self.on_bills() == owed
        return owed

    def exported(self, period: Period) -> Decimal:
        rows = csv.DictReader(StringIO(to_csv(self.books.costs.charges(period))))
        total = sum((Decimal(row["BilledCost"]) for row in rows), Decimal(0))
        found = self.reports.centres_of_days(period, tenant=None, operator=None).centres
        assert sum(one.amount for one in found.sums) == total
        return total

    @property
    def reports(self) -> Reports:
        return Reports(self.books.world.database.engine("server"))

    def on_bills(self) -> Decimal:
        """What all billing periods come to, by cost centre as in their bills."""
        usage = []
        for item in Bookkeeping(self.books.world.database.engine("server")).periods():
            bill = Bookkeeping(self.books.world.database.engine("server")).bill(item.row.id)
            found = self.reports.centres_of_period(item.row.id, tenant=item.row.tenant).centres
            assert sum(one.amount for one in found.sums) == bill.usage
            assert sum(one.held for one in found.sums) == bill.held
            usage.append(bill.usage)
        return sum(usage, Decimal(0))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def verdict(
    receipt: bytes, outcome: str, worker: str = "worker", confirms: bytes | None = None, reason: str | None = None
) -> bytes:  # fmt: skip
    value = Verdict(
        receipt=receipt, request=made.some("request"), worker=worker, outcome=Outcome(outcome),
        reason=Reason(reason or {"PASS": "exact", "FAIL": "tokens", "INCONCLUSIVE": "withheld"}[outcome]),
        evidence=made.some("evidence"), numeric_profile=made.PROFILE, at=made.NOW, confirms=confirms,
    )  # fmt: skip
    return sign(value, key=made.key(worker), issuer=worker)


@pytest.fixture
def scene(books: Books) -> Scene:
    for name in WORKERS[1:]:
        books.world.trail.add_party(name, "worker", made.public(name))
    return Scene(books, [books.world.node, books.node("beta")])


def test_an_order_that_is_answered_five_times_is_paid_once(scene: Scene):
    first, *others = (scene.receipt(h_final=made.some(n)) for n in range(5))
    scene.catch_up()
    assert scene.paid() == EACH
    assert scene.standing(first) == (True, None, None)
    for again in others:
        assert scene.standing(again) == (False, ANSWERED, None)
    assert scene.books.world.rows("SELECT count(*) FROM costs_rated_receipts WHERE amount > 0") == [
        (1,)
    ]


def test_an_order_is_paid_once_even_when_its_answers_come_one_by_one(scene: Scene):
    scene.receipt(finish=Finish.FAILED)
    scene.catch_up()
    scene.receipt()
    scene.catch_up()
    assert scene.paid() == 0


def test_the_node_that_served_the_retry_is_paid_and_the_one_before_is_not(scene: Scene):
    dropped = scene.receipt(attempt=0, node=0)
    scene.catch_up()
    assert scene.paid() == EACH
    retry = scene.receipt(attempt=1, node=1)
    scene.catch_up()
    assert scene.paid() == EACH
    assert scene.books.total("payable:alpha") == 0
    assert scene.standing(dropped) == (False, SUPERSEDED, retry)
    (alpha, beta) = scene.books.costs.totals()
    assert (alpha["amount"], alpha["refused"], alpha["receipts"], alpha["tokens"]) == ("0", str(EACH), 0, 0)  # fmt: skip
    assert (beta["amount"], beta["refused"]) == (str(EACH), "0")


@pytest.mark.parametrize("first", ["receipt", "refusal", "receipt, and it is booked"])
def test_an_answer_to_an_order_that_its_node_refused_is_not_paid(scene: Scene, first: str):
    """Whichever the log has first; what was posted before the refusal came is taken back, with its entry."""
    order = 0
    raw, value = scene.made(scene.nodes[0], 0, 0, order)
    refusal = made.refusal_of(scene.orders[0, 0, order])
    receipt = Submission(raw, scene.orders[0, 0, order])
    submissions = [refusal, receipt] if first == "refusal" else [receipt, refusal]
    for submission in submissions:
        scene.books.world.put(submission)
        if first.endswith("booked"):
            scene.catch_up()
    scene.catch_up()
    assert value.number == 0
    told = [(item.receipt, item.reason, item.because) for item in scene.books.costs.unpaid()]
    assert told == [(entry_of(raw), ORDER_REFUSED, entry_of(refusal.statement))]
    assert scene.paid() == 0


def test_a_retry_that_fails_or_never_comes_supersedes_nothing(scene: Scene):
    scene.receipt(attempt=0, node=0)
    scene.receipt(attempt=1, node=1, finish=Finish.FAILED)
    scene.catch_up()
    assert -scene.books.total("payable:alpha") == EACH == scene.paid()


def test_a_convicted_retry_restores_the_pay_of_the_attempt_before_it(scene: Scene):
    first = scene.receipt(attempt=0, node=0)
    retry = scene.receipt(attempt=1, node=1)
    scene.catch_up()
    confirming = scene.convict(retry)
    scene.catch_up()
    assert scene.standing(first) == (True, None, None)
    assert scene.standing(retry) == (False, "confirmed FAIL: tokens", confirming)
    assert -scene.books.total("payable:alpha") == EACH == scene.paid()
    assert scene.books.world.rows("SELECT count(*) FROM costs_corrections") == [(3,)]


def test_a_fail_is_held_and_shown_as_held_until_another_workers_verdict(scene: Scene):
    failed, fine = scene.receipt(0), scene.receipt(1)
    doubted = scene.verdict(failed, "FAIL")
    scene.catch_up()
    assert scene.paid() == 2 * EACH
    (row, *_) = scene.books.costs.totals()
    assert (row["amount"], row["held"], row["refused"], row["receipts"]) == (str(EACH), str(EACH), "0", 1)  # fmt: skip
    shown = {row["x_Receipt"]: row for row in csv.DictReader(StringIO(to_csv(scene.books.costs.charges(EVER))))}  # fmt: skip
    assert shown[failed.hex()]["x_AuditState"] == "held"
    assert shown[failed.hex()]["x_Because"] == doubted.hex()
    assert shown[fine.hex()]["x_AuditState"] == "unaudited"
    content = invoice(line("input", 10, "1"), line("output", 14, "2"))
    result = scene.books.reconcile(scene.books.take(content))
    assert (result.gap, result.held) == (Fraction(0), Fraction(EACH))
    scene.verdict(failed, "PASS", "second")
    assert scene.books.costs.totals()[0]["held"] == "0"


def test_what_is_not_paid_is_listed_with_the_statement_that_says_so(scene: Scene):
    dropped, retry = scene.receipt(attempt=0, node=0), scene.receipt(attempt=1, node=1)
    again = scene.receipt(attempt=1, order=0, node=1)
    failed = scene.receipt(number=1, finish=Finish.FAILED)
    doubted = scene.receipt(number=2)
    doubt = scene.verdict(doubted, "FAIL")
    scene.receipt(number=3)
    scene.catch_up()
    rows = scene.books.costs.unpaid()
    assert [(row.receipt, row.state.value, row.reason, row.because) for row in rows] == [
        (doubted, "held", "FAIL that no second worker has confirmed: tokens", doubt),
        (failed, "refused", "failed", None),
        (again, "refused", ANSWERED, retry),
        (dropped, "refused", SUPERSEDED, retry),
    ]
    last = rows[-1]
    assert (last.tenant, last.number, last.attempt, last.operator, last.node) == ("acme", 0, 0, "alpha", "one")  # fmt: skip
    assert (last.amount, last.currency) == (str(EACH), "EUR")
    assert rows[1].amount is None
    assert [row.receipt for row in scene.books.costs.unpaid(limit=1)] == [doubted]
    assert scene.books.costs.unpaid(tenant="bolt") == []


def test_what_was_posted_and_is_convicted_is_mirrored_once(scene: Scene):
    receipt = scene.receipt()
    scene.catch_up()
    confirming = scene.convict(receipt)
    scene.catch_up()
    scene.catch_up()
    scene.verdict(receipt, "FAIL", "third", confirming)
    scene.catch_up()
    assert scene.paid() == 0
    assert scene.standing(receipt) == (False, "confirmed FAIL: tokens", confirming)
    journals = scene.books.world.rows(
        "SELECT sum(amount) FILTER (WHERE account = 'payable:alpha') FROM costs_postings GROUP BY journal ORDER BY journal"
    )
    assert journals == [(-EACH,), (EACH,)]
    (row,) = scene.books.costs.totals()
    assert (row["amount"], row["refused"], row["receipts"]) == ("0", str(EACH), 0)
    assert list(scene.books.costs.charges(EVER)) == []


def test_withholding_that_a_second_worker_confirms_is_not_paid(scene: Scene):
    for number, reason in enumerate(("withheld", "profile", "unavailable", "escrow")):
        receipt = scene.receipt(number)
        first = scene.verdict(receipt, "INCONCLUSIVE", reason=reason)
        blamed = Reason(reason).blame is Blame.NODE
        scene.verdict(receipt, "INCONCLUSIVE", "second", first if blamed else None, reason=reason)
    scene.catch_up()
    assert scene.paid() == 2 * EACH


def test_a_bill_for_what_is_not_payable_is_unproven_and_the_rest_is_quantity(scene: Scene):
    scene.convict(scene.receipt(0))
    scene.receipt(1)
    scene.catch_up()
    content = invoice(line("input", 10, "1"), line("output", 14 + 61, "2"))
    result = scene.books.reconcile(scene.books.take(content))
    found = {name: value for name, value in result.parts.items() if value}
    assert found == {"unproven": Fraction(EACH), "quantity": Fraction("0.122")}
    (key,) = result.keys
    assert {kind.value: count for kind, count in key.refused.items()} == {"input": 5, "cached": 0, "output": 7}  # fmt: skip
    assert result.proven == Fraction(EACH)


def test_a_conviction_of_everything_leaves_the_overclaim_apart(scene: Scene):
    scene.convict(scene.receipt(0))
    scene.catch_up()
    content = invoice(line("input", 5, "1"), line("output", 7 + 61, "2"))
    result = scene.books.reconcile(scene.books.take(content))
    found = {name: value for name, value in result.parts.items() if value}
    assert found == {"unproven": Fraction(EACH), "quantity": Fraction("0.122")}


def test_what_changes_after_a_period_is_a_correction_in_the_next(scene: Scene):
    """The sum of the exports is what the books say; an export once made stays unchanged."""
    receipt = scene.receipt()
    scene.catch_up()
    scene.convict(receipt)
    scene.catch_up()
    ((posted,),) = scene.books.world.rows("SELECT at FROM costs_corrections")
    before, after = Period(0, posted), Period(posted, MAX_MS)
    usage = list(csv.DictReader(StringIO(to_csv(scene.books.costs.charges(before)))))
    correction = list(csv.DictReader(StringIO(to_csv(scene.books.costs.charges(after)))))
    assert [row["ChargeClass"] for row in usage] == ["", ""]
    assert [row["ChargeClass"] for row in correction] == ["Correction", "Correction"]
    assert sum(Decimal(row["BilledCost"]) for row in usage) == EACH
    assert sum(Decimal(row["BilledCost"]) for row in usage + correction) == 0
    assert {row["x_Reason"] for row in correction} == {"confirmed FAIL: tokens"}
    assert {row["ConsumedQuantity"] for row in correction} == {"-5.0", "-7.0"}
    assert {row["x_Receipt"] for row in correction} == {receipt.hex()}


def test_more_tokens_than_the_order_allows_are_not_paid(scene: Scene):
    receipt = scene.receipt()
    (row,) = scene.books.world.rows("SELECT output_tokens FROM trail_receipts")
    assert row == (7,)
    order, _ = open_as(Order, next(iter(scene.orders.values())), None)
    value, _ = open_as(Receipt, scene.books.world.trail.statement(receipt).raw, None)  # type: ignore[union-attr]

    assert rated(value, None, "alpha", order)[1] == "rate card not in the log before it"
    small = Order(**{**_fields(order), "max_output_tokens": 6})
    assert rated(value, None, "alpha", small)[1] == (
        "the receipt counts 7 output tokens, but at most 6 were ordered"
    )


def test_a_rate_card_that_comes_after_the_receipt_prices_nothing(scene: Scene):
    """Whether the books are made up between the two or after both makes no difference."""
    late = made.rate_card("alpha", name="late")
    for number, early in enumerate((True, False)):
        receipt = scene.receipt(number, card=entry_of(late))
        if early:
            scene.catch_up()
        scene.books.world.put(Submission(late))
        scene.catch_up()
        assert scene.books.reason(receipt) == "rate card not in the log before it"
        late = made.rate_card("alpha", name="later")
    assert scene.paid() == 0


def test_the_database_refuses_a_second_payment(scene: Scene):
    first, retry = scene.receipt(attempt=0), scene.receipt(attempt=1)
    again = scene.receipt(attempt=1)
    scene.catch_up()
    pay = (
        "UPDATE costs_rated_receipts SET billable = true, reason = NULL, amount = 0, currency = 'EUR', journal = 1,"
        " period = 1 WHERE receipt = %s"
    )
    with psycopg.connect(scene.books.world.database.owner_dsn) as owner:
        with pytest.raises(psycopg.errors.UniqueViolation):
            owner.execute(pay, (again,))
        owner.rollback()
    with psycopg.connect(scene.books.world.database.worker_dsn) as worker:
        again_payable = (
            "INSERT INTO costs_corrections (receipt, turn, payable, at) VALUES (%s, 1, true, 1)"
        )
        worker.execute(again_payable.encode(), (first,))
        with pytest.raises(psycopg.errors.CheckViolation, match="two attempts of one request"):
            worker.commit()
        worker.rollback()
        with pytest.raises(psycopg.errors.UniqueViolation):
            worker.execute(
                "INSERT INTO costs_corrections (receipt, turn, payable, reason, at) VALUES (%s, 0, false, 'x', 1)", (first,)
            )  # fmt: skip
        worker.rollback()
        for statement in (
            "UPDATE costs_corrections SET payable = true",
            "DELETE FROM costs_corrections",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(statement.encode())
            worker.rollback()
    assert scene.standing(retry) == (True, None, None)


DAMAGE = {
    "UPDATE costs_rated_receipts SET output = output + 1": "its tokens are not the receipt's",
    "UPDATE costs_rated_receipts SET amount = amount + 1": "its amount is not",
    "UPDATE costs_rated_receipts SET currency = 'USD'": "its amount is not",
    "UPDATE costs_rated_receipts SET node = 'two'": "node is not the receipt's",
    "UPDATE costs_rated_receipts SET cost_centre = sha256('x') WHERE billable": "cost_centre is not the order's",
    "DELETE FROM costs_corrections": "is not payable",
    "UPDATE costs_corrections SET because = sha256('x')": "is not payable",
    "UPDATE costs_rated_receipts SET attempt = attempt + 1": "attempt is not the receipt's",
    "UPDATE costs_postings SET amount = 0": "account expense:acme holds 0",
    "UPDATE costs_postings SET amount = 2 * amount": "account payable:alpha holds",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_check_finds_what_was_changed(scene: Scene, damage: str):
    scene.receipt(attempt=0)
    scene.receipt(attempt=1)
    scene.convict(scene.receipt(number=1))
    scene.catch_up()
    scene.books.world.rows(damage)
    found = scene.books.costs.check()
    assert any(DAMAGE[damage] in finding for finding in found), found


REASONS = {
    "UPDATE costs_rated_receipts SET reason = 'failed' WHERE NOT billable": "is called cancelled",
    "UPDATE costs_rated_receipts SET billable = true, reason = NULL, amount = 0, currency = 'EUR', journal = 1, period = 1"
    " WHERE NOT billable": "billable in the books, but not",
    "UPDATE costs_rated_receipts SET billable = false, reason = 'late' WHERE billable": "but billable",
}


@pytest.mark.parametrize("damage", REASONS)
def test_the_check_recomputes_why_a_receipt_is_not_billable(scene: Scene, damage: str):
    scene.receipt()
    scene.receipt(number=1, finish=Finish.CANCELLED)
    scene.catch_up()
    assert scene.paid() == EACH
    scene.books.world.rows(damage)
    found = scene.books.costs.check()
    assert any(REASONS[damage] in finding for finding in found), found


def test_books_from_before_the_rule_are_brought_in_line_with_it(scene: Scene):
    """What an earlier version posted for a superseded attempt is found, and reversed by `cost rate`."""
    scene.receipt(attempt=0)
    scene.receipt(attempt=1)
    scene.catch_up()
    world = scene.books.world
    world.rows("DELETE FROM costs_corrections")
    world.rows(
        "WITH gone AS (DELETE FROM costs_postings WHERE journal = (SELECT max(id) FROM costs_journals))"
        " DELETE FROM costs_journals WHERE id = (SELECT max(id) FROM costs_journals)"
    )
    assert len(scene.books.costs.check()) > 0
    assert scene.books.costs.settle_all() == 1
    assert scene.books.costs.check() == []
    assert scene.paid() == EACH


DOUBLE = """
WITH receipts AS (
  INSERT INTO costs_rated_receipts (receipt, log_index, billable) SELECT entry, log_index, true FROM trail_receipts
  RETURNING receipt
), journal AS (
  INSERT INTO costs_journals (tenant, operator, day, currency, posted_at) VALUES ('acme', 'alpha', '2026-03-01', 'EUR', 1)
  RETURNING id
), lines AS (
  INSERT INTO costs_rated_lines (receipt, log_index, journal, tenant, operator, node, model_root, rate_card, day,
    started, ended, kind, quantity, unit_price, per, amount, currency)
  SELECT r.entry, r.log_index, journal.id, r.tenant, r.operator, r.node, r.model_root, r.rate_card, '2026-03-01',
    r.started, r.ended, line.kind, line.quantity, line.price, 1000, line.quantity * line.price / 1000.0, 'EUR'
    FROM trail_receipts r, journal, (VALUES ('input', 5, 1), ('output', 7, 2)) AS line (kind, quantity, price)
  RETURNING amount
) INSERT INTO costs_postings (journal, account, amount, currency)
  SELECT journal.id, account, sign * (SELECT sum(amount) FROM lines), 'EUR'
    FROM journal, (VALUES ('expense:acme', 1), ('payable:alpha', -1)) AS side (account, sign)
"""
"""What the books looked like when every answer to an order was billed."""


def test_an_order_that_was_billed_several_times_is_corrected_by_the_migration(scene: Scene):
    owner = scene.books.world.database.owner_dsn
    first, *others = (scene.receipt(h_final=made.some(n)) for n in range(3))
    scene.catch_up()
    migrate.downgrade(owner, "0005")
    scene.books.world.rows(DOUBLE)
    assert scene.books.total("expense:acme") == 3 * EACH
    migrate.upgrade(owner)
    assert scene.paid() == EACH
    assert scene.books.costs.check() == []
    for again in others:
        assert scene.standing(again) == (False, ANSWERED, first)
    scene.receipt(number=1)
    scene.catch_up()
    assert scene.paid() == 2 * EACH


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_the_books_end_in_the_same_state_whatever_arrives_first(scene: Scene, seed: int):
    """`check` applies the rule to everything at once; the books got there step by step."""
    chance = Random(seed)
    number = 1 + max((key[0] for key in scene.orders), default=0)
    logged: list[bytes] = []
    waiting: list[bytes] = []
    for _ in range(chance.randint(3, 10)):
        what = chance.choice(("receipt", "receipt", "verdicts", "books"))
        if what == "books":
            step = chance.choice((scene.books.costs.rate_new, scene.books.costs.heed_new))
            step(limit=chance.randint(1, 3))
        elif what == "receipt" or not logged:
            logged.append(some_receipt(scene, number, chance))
        else:
            waiting += some_verdicts(chance.choice(logged), chance)
        for raw in chance.sample(waiting, chance.randint(0, len(waiting))):
            scene.books.world.put(Submission(raw))
            waiting.remove(raw)
    for raw in waiting:
        scene.books.world.put(Submission(raw))
    scene.catch_up()
    scene.paid()


def some_receipt(scene: Scene, number: int, chance: Random) -> bytes:
    node = chance.randint(0, 1)
    finish = chance.choice((Finish.STOP, Finish.STOP, Finish.FAILED))
    order = 2 * node + chance.randint(0, 1)
    return scene.receipt(number, chance.randint(0, 2), order=order, node=node, finish=finish)


def some_verdicts(about: bytes, chance: Random) -> list[bytes]:
    """Return some of: a FAIL, one that confirms it, another opinion; by workers that may be the same."""
    first = verdict(about, "FAIL", chance.choice(WORKERS))
    confirming = verdict(about, "FAIL", chance.choice(WORKERS), entry_of(first))
    other = verdict(about, chance.choice(("FAIL", "PASS")), chance.choice(WORKERS))
    return chance.sample((first, confirming, other), chance.randint(1, 3))
