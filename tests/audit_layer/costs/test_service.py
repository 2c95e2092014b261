"""The books: every receipt is rated once, to the last digit, and invoices are compared with what receipts prove."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from io import StringIO

import psycopg
import pytest

from audit_layer.costs.exports.focus_csv import COLUMNS, to_csv
from audit_layer.costs.invoicing import Invoicing
from audit_layer.costs.reconciling.variance import Reconciliation
from audit_layer.costs.service import Costs
from audit_layer.costs.stored_invoices import Submitted
from audit_layer.trail.service import Submission
from shared.codec.moment import Period, day_of, days_period
from shared.codec.money import amount_of
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Finish, Receipt
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World, world
from tests.postgres import Database

__all__ = ["world"]

HOUR = 3_600_000
DAY = datetime.fromtimestamp((made.NOW - 990) / 1000, tz=UTC).date()
FIRST, AFTER = DAY.replace(day=1), DAY + timedelta(days=1)
MONTH = days_period(FIRST, AFTER)
EACH = Decimal("0.019")
"""5 prompt tokens at 1 and 7 output tokens at 2 per thousand."""


@dataclass
class Books:
    """The books over a trail."""

    world: World
    costs: Costs

    @property
    def invoicing(self) -> Invoicing:
        return Invoicing(self.world.database.engine("server"))

    def take(self, content: bytes) -> int:
        return self.invoicing.take(Submitted(content), by="finance")

    def reconcile(self, number: int) -> Reconciliation:
        return self.invoicing.reconcile(number).result

    def receipt(self, tenant: str = "acme", node: made.Node | None = None, **changes) -> bytes:
        """Log one receipt, with changes that its node signs; return its entry."""
        node = node or self.world.node
        given = ("tokens", "max_ms", "cancelled", "cost_centre")
        ordered = {name: changes.pop(name) for name in given if name in changes}
        submission = node.receipt(tenant, **ordered)
        if changes:
            value, _ = open_as(Receipt, submission.statement, None)
            name = f"{node.operator}/one"
            raw = sign(replace(value, **changes), key=made.key(name), issuer=name)
            submission, node.previous = replace(submission, statement=raw), entry_of(raw)
        return self.world.put(submission)[0].entry

    def card(self, operator: str = "alpha", **changes) -> bytes:
        """Log a rate card; return its entry."""
        value, _ = open_as(RateCard, made.rate_card(operator), None)
        raw = sign(replace(value, **changes), key=made.key(operator), issuer=operator)
        return self.world.put(Submission(raw))[0].entry

    def node(self, operator: str, card: bytes | None = None) -> made.Node:
        """Return the node of another operator, with its bundle logged."""
        (bundle,) = self.world.put(Submission(made.bundle(operator)))
        return made.Node(operator, bundle.entry, card or self.card(operator))

    def total(self, account: str) -> Decimal:
        ((amount,),) = self.world.rows(
            "SELECT coalesce(sum(amount), 0) FROM costs_postings WHERE account = %s", account
        )
        return Decimal(amount)

    def reason(self, receipt: bytes) -> str | None:
        ((billable, reason),) = self.world.rows(
            "SELECT billable, reason FROM costs_rated_receipts WHERE receipt = %s", receipt
        )
        assert billable is (reason is None)
        return None if reason is None else str(reason)


@pytest.fixture
def books(world: World) -> Books:
    return Books(world, Costs(world.database.engine("worker")))


def invoice(*lines: dict, operator: str = "alpha", rounding: str = "0", **changes) -> bytes:
    amounts = sum((Decimal(line["amount"]) for line in lines), Decimal(rounding))
    return json.dumps(
        {
            "invoice_id": "2026-7", "operator": operator, "currency": "EUR",
            "period_start": str(FIRST), "period_end": str(AFTER), "issued_at": f"{DAY}T00:00:00Z",
            "lines": lines, "rounding": rounding, "total": format(amounts, "f"), **changes,
        }
    ).encode()  # fmt: skip


def line(kind: str, quantity: int, unit: str, **changes) -> dict:
    return {
        "line_id": f"{kind}-{quantity}", "tenant": "acme", "node": "one", "model_root": made.MODEL.hex(),
        "day": str(DAY), "kind": kind, "quantity": quantity, "unit_price": unit, "per": 1000,
        "amount": format(Decimal(unit) * quantity / 1000, "f"), **changes,
    }  # fmt: skip


# -- rating -----------------------------------------------------------------------------------------------


def test_receipts_are_rated_and_posted_to_the_last_digit(books: Books):
    for _ in range(3):
        books.receipt()
    assert books.costs.pending() == 3
    assert books.costs.rate_new() == 3
    assert books.costs.pending() == 0
    assert books.total("expense:acme") == 3 * EACH == -books.total("payable:alpha")
    (row,) = books.costs.totals()
    assert row == {
        "operator": "alpha", "node": "one", "currency": "EUR", "receipts": 3, "tokens": 36,
        "amount": "0.057", "held": "0", "refused": "0",
    }  # fmt: skip


def test_a_receipt_is_rated_once_however_often_the_books_are_made_up(books: Books):
    books.receipt()
    books.receipt("bolt")
    assert [books.costs.rate_new() for _ in range(3)] == [2, 0, 0]
    books.receipt()
    assert [books.costs.rate_new(limit=1) for _ in range(2)] == [1, 0]
    assert books.total("expense:acme") == 2 * EACH
    assert books.total("expense:bolt") == EACH
    assert books.total("payable:alpha") == -3 * EACH
    assert books.world.rows("SELECT count(*) FROM costs_rated_receipts") == [(3,)]


def test_two_raters_at_once_post_nothing_twice(books: Books):
    for _ in range(20):
        books.receipt()

    def rating(_: int) -> int:
        return books.costs.rate_new()

    with ThreadPoolExecutor(3) as pool:
        counts = sorted(pool.map(rating, range(3)))
    assert counts == [0, 0, 20]
    assert books.total("expense:acme") == 20 * EACH
    assert books.world.rows("SELECT count(*) FROM costs_rated_receipts") == [(20,)]


def test_the_database_itself_refuses_a_second_rating(books: Books):
    entry = books.receipt()
    books.costs.rate_new()
    with psycopg.connect(books.world.database.worker_dsn) as worker:
        with pytest.raises(psycopg.errors.UniqueViolation):
            worker.execute(
                "INSERT INTO costs_rated_receipts SELECT * FROM costs_rated_receipts WHERE receipt = %s",
                (entry,),
            )
        worker.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            worker.execute("UPDATE costs_rated_receipts SET amount = 7")
        worker.rollback()


def test_what_only_the_node_wanted_to_end_is_not_paid_and_what_its_tenant_ended_is(books: Books):
    """The books follow order and receipt, and the check recomputes both."""
    ends = (
        ({"finish": Finish.FAILED}, "failed"),
        ({"finish": Finish.CANCELLED}, "the tenant did not sign a cancellation"),
        ({"cancelled": True}, None),
        ({"cancelled": True, "tokens": 0}, "nothing was delivered"),
        ({"tokens": 0}, "nothing was delivered"),
        ({"finish": Finish.DEADLINE}, "the order sets no deadline"),
        ({"finish": Finish.DEADLINE, "max_ms": 1_500}, "called late after 10 ms"),
        ({"finish": Finish.DEADLINE, "max_ms": 900}, None),
        ({"finish": Finish.STOP, "max_ms": 900}, None),
    )
    entries = [books.receipt(**what) for what, _ in ends]
    assert books.costs.rate_new() == len(ends)
    for entry, (what, reason) in zip(entries, ends, strict=True):
        found = books.reason(entry)
        assert (found is None) == (reason is None), what
        assert (reason or "") in (found or ""), what
    assert books.total("expense:acme") == 3 * EACH
    assert books.costs.check() == []
    told = [row.reason for row in books.costs.unpaid()]
    assert len(told) == 6
    assert all(told)


def test_one_bad_card_stops_no_other_receipt(books: Books):
    """Each bad one is in the books with its reason, and the good one is paid."""
    price = Price(model_root=made.MODEL, input="1", cached="1", output="1", per=1000)
    cards = {
        "rate card not in the log before it": made.some("no card"),
        "rate card of another operator": books.card("beta"),
        "rate card not valid at the time": books.card(valid_to=made.NOW - 5000),
        "has no price for model": books.card(
            prices=(replace(price, model_root=made.some("another model")),)
        ),
        "per a power of ten": books.card(prices=(replace(price, per=7),)),
        "cached input (2) is above": books.card(prices=(replace(price, cached="2"),)),
    }
    entries = {}
    good = books.world.node.card
    for reason, card in cards.items():
        books.world.node.card = card
        entries[reason] = books.receipt(tokens=60)
    books.world.node.card = good
    paid = books.receipt()
    assert books.costs.rate_new() == len(cards) + 1
    for reason, entry in entries.items():
        assert reason in (books.reason(entry) or "")
    assert books.reason(paid) is None


def test_prices_with_many_digits_lose_none(books: Books):
    """Nothing is rounded to the 28 digits that a decimal has by default, or to the 17 of a float."""
    unit = "123456789012.123456789012"
    price = Price(model_root=made.MODEL, input=unit, cached="0", output=unit, per=1)
    books.world.node.card = books.card(prices=(price,))
    books.world.put(*(books.world.node.receipt("acme", tokens=64) for _ in range(200)))
    books.costs.rate_new()
    exact = 200 * Fraction(unit) * 69
    assert Fraction(books.total("expense:acme")) == exact
    ((booked,),) = books.world.rows("SELECT sum(amount) FROM costs_rated_receipts")
    assert Fraction(booked) == exact
    (row,) = books.costs.totals()
    assert Fraction(str(row["amount"])) == exact
    quantity = 123_456_789
    assert Fraction(amount_of(quantity, Decimal(unit), 10**9)) == quantity * Fraction(unit) / 10**9


def test_journals_balance_per_tenant_operator_day_and_currency(books: Books):
    beta = books.node("beta")
    books.receipt()
    books.receipt("bolt")
    books.receipt(node=beta)
    books.costs.rate_new()
    journals = books.world.rows(
        "SELECT j.tenant, j.operator, sum(p.amount), sum(abs(p.amount)) / 2"
        " FROM costs_journals j JOIN costs_postings p ON p.journal = j.id GROUP BY 1, 2, j.id ORDER BY 1, 2"
    )
    assert journals == [
        ("acme", "alpha", 0, EACH),
        ("acme", "beta", 0, EACH),
        ("bolt", "alpha", 0, EACH),
    ]


def test_a_tenants_totals_are_its_own(books: Books):
    books.receipt()
    books.receipt("bolt", tokens=9)
    books.costs.rate_new()
    (mine,) = books.costs.totals(tenant="bolt")
    assert (mine["receipts"], mine["tokens"], mine["amount"]) == (1, 14, "0.023")
    assert books.costs.totals(tenant="nobody") == []


# -- invoices ------------------------------------------------------------------------------------------------


def test_an_honest_invoice_has_no_gap(books: Books):
    for _ in range(3):
        books.receipt()
    books.costs.rate_new()
    taken = books.take(invoice(line("input", 15, "1"), line("output", 21, "2")))
    result = books.reconcile(taken)
    assert result.gap == 0
    assert result.proven == Fraction(3 * EACH)


def test_an_overclaim_is_named_to_the_token_and_to_the_cent(books: Books):
    for _ in range(3):
        books.receipt()
    books.costs.rate_new()
    content = invoice(line("input", 15, "1"), line("output", 21 + 61, "2"), rounding="0.001")
    result = books.reconcile(books.take(content))
    assert result.proven == Fraction("0.057")
    assert result.billed == Fraction("0.18")
    (key,) = result.keys
    assert key.key == ("acme", "one", made.MODEL)
    assert {kind.value: count for kind, count in key.tokens.items()} == {
        "input": 0, "cached": 0, "output": 61,
    }  # fmt: skip
    found = {name: value for name, value in result.parts.items() if value}
    assert found == {"quantity": Fraction("0.122"), "rounding": Fraction("0.001")}
    assert sum(found.values()) == result.gap
    ((kept, size),) = books.world.rows("SELECT result, log_size FROM costs_reconciliations")
    assert json.loads(kept)["parts"]["quantity"] == "0.122"
    assert size == books.world.rows("SELECT max(log_index) + 1 FROM trail_statements")[0][0]


def test_an_invoice_for_work_that_no_receipt_proves_is_unproven(books: Books):
    books.receipt()
    books.costs.rate_new()
    content = invoice(
        line("input", 5, "1"), line("output", 7, "2"), line("output", 100, "2", node="two"),
        line("output", 50, "2", tenant="bolt"), line("output", 25, "2", model_root="00" * 32),
    )  # fmt: skip
    result = books.reconcile(books.take(content))
    assert {name: value for name, value in result.parts.items() if value} == {
        "unproven": Fraction("0.35")
    }


def test_an_invoice_of_another_operator_is_not_paid_from_this_ones_receipts(books: Books):
    books.receipt()
    books.costs.rate_new()
    content = invoice(line("input", 5, "1"), line("output", 7, "2"), operator="beta")
    result = books.reconcile(books.take(content))
    assert result.operator == "beta"
    assert result.proven == 0
    assert {name for name, value in result.parts.items() if value} == {"unproven"}


def test_the_same_invoice_is_taken_once_and_another_under_its_number_is_refused(books: Books):
    content = invoice(line("output", 7, "2"))
    first = books.take(content)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(books.take, [content] * 3)) == {first}
    assert books.world.rows("SELECT count(*) FROM costs_invoices") == [(1,)]
    with pytest.raises(CounterfoilError) as caught:
        books.take(invoice(line("output", 8, "2")))
    assert caught.value.code is Code.CONFLICT
    assert books.take(invoice(line("output", 8, "2"), operator="beta")) != first
    with pytest.raises(CounterfoilError) as caught:
        books.take(b"{")
    assert caught.value.code is Code.MALFORMED


def test_an_invoice_that_comes_several_times_at_once_is_one(books: Books):
    content = invoice(line("output", 7, "2"))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(books.take, [content] * 8))) == 1


def test_currencies_are_never_mixed(books: Books):
    """An operator that bills in two currencies has one invoice for each, against the work of that currency."""
    books.receipt()
    books.world.node.card = books.card(currency="USD")
    books.receipt()
    books.costs.rate_new()
    for currency in ("EUR", "USD"):
        content = invoice(
            line("input", 5, "1"), line("output", 7, "2"), currency=currency, invoice_id=currency
        )
        result = books.reconcile(books.take(content))
        assert result.currency == currency
        assert result.gap == 0
        assert result.proven == Fraction(EACH)
    with pytest.raises(CounterfoilError) as caught:
        books.reconcile(
            books.take(invoice(line("output", 7, "2"), currency="CHF", invoice_id="CHF"))
        )
    assert caught.value.code is Code.CONFLICT


def test_only_the_invoices_own_days_count(books: Books):
    books.receipt()
    books.costs.rate_new()
    later = {"period_start": str(AFTER), "period_end": str(AFTER + timedelta(days=30))}
    result = books.reconcile(books.take(invoice(line("output", 7, "2"), **later)))
    assert result.proven == 0
    assert result.parts["timing"] == Fraction("0.014")


def test_a_period_is_honoured_to_the_millisecond(books: Books):
    """When a receipt ended decides its day in the invoice, whatever day that is in UTC."""
    late = made.NOW - 1000 - (made.NOW - 1000) % HOUR  # a full hour, so a day's beginning somewhere
    hours = (late // HOUR) % 24
    zone = f"Etc/GMT{hours if hours <= 12 else hours - 24:+d}"
    day = day_of(late, zone)
    books.receipt(started=late - 20, ended=late - 1)
    books.receipt(started=late - 20, ended=late)
    books.costs.rate_new()
    for start, end in ((day - timedelta(days=1), day), (day, day + timedelta(days=1))):
        content = invoice(
            period_start=str(start), period_end=str(end), time_zone=zone, invoice_id=str(start)
        )
        assert books.reconcile(books.take(content)).proven == Fraction(EACH)
    assert len(list(books.costs.charges(Period(late - 1, late)))) == 2


def test_an_operator_that_the_log_does_not_know_is_not_found_and_its_invoice_not_kept(books: Books):
    with pytest.raises(CounterfoilError, match="gamma") as caught:
        books.take(invoice(line("output", 7, "2"), operator="gamma"))
    assert caught.value.code is Code.NOT_FOUND
    assert "alpha, beta" in (caught.value.remedy or "")
    assert books.world.rows("SELECT count(*) FROM costs_invoices") == [(0,)]


# -- export and failure -----------------------------------------------------------------------------------------


def test_the_export_has_the_columns_of_focus_and_sums_to_the_books(books: Books):
    entry = books.receipt()
    books.receipt("bolt")
    books.costs.rate_new()
    rows = list(csv.DictReader(StringIO(to_csv(books.costs.charges(MONTH)))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 4
    assert sum(Decimal(row["BilledCost"]) for row in rows) == 2 * EACH
    (output,) = (
        row for row in rows if row["x_Receipt"] == entry.hex() and "output" in row["SkuId"]
    )
    expected = {
        "BilledCost": "0.014", "ConsumedQuantity": "7.0", "ConsumedUnit": "Tokens",
        "ListUnitPrice": "2.0", "PricingQuantity": "0.007", "PricingUnit": "1000 Tokens",
        "BillingCurrency": "EUR", "BillingAccountId": "acme", "ProviderName": "alpha",
        "ResourceId": "alpha/one", "ChargeCategory": "Usage",
        "BillingPeriodStart": f"{FIRST}T00:00:00Z", "BillingPeriodEnd": f"{AFTER}T00:00:00Z",
    }  # fmt: skip
    assert {name: output[name] for name in expected} == expected


def test_an_export_is_of_the_tenant_the_operator_and_the_days_asked_for(books: Books):
    books.receipt()
    books.receipt("bolt")
    books.receipt(node=books.node("beta"))
    books.costs.rate_new()

    def count(start: date = FIRST, end: date = AFTER, **scope: str) -> int:
        return len(list(books.costs.charges(days_period(start, end), **scope)))

    assert count() == 6
    assert count(tenant="acme") == 4
    assert count(operator="beta") == 2
    assert count(tenant="bolt", operator="beta") == 0
    assert count(AFTER, AFTER + timedelta(days=9)) == 0
    assert count(FIRST - timedelta(days=9), DAY) == 0


def test_while_the_database_is_down_every_use_case_says_so_and_nothing_is_half_done(
    books: Books, database: Database
):
    books.receipt()
    content = invoice(line("output", 7, "2"))

    database.allow(False)
    try:
        for use in (
            books.costs.rate_new,
            books.costs.pending,
            books.costs.totals,
            lambda: books.take(content),
            lambda: books.reconcile(1),
            lambda: list(books.costs.charges(MONTH)),
        ):
            with pytest.raises(CounterfoilError) as caught:
                use()
            assert caught.value.code is Code.UNAVAILABLE
            assert caught.value.code.value.retryable
    finally:
        database.allow(True)
    assert books.costs.rate_new() == 1
    assert books.total("expense:acme") == EACH


def test_an_invoice_that_nobody_submitted_is_not_found(books: Books):
    with pytest.raises(CounterfoilError) as caught:
        books.reconcile(77)
    assert caught.value.code is Code.NOT_FOUND
