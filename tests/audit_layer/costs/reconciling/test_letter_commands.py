"""The letter that disputes an invoice: what it says is done by commands that exist, for the lines that are disputed."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

from audit_layer.commands.cost import cost
from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.invoicing import Outcome
from audit_layer.costs.reconciling.letter import MAX_NAMED, letter_html, letter_text
from audit_layer.costs.reconciling.variance import Key, Owed, Proven, reconcile
from shared.codec.moment import days_period

FIRST, END = date(2026, 3, 1), date(2026, 4, 1)
LINE = BilledLine(
    place="row 1", line_id="a", kind=ChargeKind.OUTPUT, amount=Decimal(2), quantity=1000,
    unit_price=Decimal(2), per=1000, tenant="acme", node="one", model_root=bytes(32), day=FIRST,
)  # fmt: skip


def outcome(lines: Sequence[BilledLine], proven: dict[str, int]) -> Outcome:
    """Return what becomes of an invoice when these output tokens are proven, by node."""
    total = sum((line.amount for line in lines), Decimal(0))
    invoice = BilledInvoice(
        invoice_id="N-1", operator="alpha", currency="EUR", first=FIRST, end=END,
        period=days_period(FIRST, END), issued=END, lines=lines, rounding=Decimal(0), total=total,
    )  # fmt: skip
    owed = Owed(
        proven=[
            Proven(
                Key("acme", node, bytes(32)),
                {ChargeKind.OUTPUT: count},
                dict.fromkeys(ChargeKind, Fraction(2, 1000)),
            )
            for node, count in proven.items()
        ],
        currency="EUR",
        billing_currency="EUR",
    )
    return Outcome(7, invoice, reconcile([invoice], owed), [], {})


def commands(text: str) -> list[list[str]]:
    """Return the commands of a letter, as a shell reads them."""
    found = [line.strip() for line in text.split("\n")]
    return [shlex.split(line) for line in found if line.startswith("counterfoil ")]


def test_a_disputed_line_has_the_command_that_proves_it_and_an_exact_one_has_none():
    good = replace(LINE, line_id="b", place="row 2", node="two")
    text = letter_text(outcome([LINE, good], {"one": 900, "two": 1000}))
    assert commands(text) == [["counterfoil", "cost", "prove", "--out", "line-1.json", "7", "a"]]
    assert "`counterfoil cost prove --verify FILE`" in text


def test_a_lines_number_is_one_word_for_the_shell_and_no_option():
    hostile = ["--help", "x y", "$(rm -rf ~)", "`id`", "a'b", "<b>"]
    lines = [replace(LINE, line_id=each, place=f"row {at}") for at, each in enumerate(hostile)]
    text = letter_text(outcome(lines, {"one": 1}))
    for words, line_id in zip(commands(text), hostile, strict=True):
        parsed = cost.commands["prove"].make_context("prove", words[3:], resilient_parsing=True)
        assert (parsed.params["number"], parsed.params["line_id"]) == (7, line_id)
    page = letter_html(outcome(lines, {"one": 1}))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_a_long_letter_counts_the_rest():
    lines = [replace(LINE, line_id=f"n-{at}", place=f"row {at}") for at in range(MAX_NAMED + 3)]
    text = letter_text(outcome(lines, {"one": 1}))
    assert len(commands(text)) == MAX_NAMED
    assert "3 more lines" in text


def test_an_exact_invoice_names_no_command():
    assert commands(letter_text(outcome([LINE], {"one": 1000}))) == []
