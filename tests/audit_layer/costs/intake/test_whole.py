"""What only the whole can tell: signs of credit notes, contained tax, sums, the period, line numbers."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from audit_layer.costs.intake.read import read_invoice
from audit_layer.costs.intake.whole import TAX_LINE
from tests.audit_layer.costs.intake.files import mapping
from tests.audit_layer.costs.intake.refusals import refusal

HEADER = "id,kind,n,price,amount\n"
VALUES: dict[str, Any] = {
    "format": "csv",
    "dates": {"period_end": "last-day"},
    "columns": {"line_id": "id", "kind": "kind", "quantity": "n", "unit_price": "price", "amount": "amount"},
    "constants": {
        "invoice_id": "N-1", "operator": "alpha", "currency": "EUR", "period_start": "2026-11-01",
        "period_end": "2026-11-30", "issued_at": "2026-12-01", "per": 1000,
    },
}  # fmt: skip


def read(rows: str, **changes):
    return read_invoice((HEADER + rows).encode(), mapping=mapping(VALUES, **changes))


def refused(rows: str, **changes) -> str:
    return refusal((HEADER + rows).encode(), mapping=mapping(VALUES, **changes))


# -- credit notes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "row"),
    [
        ("signed", "1,output,1000,0.60,-0.60"),
        ("signed", "1,output,-1000,0.60,-0.60"),
        ("signed", "1,output,1000,-0.60,-0.60"),
        ("unsigned", "1,output,1000,0.60,0.60"),
    ],
)
def test_a_credit_note_gives_back_however_it_is_signed(style, row):
    invoice = read(
        row,
        numbers={"credit_notes": style},
        constants={"document": "credit-note", "corrects": "N-0"},
    )
    [line] = invoice.lines
    assert (line.quantity, line.unit_price, line.amount) == (
        -1000,
        Decimal("0.60"),
        Decimal("-0.60"),
    )
    assert line.exact == Fraction(line.amount)
    assert (invoice.total, invoice.corrects) == (Decimal("-0.60"), "N-0")


def test_a_stated_total_of_a_credit_note_has_the_sign_of_its_lines():
    note = {"document": "credit-note", "total": "0.60"}
    made = read("1,output,1000,0.60,0.60", numbers={"credit_notes": "unsigned"}, constants=note)
    assert made.total == Decimal("-0.60")


@pytest.mark.parametrize(
    ("style", "row"), [("signed", "1,output,1000,0.60,0.60"), ("unsigned", "1,output,1000,0.60,-0.60")]
)  # fmt: skip
def test_a_credit_note_that_would_cost_something_is_refused(style, row):
    told = refused(row, numbers={"credit_notes": style}, constants={"document": "credit-note"})
    assert "total" in told
    assert "numbers.credit_notes says whether" in told


def test_which_document_it_is_may_be_said_in_its_own_words():
    changes = {
        "columns": {"document": 6},
        "values": {"document": {"Gutschrift": "credit-note", "Rechnung": "invoice"}},
    }
    content = f"{HEADER.strip()},Art\n1,output,1000,0.60,-0.60,Gutschrift\n".encode()
    assert read_invoice(content, mapping=mapping(VALUES, **changes)).total == Decimal("-0.6")
    other = content.replace(b"Gutschrift", b"Gutschein")
    assert "document: found “Gutschein”, expected invoice or credit-note" in refusal(
        other, mapping=mapping(VALUES, **changes)
    )


# -- discounts, tax ------------------------------------------------------------------------------------------


def test_what_is_deducted_without_a_sign_is_deducted():
    made = read("1,output,1000,0.60,0.60\n2,discount,,,0.06", numbers={"deducted": ["discount"]})
    assert [line.amount for line in made.lines] == [Decimal("0.60"), Decimal("-0.06")]
    assert 'set numbers.deducted = ["discount"]' in refused("2,discount,,,0.06")
    assert "no sign" in refused("2,discount,,,-0.06", numbers={"deducted": ["discount"]})


def test_a_discounts_own_quantity_says_nothing():
    [_, line] = read("1,output,1000,0.60,0.60\n2,discount,1 x,10 %,-0.06").lines
    assert (line.quantity, line.unit_price) == (None, None)


def test_tax_that_amounts_contain_becomes_a_line_and_nothing_is_lost():
    made = read(
        "1,output,1000,100,119.00\n2,input,1000,10,11.90\n3,fee,,,0.10",
        tax={"amounts": "gross"},
        constants={
            "tax_rate": "19",
            "total": "131.00",
            "tax_total": "20.92",
            "net_total": "110.08",
        },
    )
    assert [line.amount for line in made.lines[:2]] == [100, 10]
    assert made.lines[2].amount == Decimal("0.084033613445")
    assert (made.lines[3].kind, made.lines[3].line_id) == ("tax", TAX_LINE)
    assert sum(line.amount for line in made.lines) == made.total == 131


def test_gross_prices_are_compared_as_net_ones():
    made = read(
        "1,output,1000,119,119.00", tax={"amounts": "gross", "unit_prices": "gross"}, constants={"tax_rate": "19"}
    )  # fmt: skip
    assert (made.lines[0].unit_price, made.lines[0].amount) == (100, 100)


def test_gross_needs_a_rate_and_no_tax_of_its_own():
    assert "row 2, tax_rate: is stated nowhere" in refused("1,fee,,,1", tax={"amounts": "gross"})
    told = refused("1,tax,,,1", tax={"amounts": "gross"}, constants={"tax_rate": "19"})
    assert "no line for tax" in told
    assert "found “101”, expected a tax rate" in refused("1,fee,,,1", constants={"tax_rate": "101"})


# -- sums ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("total", "3.509999999", "3.51"),
        ("total", "3.490000001", "3.49"),
        ("net_total", "3.009", "3.01"),
        ("tax_total", "0.491", "0.49"),
    ],
)
def test_stated_sums_are_those_of_the_lines_within_the_minor_unit(field, good, bad):
    rows = "1,output,1000,3.00,3.00\n2,tax,,,0.50"
    total = Decimal(good) if field == "total" else Decimal("3.5")
    made = read(rows, constants={field: good})
    assert (made.total, made.rounding) == (total, total - Decimal("3.5"))
    assert f"{field}: found “{bad}”" in refused(rows, constants={field: bad})


def test_a_total_may_be_that_of_the_amounts_before_each_was_rounded():
    rows = "".join(f"{at},output,1000,0.006,0.01\n" for at in range(100))
    made = read(rows, constants={"total": "0.60"})
    assert (made.total, made.rounding) == (Decimal("0.60"), Decimal("-0.40"))
    assert read(rows, constants={"total": "1.00"}).rounding == 0
    assert "total: found “0.80”" in refused(rows, constants={"total": "0.80"})


@pytest.mark.parametrize(
    ("currency", "amount", "fits"),
    [("EUR", "0.609", True), ("EUR", "0.61", False), ("JPY", "1.59", True), ("JPY", "1.6", False), ("KWD", "0.6009", True),
     ("KWD", "0.601", False)],
)  # fmt: skip
def test_an_amount_may_be_rounded_by_less_than_its_currencys_minor_unit(currency, amount, fits):
    row, constants = f"1,output,1000,0.60,{amount}", {"currency": currency}
    if fits:
        assert read(row, constants=constants).lines[0].amount == Decimal(amount)
    else:
        assert "expected 1000 × 0.60 / 1000 within rounding" in refused(row, constants=constants)


def test_a_line_for_rounding_rounds():
    assert read("1,output,1000,0.60,0.604\n2,rounding,,,-0.004").total == Decimal("0.600")
    assert "minor unit" in refused("1,rounding,,,0.01")


def test_a_line_may_have_an_amount_alone():
    [line] = read("1,output,,,3.00").lines
    assert (line.quantity, line.exact) == (None, 3)


def test_usage_costs_nothing_or_something():
    assert "amount: found “-3.00”, expected zero or more" in refused("1,output,,,-3.00")


def test_amounts_of_forty_digits_add_up_exactly():
    big = "99999999999999999999.999999999999999999"
    made = read(f"1,fee,,,{big}\n2,fee,,,{big}\n3,credit,,,-{big}", constants={"total": big})
    assert made.total == Decimal(big)
    assert made.rounding == 0


# -- period and numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "means", "day"),
    [("2026-11-30", "last-day", date(2026, 12, 1)), ("2026-12-01", "day-after", date(2026, 12, 1)),
     ("2026-11-01", "last-day", date(2026, 11, 2)), ("9999-12-30", "last-day", date(9999, 12, 31))],
)  # fmt: skip
def test_the_end_of_the_period_is_what_the_mapping_says(end, means, day):
    made = read("1,fee,,,1", constants={"period_end": end}, dates={"period_end": means})
    assert made.end == day


@pytest.mark.parametrize(
    ("end", "means"), [("2026-11-01", "day-after"), ("2026-10-31", "last-day"), ("9999-12-31", "last-day")]
)  # fmt: skip
def test_a_period_without_a_day_is_refused(end, means):
    told = refused("1,fee,,,1", constants={"period_end": end}, dates={"period_end": means})
    assert "period_end" in told


def test_a_file_without_a_line_is_refused():
    assert "no row is a line" in refused("")
    assert "no row is a line" in refused(",,,,\n\n")


def test_lines_without_numbers_of_their_own_are_numbered_by_their_rows():
    made = read("1,fee,,,1\n\n7,fee,,,2", columns={"line_id": ...})
    assert [line.line_id for line in made.lines] == ["row-2", "row-4"]
