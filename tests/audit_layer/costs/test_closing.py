"""A close is final: its seal can be computed by anybody, what comes late is on the next bill, and no crash changes either."""

import json
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest

import audit_layer.costs
from audit_layer.costs.books import COLUMNS
from audit_layer.costs.closing import Closing
from audit_layer.costs.periods import CLOSED, CLOSING, OPEN, SOFT_CLOSED
from audit_layer.trail.service import Submission
from shared.codec.moment import MAX_MS, day_of, month_period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import Price
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.close_child import work
from tests.audit_layer.costs.keeping import Keeping, keeping_over
from tests.audit_layer.costs.test_service import EACH
from tests.audit_layer.log.fault_points import fault_points
from tests.postgres import PostgresServer

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.audit_layer.costs.close_child"])
FX: dict[str, Any] = {
    "currency": "CHF",
    "fx": [{"currency": "EUR", "valid_from": "2020-01-01", "rate": "0.937654321098"}],
}


@pytest.fixture
def keeping(postgres: PostgresServer, tmp_path: Path) -> Iterator[Keeping]:
    with keeping_over(postgres, tmp_path) as found:
        yield found


def seal_of(keeping: Keeping, number: int) -> tuple[PeriodSeal, bytes]:
    _, statement, _ = keeping.sealed(number)
    seal, _ = open_as(PeriodSeal, statement, made.public("authority"))
    return seal, entry_of(statement)


def merkle(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 §2.1.1, from its text."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + merkle(leaves[:half]) + merkle(leaves[half:])).digest()


def line(receipt: bytes, net: int) -> bytes:
    """H("period-line", CBOR([receipt, net])), byte by byte."""
    label = b"counterfoil/v1/period-line"
    content = b"\x82\x58\x20" + receipt + {1: b"\x01", -1: b"\x20"}[net]
    return sha256(bytes([len(label)]) + label + len(content).to_bytes(4, "big") + content).digest()


# -- the seal ------------------------------------------------------------------------------------------------------


def test_a_seal_can_be_computed_again_from_receipts_and_terms_alone(keeping: Keeping):
    keeping.contract(
        time_zone="Europe/Berlin", per_request="0.001", minimum="0.05",
        discounts=[{"tiers": [{"above": "0.02", "percent": "10"}]}],
    )  # fmt: skip
    receipts = [keeping.serve(number, tokens=7) for number in range(5)]
    keeping.scene.convict(receipts[3])
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    keeping.close(number)
    seal, entry = seal_of(keeping, number)
    assert (seal.lines, seal.root) == (4, merkle([line(r, 1) for r in receipts if r != receipts[3]]))  # fmt: skip
    day = day_of(made.NOW - 990, "Europe/Berlin")
    month = month_period(day.year, day.month, "Europe/Berlin")
    assert (seal.start, seal.end, seal.time_zone) == (month.start, month.end, "Europe/Berlin")
    assert (seal.tenant, seal.operator, seal.currency) == ("acme", "alpha", "EUR")
    assert (seal.previous, seal.at) == (bytes(32), made.NOW)
    assert (
        seal.size == keeping.world.rows("SELECT size FROM log_state")[0][0] - 1
    )  # the seal came after
    document = keeping.sealed(number)[2]
    assert seal.bill == sha256(document).digest()
    bill = json.loads(document)
    usage, fees = 4 * EACH, 4 * Decimal("0.001")
    discount = (usage - Decimal("0.02")) / 10
    subtotal = usage + fees - discount
    rounding = Decimal("0.07") - subtotal
    assert Decimal(bill["usage"]) == usage
    assert {c["kind"]: Decimal(c["amount"]) for c in bill["charges"]} == {
        "request": fees, "discount": -discount, "rounding": rounding,
    }  # fmt: skip
    assert Decimal(bill["total"]) == Decimal("0.07")
    assert -keeping.balances()["payable:alpha", "EUR"] == Decimal("0.07")
    assert keeping.world.rows("SELECT entry FROM trail_statements WHERE type = 'period-seal'") == [(entry,)]  # fmt: skip
    assert keeping.scene.books.costs.check() == []


def test_the_root_is_that_of_the_lines_for_any_number_of_them(keeping: Keeping):
    """Periods of one to five lines, the later ones with lines that take back those of earlier ones."""
    number, taken = 0, []
    for count in range(1, 6):
        for _ in range(count):
            taken.append(keeping.serve(number))
            number += 1
        keeping.scene.catch_up()
        if count > 2:
            keeping.scene.convict(taken[count])
            keeping.scene.catch_up()
        period = keeping.periods()[-1]
        keeping.close(period)
        seal, _ = seal_of(keeping, period)
        lines = keeping.lines(period)
        assert (seal.lines, seal.root) == (len(lines), merkle([line(*one) for one in lines]))
    assert any(net < 0 for _, net in lines)
    assert keeping.scene.books.costs.check() == []


def test_each_seal_names_the_one_before_it_of_the_same_currency(keeping: Keeping):
    before = {"EUR": bytes(32), "USD": bytes(32)}
    cards = {"EUR": keeping.world.card, "USD": keeping.scene.books.card(currency="USD")}
    for turn in range(3):
        for at, card in enumerate(cards.values()):
            keeping.serve(2 * turn + at, card=card)
            keeping.scene.catch_up()
        for number in keeping.periods()[-2:]:
            keeping.close(number)
            seal, entry = seal_of(keeping, number)
            assert seal.previous == before[seal.currency]
            before[seal.currency] = entry
    assert keeping.scene.books.costs.check() == []


# -- what comes late -----------------------------------------------------------------------------------------------


def test_a_receipt_that_is_booked_after_the_close_is_a_correction_in_the_next_period(
    keeping: Keeping,
):
    keeping.serve(0)
    keeping.scene.catch_up()
    (first,) = keeping.periods()
    late = keeping.serve(1)
    keeping.ask(first)
    assert keeping.closing().tick(made.NOW) == 0, "a receipt is in the log and not in the books"
    keeping.scene.catch_up()
    assert keeping.closing().tick(made.NOW) == 1
    later = keeping.serve(2)
    keeping.scene.catch_up()
    first, second = keeping.periods()
    assert [receipt for receipt, _ in keeping.lines(first)][-1] == late
    assert keeping.lines(second) == [(later, 1)]
    charges = list(keeping.books.charges(second))
    assert {(c.receipt, c.correction) for c in charges if c.receipt} == {(later, True)}
    row = keeping.books.period(second).row
    assert all(c.ended < row.start == c.period_start for c in charges if c.receipt)
    assert keeping.books.bill(second).total == Decimal("0.02")


def test_a_conviction_after_the_close_leaves_the_closed_bill_and_lowers_the_next(keeping: Keeping):
    """Without a minimum, what is taken back from a tenant that used nothing since is a credit, and stays one."""
    keeping.contract(rounding={"digits": 3}, credit_for_failed="50")
    receipt = keeping.serve(0, tokens=50)
    keeping.serve(1)
    keeping.scene.catch_up()
    (first,) = keeping.periods()
    keeping.close(first)
    before = keeping.sealed(first)
    keeping.scene.convict(receipt)
    keeping.scene.catch_up()
    assert keeping.sealed(first) == before
    assert keeping.books.bill(first).document() == before[2]
    second = keeping.periods()[-1]
    assert keeping.lines(second) == [(receipt, -1)]
    bill = keeping.books.bill(second)
    assert bill.usage == Decimal("-0.105")
    assert [(c.kind.value, c.amount) for c in bill.charges] == [
        ("credit", Decimal("-0.0525")), ("rounding", Decimal("-0.0005")),
    ]  # fmt: skip
    assert bill.total == Decimal("-0.158")
    keeping.close(second)
    assert -keeping.balances()["payable:alpha", "EUR"] == Decimal("0.105") + EACH - Decimal("0.158")
    assert keeping.scene.books.costs.check() == []


def test_what_is_restored_after_the_close_is_billed_again_in_the_next_period(keeping: Keeping):
    first = keeping.serve(0, tokens=20)
    retry = keeping.serve(0, tokens=30, attempt=1)
    keeping.scene.catch_up()
    (closed,) = keeping.periods()
    keeping.close(closed)
    assert keeping.lines(closed) == [(retry, 1)]
    keeping.scene.convict(retry)
    keeping.scene.catch_up()
    assert keeping.lines(keeping.periods()[-1]) == [(first, 1), (retry, -1)]
    assert keeping.books.bill(keeping.periods()[-1]).usage == Decimal("-0.02")


def test_a_later_verdict_changes_nothing_of_what_a_closed_bill_says_is_held(keeping: Keeping):
    receipt = keeping.serve(0)
    keeping.scene.verdict(receipt, "FAIL")
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    assert keeping.close(number).held == EACH
    keeping.scene.verdict(receipt, "PASS", "second")
    keeping.scene.catch_up()
    assert keeping.books.bill(number).held == EACH
    assert keeping.books.bill(number).document() == keeping.sealed(number)[2]


# -- credits and terms over several periods ------------------------------------------------------------------------


def test_a_credit_is_used_up_over_periods_and_once(keeping: Keeping):
    keeping.contract(rounding={"digits": 6}, credits=[{"id": "launch", "amount": "0.25"}])
    used = []
    for number in range(3):
        keeping.serve(number, tokens=50)  # 0.105
        keeping.scene.catch_up()
        period = keeping.periods()[-1]
        used.append(sum(-c.amount for c in keeping.close(period).charges if c.id == "launch"))
    assert used == [Decimal("0.105"), Decimal("0.105"), Decimal("0.04")]
    assert keeping.balances()["credit:acme", "EUR"] == Decimal("-0.25")
    assert keeping.scene.books.costs.check() == []


def test_a_credit_is_used_once_also_where_rate_cards_have_two_currencies(keeping: Keeping):
    """Both periods begin at the same time: neither is before the other, but one is closed first."""
    keeping.contract(
        currency="EUR", rounding={"digits": 6}, credits=[{"id": "launch", "amount": "0.15"}],
        fx=[{"currency": "USD", "valid_from": "2020-01-01", "rate": "1"}],
    )  # fmt: skip
    usd = keeping.scene.books.card(currency="USD")
    keeping.serve(0, tokens=50)
    keeping.serve(1, tokens=50, card=usd)
    keeping.scene.catch_up()
    first, second = keeping.periods()
    keeping.ask(second)
    assert keeping.closing().tick(made.NOW) == 0, "the first is not closed"
    keeping.ask(first)
    assert keeping.closing().tick(made.NOW) == 2
    used = [sum(-c.amount for c in keeping.books.bill(n).charges if c.id) for n in (first, second)]
    assert used == [Decimal("0.105"), Decimal("0.045")]
    assert keeping.scene.books.costs.check() == []


def test_one_contract_without_an_exchange_rate_stops_no_other_close(keeping: Keeping):
    keeping.contract(currency="CHF")
    keeping.serve(0)
    keeping.serve(1, node=1)
    keeping.scene.catch_up()
    stuck, fine = keeping.periods(operator="alpha")[0], keeping.periods(operator="beta")[0]
    keeping.ask(stuck)
    keeping.ask(fine)
    assert keeping.closing().tick(made.NOW) == 1
    assert (keeping.state(stuck), keeping.state(fine)) == (CLOSING, CLOSED)


def test_what_is_payable_after_an_exchange_is_the_bills_total_to_the_last_digit(keeping: Keeping):
    """An exchanged amount has more digits than a posting holds."""
    keeping.contract(
        **FX,
        per_request="0.000000000001",
        rounding={"digits": 2},
        discounts=[
            {"tiers": [{"above": "0", "percent": percent}]}
            for percent in ("8.709727", "8.797911", "15.9985")
        ],
    )
    price = Price(
        model_root=made.MODEL,
        input="0.000000000001",
        cached="0",
        output="0.123456789123",
        per=10**9,
    )
    card = keeping.scene.books.card(prices=(price,))
    for number in range(3):
        keeping.serve(number, tokens=63, card=card)
    keeping.scene.catch_up()
    (period,) = keeping.periods()
    bill = keeping.close(period)
    exponents = [charge.amount.as_tuple().exponent for charge in bill.charges]
    assert min(map(int, exponents)) < -24
    balances = keeping.balances()
    assert -balances.get(("payable:alpha", "CHF"), Decimal(0)) == bill.total
    assert ("payable:alpha", "EUR") not in balances
    assert ("expense:acme", "EUR") not in balances
    assert keeping.scene.books.costs.check() == []


# -- states --------------------------------------------------------------------------------------------------------


def test_a_period_that_is_not_over_is_not_closed(keeping: Keeping):
    keeping.serve()
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    with pytest.raises(CounterfoilError, match="not over") as caught:
        keeping.books.put_period(number, SOFT_CLOSED, by="finance")
    assert caught.value.code is Code.CONFLICT


def test_nothing_reopens_a_closed_period_or_books_into_it(keeping: Keeping):
    receipt = keeping.serve()
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    keeping.close(number)
    for state in (OPEN, SOFT_CLOSED, CLOSING):
        with pytest.raises(CounterfoilError, match="is closed") as caught:
            keeping.put(number, state)
        assert "never reopens" in (caught.value.remedy or "")
    assert keeping.closing().tick(MAX_MS) == 0
    columns = ", ".join(COLUMNS)
    again = columns.replace("receipt,", "sha256('x'),", 1).replace("order_entry", "sha256('y')")
    again = again.replace("log_index", "99999").replace("number", "77")
    inserts = (
        "INSERT INTO costs_period_events (period, turn, state, at, by) VALUES (%(period)s, 9, 'open', 1, 'x')",
        "INSERT INTO costs_corrections (receipt, turn, payable, at, period) VALUES (%(receipt)s, 7, true, 1, %(period)s)",
        f"INSERT INTO costs_rated_receipts ({columns}) SELECT {again} FROM costs_rated_receipts WHERE period = %(period)s",  # noqa: S608
    )
    values = {"period": number, "receipt": receipt}
    with psycopg.connect(keeping.world.database.worker_dsn) as worker:
        for statement in inserts:
            with pytest.raises(psycopg.errors.CheckViolation, match=f"period {number} is closed"):
                worker.execute(statement.encode(), values)
            worker.rollback()


def test_somebody_who_thinks_better_of_it_while_periods_are_closed_is_heard(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
):
    keeping.serve()
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    keeping.ask(number)
    closing = keeping.closing()
    asked = Closing._asked

    def meanwhile(self: Closing) -> list[int]:
        found = asked(self)
        keeping.put(number, SOFT_CLOSED)
        return found

    monkeypatch.setattr(Closing, "_asked", meanwhile)
    assert closing.tick(made.NOW) == 0
    assert keeping.state(number) == SOFT_CLOSED


# -- crashes -------------------------------------------------------------------------------------------------------


def test_a_seal_is_sent_again_until_the_log_has_it(keeping: Keeping):
    keeping.serve()
    keeping.scene.catch_up()
    (number,) = keeping.periods()
    keeping.ask(number)
    keeping.log.down = True
    with pytest.raises(ConnectionError):
        keeping.closing().tick(made.NOW)
    assert keeping.state(number) == CLOSED
    stored = keeping.sealed(number)[1]
    with pytest.raises(ConnectionError):
        keeping.closing().tick(made.NOW)
    keeping.log.down = False
    assert keeping.closing().tick(made.NOW) == 0
    assert keeping.log.sent == [stored]
    keeping.closing().tick(made.NOW)
    assert keeping.log.sent == [stored]


def child(keeping: Keeping, fault: str | None) -> int | None:
    database = keeping.world.database
    process = _children.Process(target=work, args=(database.worker_dsn, database.server_dsn, fault))
    process.start()
    process.join(120)
    return process.exitcode


def test_killed_at_any_point_of_rating_and_closing_nothing_is_lost_or_there_twice(keeping: Keeping):
    keeping.contract(minimum="1", credits=[{"id": "launch", "amount": "5"}])
    points = fault_points(audit_layer.costs)
    assert len(points) == 6
    for turn, point in enumerate(points):
        keeping.serve(2 * turn, tokens=30)
        keeping.scene.catch_up()
        keeping.scene.convict(keeping.serve(2 * turn + 1, tokens=20))
        number = keeping.periods()[-1]
        keeping.ask(number)
        assert child(keeping, f"{point}:kill") == -signal.SIGKILL, point
        keeping.scene.catch_up()
        keeping.closing().tick(made.NOW + turn)
        assert keeping.state(number) == CLOSED
        assert keeping.scene.books.costs.check() == [], point
    seals = keeping.world.rows("SELECT count(*) FROM trail_statements WHERE type = 'period-seal'")
    closes = keeping.world.rows("SELECT count(*) FROM costs_journals WHERE kind = 'close'")
    assert seals == closes == [(len(points),)]
    ((receipts,),) = keeping.world.rows("SELECT count(*) FROM costs_rated_receipts")
    assert receipts == 2 * len(points)
    used = [c.amount for n in keeping.periods() for c in keeping.books.bill(n).charges if c.id]
    assert sum(used) == -5


def test_two_workers_at_once_close_once(keeping: Keeping):
    for number in range(6):
        keeping.serve(number)
    keeping.scene.catch_up()
    (period,) = keeping.periods()
    keeping.ask(period)
    workers = [threading.Thread(target=keeping.closing().tick, args=(made.NOW,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    keeping.closing().tick(made.NOW)
    assert keeping.state(period) == CLOSED
    assert keeping.world.rows("SELECT count(*) FROM costs_journals WHERE kind = 'close'") == [(1,)]
    seals = keeping.world.rows("SELECT entry FROM trail_statements WHERE type = 'period-seal'")
    assert seals == [(entry_of(keeping.sealed(period)[1]),)]
    assert keeping.world.put(Submission(keeping.sealed(period)[1]))[0].entry == seals[0][0]
