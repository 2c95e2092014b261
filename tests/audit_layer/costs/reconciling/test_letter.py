"""Letters and sentences: they say what differs, and what a stranger named does nothing in them."""

import unicodedata
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.billed import BilledInvoice
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.invoicing import Outcome
from audit_layer.costs.reconciling.letter import letter_html, letter_text
from audit_layer.costs.reconciling.variance import reconcile
from audit_layer.costs.reconciling.words import headline, in_words
from tests.audit_layer.costs.reconciling.built import (
    INPUT,
    ONE,
    OUTPUT,
    PRICES,
    TWO,
    amount,
    invoice,
    owed,
    proven,
    tokens,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "N-1\r\nTo: somebody else\r\nWe owe you everything",
    "\x1b[2J\x1b]0;owned\x07",
    "N\u202e1\u2066\u200b",
    "&lt;b&gt;&#x3c;",
    "N" * 5000,
    "\x00\x7f\x85\u2028\u2029",
    "*/</style><script>",
)  # fmt: skip
TAGS = {
    "html", "head", "meta", "title", "style", "body", "p", "h1", "strong", "table", "tr", "th", "td", "ol", "li",
}  # fmt: skip
ATTRIBUTES = {("lang", "en"), ("charset", "utf-8"), ("class", "n")}


def outcome(billed: BilledInvoice, *, name: str = "small", **changes: object) -> Outcome:
    found = owed(proven(input=1000, output=100), proven("two", TWO, output=50), **changes)
    return Outcome(1, billed, reconcile([billed], found), (), {ONE: name, TWO: name})


def hostile(text: str) -> Outcome:
    """An outcome in which everything that an operator may name is hostile."""
    lines = (
        tokens(INPUT, 1000, place=text, line_id=text, node=text, tenant=text),
        tokens(OUTPUT, 161, node=text, tenant=text, description=text),
        tokens(OUTPUT, 7, "66", place=text, node="two", model_root=TWO, tenant=text),
    )  # fmt: skip
    return outcome(invoice(*lines, invoice_id=text), name=text)


class Page(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[tuple[str, str | None]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= set(attrs)


def steering(text: str) -> set[str]:
    return {
        c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    }


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_do_nothing_in_a_letter(text: str):
    plain = letter_text(outcome(invoice(tokens(OUTPUT, 161))))
    found = hostile(text)
    letter = letter_text(found)
    assert steering(letter) == set()
    assert "To: somebody else" not in {line.strip() for line in letter.splitlines()}
    assert all(len(line) < 8000 for line in letter.splitlines())
    assert letter.splitlines()[0] == plain.splitlines()[0] == "To alpha"
    page = letter_html(found)
    assert steering(page) == set()
    parsed = Page(page)
    assert set(parsed.tags) <= TAGS
    assert parsed.tags.count("style") == 1
    assert parsed.attributes <= ATTRIBUTES


@given(st.text(max_size=60))
def test_no_text_at_all_adds_a_line_or_a_tag(text: str):
    calm, given_ = hostile("N-1"), hostile(text)
    assert len(letter_text(given_).split("\n")) == len(letter_text(calm).split("\n"))
    assert Page(letter_html(given_)).tags == Page(letter_html(calm)).tags
    assert "\n" not in headline(given_.result)
    for sentence in in_words(given_.result, lambda _root: text):
        assert steering(sentence.text) == set()
        assert "\n" not in sentence.text


def test_a_letter_says_how_much_where_and_on_which_lines():
    billed = invoice(
        tokens(INPUT, 1000, place="row 2"), tokens(OUTPUT, 161, place="row 3"),
        tokens(OUTPUT, 50, place="row 4", model_root=TWO),
    )  # fmt: skip
    letter = letter_text(outcome(billed))
    assert (
        "Invoice N-1 bills 0.003660 EUR more than the 0.039000 EUR that are proven (9.38 %)."
        in letter
    )
    assert "1. quantity" in letter
    assert "model small, tenant acme: 0.003660 EUR (+61 output tokens), row 2, row 3." in letter
    assert "\n2. " not in letter
    assert "we ask you to correct the invoice" in letter


def test_a_letter_about_an_invoice_that_is_right_asks_for_nothing():
    lines = (tokens(INPUT, 1000), tokens(OUTPUT, 100), tokens(OUTPUT, 50, model_root=TWO))
    letter = letter_text(outcome(invoice(*lines)))
    assert "bills exactly what is proven" in letter
    assert "We have nothing to object to." in letter


def test_what_is_held_is_told():
    letter = letter_text(outcome(invoice(tokens(INPUT, 1000)), held=Fraction(1, 100)))
    assert "Of it, 0.010000 EUR is held" in letter


@pytest.mark.parametrize(
    ("rounding", "told"),
    [("0.0099", False), ("-0.0099", False), ("0.01", True), ("5", True), ("-5", True)],
)
def test_rounding_is_only_petty_below_the_smallest_unit(rounding: str, told: bool):
    """What an operator calls rounding may be anything: beyond a cent it is disputed like the rest."""
    lines = (tokens(INPUT, 1000), tokens(OUTPUT, 100), tokens(OUTPUT, 50, model_root=TWO))
    found = outcome(invoice(*lines, rounding=rounding))
    assert ("rounding of amounts" in letter_text(found)) is told
    (sentence,) = in_words(found.result, lambda _root: "small")
    assert sentence.do.startswith("Dispute") is told


def test_yen_are_rounded_to_one_and_tokens_of_their_own_hardly_at_all():
    for currency, petty in (("JPY", "0.99"), ("CREDITS", "0.0000009")):
        lines = (tokens(OUTPUT, 100), tokens(INPUT, 1000), tokens(OUTPUT, 50, model_root=TWO))
        given_ = invoice(*lines, rounding=petty, currency=currency)
        found = owed(
            proven(input=1000, output=100), proven("two", TWO, output=50),
            currency=currency, billing_currency=currency,
        )  # fmt: skip
        (sentence,) = in_words(reconcile([given_], found), lambda _root: "")
        assert sentence.do.startswith("Nothing")
        more = replace(given_, total=given_.total + Decimal(petty))
        (sentence,) = in_words(reconcile([more], found), lambda _root: "")
        assert sentence.do.startswith("Dispute")


def test_the_largest_part_is_told_first_and_terms_by_name():
    billed = invoice(
        tokens(INPUT, 1000), tokens(OUTPUT, 161), tokens(OUTPUT, 50, model_root=TWO),
        amount(ChargeKind.CREDIT, "1"),
    )  # fmt: skip
    sentences = in_words(outcome(billed).result, lambda _root: "small")
    assert [sentence.part for sentence in sentences] == ["price", "quantity"]
    assert "credit: 1.000000 EUR" in sentences[0].text
    assert sentences[1].amount == 61 * PRICES[OUTPUT]
