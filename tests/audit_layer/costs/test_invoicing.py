"""Cases over stored invoices: tolerance between the same parties, credit notes, decisions and who made them."""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from audit_layer.costs.invoicing import Outcome
from audit_layer.costs.reconciling.cases import State
from audit_layer.costs.stored_invoices import Submitted
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.keeping import Keeping
from tests.audit_layer.costs.test_books import Scene, scene
from tests.audit_layer.costs.test_service import AFTER, DAY, EACH, FIRST, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "scene", "world"]
TOLERANCE = {"absolute": "0.003", "cumulative": "0.005"}


@pytest.fixture
def keeping(scene: Scene) -> Keeping:
    """One receipt of 5 input and 7 output tokens is booked."""
    found = Keeping(scene)
    scene.receipt(0)
    scene.catch_up()
    return found


def over(keeping: Keeping, number: str, tokens: int = 1, **changes: Any) -> int:
    """Take an invoice that bills some output tokens too many, at 0.002 each."""
    lines = (line("input", 5, "1"), line("output", 7 + tokens, "2"))
    return keeping.scene.books.take(invoice(*lines, invoice_id=number, **changes))


def compared(keeping: Keeping, number: int) -> Outcome:
    return keeping.scene.books.invoicing.reconcile(number, by="ann")


def state(keeping: Keeping, number: int) -> State:
    return compared(keeping, number).history[-1].state


def note(number: str, corrects: str, amount: str) -> Submitted:
    """A credit note as CSV, with the mapping that reads it."""
    mapping = {
        "format": "csv",
        "columns": {"kind": "kind", "amount": "amount"},
        "dates": {"period_end": "day-after"},
        "constants": {
            "invoice_id": number, "operator": "alpha", "currency": "EUR", "period_start": str(FIRST), "period_end": str(AFTER),
            "issued_at": str(DAY), "document": "credit-note", "corrects": corrects, "tenant": "acme",
        },
    }  # fmt: skip
    return Submitted(
        f"kind,amount\ncredit,{amount}\n".encode(), mapping=json.dumps(mapping).encode()
    )


def test_small_variances_add_up_in_whatever_order_invoices_are_compared(keeping: Keeping):
    """Two of 0.002 are tolerated, a third is not: also when the latest invoice is compared first."""
    keeping.contract(tolerance=TOLERANCE)
    taken = [over(keeping, f"N-{turn}") for turn in range(3)]
    states = [state(keeping, number) for number in reversed(taken)]
    assert states == [State.WITHIN_TOLERANCE, State.WITHIN_TOLERANCE, State.OPEN]
    assert [state(keeping, number) for number in taken] == [State.OPEN, *[State.WITHIN_TOLERANCE] * 2]  # fmt: skip


def test_what_was_settled_begins_the_sum_anew(keeping: Keeping):
    keeping.contract(tolerance=TOLERANCE)
    invoicing = keeping.scene.books.invoicing
    numbers = [over(keeping, f"N-{turn}") for turn in range(3)]
    assert [state(keeping, number) for number in numbers][-1] is State.OPEN
    invoicing.move(numbers[-1], State.WRITE_OFF_ASKED, by="ann", note="all of them")
    invoicing.move(numbers[-1], State.WRITTEN_OFF, by="bob", note="agreed")
    later = [over(keeping, f"L-{turn}") for turn in range(3)]
    assert [state(keeping, number) for number in later] == [State.WITHIN_TOLERANCE, State.WITHIN_TOLERANCE, State.OPEN]  # fmt: skip


def test_variances_of_other_tenants_do_not_count(keeping: Keeping):
    keeping.contract(tolerance=TOLERANCE)
    keeping.contract(tolerance=TOLERANCE, tenant="bolt")
    keeping.scene.books.receipt("bolt")
    keeping.scene.catch_up()
    mine = [over(keeping, f"N-{turn}") for turn in range(2)]
    assert [state(keeping, number) for number in mine] == [State.WITHIN_TOLERANCE] * 2
    lines = (line("input", 5, "1", tenant="bolt"), line("output", 8, "2", tenant="bolt"))
    others = keeping.scene.books.take(invoice(*lines, invoice_id="B-1"))
    assert state(keeping, others) is State.WITHIN_TOLERANCE


def test_a_write_off_needs_a_second_person_and_holds_for_its_amount_alone(keeping: Keeping):
    invoicing = keeping.scene.books.invoicing
    number = over(keeping, "N-1", 100)
    assert state(keeping, number) is State.OPEN
    invoicing.move(number, State.WRITE_OFF_ASKED, by="ann", note="not worth it")
    with pytest.raises(CounterfoilError, match="ann asked") as caught:
        invoicing.move(number, State.WRITTEN_OFF, by="ann", note="yes")
    assert caught.value.code is Code.FORBIDDEN
    keeping.scene.convict(keeping.scene.books.world.rows("SELECT receipt FROM costs_rated_receipts")[0][0])  # fmt: skip
    keeping.scene.catch_up()
    with pytest.raises(CounterfoilError, match="has changed") as caught:
        invoicing.move(number, State.WRITTEN_OFF, by="bob", note="yes")
    assert caught.value.code is Code.CONFLICT
    outcome = compared(keeping, number)
    assert outcome.history[-1].state is State.OPEN
    assert outcome.result.gap == Fraction("0.2") + Fraction(EACH)
    invoicing.move(number, State.WRITE_OFF_ASKED, by="ann", note="still")
    assert invoicing.move(number, State.WRITTEN_OFF, by="bob", note="yes").history[-1].by == "bob"


def test_a_decision_stands_while_the_variance_does(keeping: Keeping):
    invoicing = keeping.scene.books.invoicing
    number = over(keeping, "N-1", 100)
    state(keeping, number)
    invoicing.move(number, State.DISPUTED, by="ann", note="too much")
    assert state(keeping, number) is State.DISPUTED
    with pytest.raises(CounterfoilError, match="a note of 1 to"):
        invoicing.move(number, State.OPEN, by="ann", note=" ")
    assert [event.by for event in compared(keeping, number).history] == ["ann", "ann"]


def test_nothing_is_decided_before_it_was_compared(keeping: Keeping):
    number = over(keeping, "N-1")
    with pytest.raises(CounterfoilError, match="has not been compared") as caught:
        keeping.scene.books.invoicing.move(number, State.DISPUTED, by="ann", note="x")
    assert caught.value.code is Code.CONFLICT


def test_a_credit_note_is_compared_with_what_it_corrects(keeping: Keeping):
    invoicing = keeping.scene.books.invoicing
    number = over(keeping, "N-1", 100)
    assert state(keeping, number) is State.OPEN
    noted = invoicing.take(note("C-1", "N-1", "-0.20"), by="ann")
    outcome = compared(keeping, noted)
    assert outcome.id == number
    assert outcome.result.gap == 0
    assert outcome.history[-1].state is State.MATCHED
    assert outcome.invoice.invoice_id == "N-1"
    by_id = {item.id: item.state for item in invoicing.list()}
    assert by_id == {number: State.MATCHED, noted: None}
    alone = invoicing.take(note("C-2", "N-404", "-0.20"), by="ann")
    assert compared(keeping, alone).id == alone


def test_terms_of_another_currency_are_not_expected_of_an_invoice(keeping: Keeping):
    """Each currency of rate cards has its own bill: with its own minimum."""
    keeping.contract(minimum="1")
    usd = keeping.scene.books.card(currency="USD")
    keeping.serve(1, card=usd)
    keeping.scene.catch_up()
    lines = (line("input", 5, "1"), line("output", 7, "2"))
    month = keeping.books.period(keeping.periods()[0]).row
    assert month.currency == "EUR"
    end = {"period_end": f"{DAY.year + DAY.month // 12}-{DAY.month % 12 + 1:02d}-01"}
    result = compared(keeping, keeping.scene.books.take(invoice(*lines, **end))).result
    assert result.terms == {"minimum": Fraction(-1) + Fraction(EACH)}


def test_cached_tokens_that_the_contract_bills_as_fresh_are_right_either_way(keeping: Keeping):
    """All at the input price, or metered with the difference as a fee; cached at its own price is too little."""
    keeping.contract(cached="as-input", tenant="acme")
    keeping.serve(1, cached=4)
    keeping.scene.catch_up()
    end = {"period_end": f"{DAY.year + DAY.month // 12}-{DAY.month % 12 + 1:02d}-01"}

    def found(number: str, *lines: dict[str, Any]) -> dict[str, Fraction]:
        content = invoice(*lines, invoice_id=number, **end)
        result = compared(keeping, keeping.scene.books.take(content)).result
        return {name: value for name, value in result.parts.items() if value}

    assert found("N-1", line("input", 10, "1"), line("output", 14, "2")) == {}
    split = (line("input", 6, "1"), line("output", 14, "2"))
    assert found("N-2", *split, line("cached", 4, "1")) == {}
    assert found("N-3", *split, line("cached", 4, "0.5")) == {"price": Fraction("-0.002")}


def test_what_is_priced_in_two_other_currencies_is_not_guessed(keeping: Keeping):
    keeping.serve(1, card=keeping.scene.books.card(currency="USD"))
    keeping.scene.catch_up()
    taken = keeping.scene.books.take(invoice(line("output", 7, "2"), currency="CHF"))
    with pytest.raises(CounterfoilError, match="rate cards in EUR, USD") as caught:
        compared(keeping, taken)
    assert caught.value.code is Code.CONFLICT


def test_tenants_with_different_exchange_rates_need_an_invoice_each(keeping: Keeping):
    for tenant, rate in (("acme", "0.9"), ("bolt", "0.8")):
        fx = [{"currency": "EUR", "valid_from": "2020-01-01", "rate": rate}]
        keeping.contract(tenant=tenant, currency="CHF", fx=fx)
    keeping.scene.books.receipt("bolt")
    keeping.scene.catch_up()
    both = (line("output", 7, "1.8"), line("output", 7, "1.6", tenant="bolt", line_id="b"))
    taken = keeping.scene.books.take(invoice(*both, currency="CHF"))
    with pytest.raises(CounterfoilError, match="different exchange rates") as caught:
        compared(keeping, taken)
    assert caught.value.code is Code.CONFLICT
    mine = (line("input", 5, "0.9"), line("output", 7, "1.8"))
    number = keeping.scene.books.take(invoice(*mine, currency="CHF", invoice_id="A"))
    assert compared(keeping, number).result.proven == Fraction(EACH) * Fraction(9, 10)
    assert compared(keeping, number).result.gap == 0


def test_the_node_that_bills_for_a_tenant_is_told_by_its_lines(keeping: Keeping):
    """An invoice that names one tenant is compared with that tenant's receipts alone."""
    keeping.scene.books.receipt("bolt")
    keeping.scene.catch_up()
    result = compared(keeping, over(keeping, "N-1", 0)).result
    assert result.gap == 0
    assert result.proven == Fraction(EACH)
    assert Decimal("0.019") == EACH
    assert made.MODEL in {key.key.model_root for key in result.keys}
