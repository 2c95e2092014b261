"""A text is read by the declared convention, or refused; never by another one that happens to fit."""

from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.intake import values
from audit_layer.costs.intake.faults import Unreadable
from audit_layer.costs.intake.forms import DateForm, NumberForm
from audit_layer.costs.intake.table import Cell
from audit_layer.costs.intake.values import Day, Days, FocusNumbers, Models, Numbers


def number(text: str, **form) -> Decimal:
    return Numbers(NumberForm(**form)).read(Cell(text))


MOMENT = datetime(2026, 11, 3)  # noqa: DTZ001  # as workbooks have it
GERMAN = {"decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("1234.50", {}, "1234.5"),
        ("-0.005", {}, "-0.005"),
        ("−7", {}, "-7"),
        (".5", {}, "0.5"),
        ("007", {}, "7"),
        ("1.234.567,89", GERMAN, "1234567.89"),
        ("1234567,89", GERMAN, "1234567.89"),
        ("1.234", GERMAN, "1234"),
        ("1,234,567", {"thousands": ","}, "1234567"),
        ("1'234'567.05", {"thousands": "'"}, "1234567.05"),
        ("1\u202f234\u00a0567,05", {"decimal": ",", "thousands": " "}, "1234567.05"),
        ("12,50-", {"decimal": ",", "negative": "trailing-minus"}, "-12.5"),
        ("(12.50)", {"negative": "parentheses"}, "-12.5"),
        ("($1,200.00)", {"negative": "parentheses", "thousands": ",", "units": ["$"]}, "-1200"),
        ("-€ 12", {"units": ["€"]}, "-12"),
        ("€ -12", {"units": ["€"]}, "-12"),
        ("12,50 EUR", {"decimal": ",", "units": ["EUR"]}, "12.5"),
        ("99999999999999999999.999999999999999999", {}, "99999999999999999999.999999999999999999"),
        ("-99999999999999999999.999999999999999999", {}, "-99999999999999999999.999999999999999999"),
        ("0.1000000000000000000000000000", {}, "0.1"),
        ("-0", {}, "0"),
    ],
)  # fmt: skip
def test_a_number_is_read_exactly(text, form, value):
    read = number(text, **form)
    assert str(read.normalize(values._LONG)) == str(Decimal(value).normalize(values._LONG))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1,5", {}), ("1.5", {"decimal": ","}), ("1.23", GERMAN), ("1.2345", GERMAN), ("12.34.567", GERMAN),
        ("1.234.56", GERMAN), ("1,234", {}), ("1,23,456", {"thousands": ","}), ("1 234", {}), ("+5", {}), ("--5", {}),
        ("5-", {}), ("(5)", {}), ("-5", {"negative": "parentheses"}), ("-5", {"negative": "trailing-minus"}),
        ("(-5)", {"negative": "parentheses"}),
        ("1e5", {}), ("1E+05", {}), ("NaN", {}), ("Infinity", {}), ("-inf", {}), ("0x10", {}), ("1_000", {}), ("٣", {}),
        ("１２", {}),
        ("", {}), ("-", {}), (".", {}), ("€", {"units": ["€"]}), ("12 €", {}), ("1" * 21, {}), ("0." + "1" * 19, {}),
        ("1" * 100_000, {}), ("=1+1", {}), ("12 apples", {}), ("½", {}), ("1\x00", {}),
    ],
)  # fmt: skip
def test_a_number_in_another_form_is_refused(text, form):
    with pytest.raises(Unreadable):
        number(text, **form)


def test_what_was_expected_is_shown_in_the_files_own_form():
    with pytest.raises(Unreadable, match=r"like 1\.234,50 or -1\.234,50"):
        number("x", **GERMAN)
    with pytest.raises(Unreadable, match=r"like 1,234\.50 or \(1,234\.50\)"):
        number("x", thousands=",", negative="parentheses")


@given(st.decimals(places=18, min_value=-(10**19), max_value=10**19), st.sampled_from([".", ","]))
def test_every_amount_is_read_as_it_was_written(amount, mark):
    text = format(amount, "f").replace(".", mark)
    assert number(text, decimal=mark) == amount


@pytest.mark.parametrize(
    ("text", "value"),
    [("2500000.0", "2500000"), ("1.25E-6", "0.00000125"), ("-1e3", "-1000"), ("0E-40", "0"), ("0.10000000000000000000000", "0.1")],
)  # fmt: skip
def test_focus_numbers_may_have_an_exponent(text, value):
    assert FocusNumbers().read(Cell(text)) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["1,5", "1E99", "1E-19", "1E9999", "NaN", "", "0x1", "1.", "1E400"]
)
def test_other_focus_numbers_are_refused(text):
    with pytest.raises(Unreadable):
        FocusNumbers().read(Cell(text))


# -- days ----------------------------------------------------------------------------------------------------


def day(text: str, *formats: str, zone: str = "UTC") -> Day:
    return Days(DateForm(formats=formats or ("%Y-%m-%d",), time_zone=zone)).read(Cell(text))


@pytest.mark.parametrize(
    ("text", "formats", "zone", "meant"),
    [
        ("2026-11-03", (), "UTC", Day(date(2026, 11, 3), True)),
        ("03.11.2026", ("%d.%m.%Y",), "UTC", Day(date(2026, 11, 3), True)),
        ("3.11.2026", ("%d.%m.%Y",), "UTC", Day(date(2026, 11, 3), True)),
        ("11/03/2026", ("%m/%d/%Y",), "UTC", Day(date(2026, 11, 3), True)),
        ("3 Nov 2026", ("%d %b %Y",), "UTC", Day(date(2026, 11, 3), True)),
        ("03.11.2026 14:30", ("%d.%m.%Y %H:%M",), "UTC", Day(date(2026, 11, 3), False)),
        ("2026-11-02T23:00:00Z", ("rfc3339",), "Europe/Berlin", Day(date(2026, 11, 3), True)),
        ("2026-11-02T23:00:00Z", ("rfc3339",), "UTC", Day(date(2026, 11, 2), False)),
        ("2026-11-03 00:30 +0100", ("%Y-%m-%d %H:%M %z",), "Europe/Berlin", Day(date(2026, 11, 3), False)),
        ("1970-01-01T00:00:00Z", ("rfc3339",), "UTC", Day(date(1970, 1, 1), True)),
        ("2026-11-03", ("%d.%m.%Y", "%Y-%m-%d"), "UTC", Day(date(2026, 11, 3), True)),
        ("05/05/2026", ("%d/%m/%Y", "%m/%d/%Y"), "UTC", Day(date(2026, 5, 5), True)),
    ],
)  # fmt: skip
def test_a_day_is_the_day_in_the_zone_of_the_invoice(text, formats, zone, meant):
    assert day(text, *formats, zone=zone) == meant


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("2026-02-30", ()), ("03.11.26", ("%d.%m.%Y",)), ("11/31/2026", ("%m/%d/%Y",)), ("20261103", ()), ("46329", ()),
        ("1969-12-31", ()), ("0001-01-01", ()), ("9999-12-31T23:59:59Z", ()), ("", ()), ("٢٠٢٦-11-03", ()),
        ("2026-11-03T00:00:00Z", ()), ("yesterday", ("rfc3339",)),
    ],
)  # fmt: skip
def test_another_day_is_refused(text, formats):
    with pytest.raises(Unreadable):
        day(text, *formats)


def test_a_day_that_two_formats_read_differently_is_refused():
    with pytest.raises(Unreadable, match="do not read differently"):
        day("03/04/2026", "%d/%m/%Y", "%m/%d/%Y")


def test_a_number_is_no_day_and_a_date_no_number():
    with pytest.raises(Unreadable, match="plain number"):
        Days(DateForm()).read(Cell("46329", number=Decimal(46329)))
    with pytest.raises(Unreadable, match="not a date"):
        Numbers(NumberForm()).read(Cell("x", moment=MOMENT))
    with pytest.raises(Unreadable, match="not a date"):
        values.text_of(Cell("x", moment=MOMENT))


# -- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "＝", "＋", "－", "＠"])
def test_no_text_is_a_formula_to_a_spreadsheet(first):
    assert values.description(f"{first}SUM(A1)") == f"'{first}SUM(A1)"
    with pytest.raises(Unreadable, match="formula"):
        values.label(f"{first}1")


def test_a_description_is_one_line_without_controls_and_not_endless():
    assert values.description("a\x1b[31mb\x00c\u202ed") == "a?[31mb?c?d"
    assert len(values.description("x" * 10_000)) == 500


@pytest.mark.parametrize("text", ["", "a\x00b", "a" * 129, "a\u202eb", "\ud800"])
def test_an_identifier_can_be_printed_and_has_an_end(text):
    with pytest.raises(Unreadable):
        values.label(text)


@pytest.mark.parametrize("text", ["EUX", "eur", "EURO", "", "XXX", "ＥＵＲ", "TOK1"])
def test_an_unknown_currency_is_refused(text):
    with pytest.raises(Unreadable):
        values.currency(text)


def test_a_whole_number_is_whole_and_within_bounds():
    assert values.whole(Fraction("12.5") * 1000, least=0, most=10**9, what="n") == 12_500
    for number in (Fraction(1, 3), Fraction(-1), Fraction(10**9 + 1)):
        with pytest.raises(Unreadable):
            values.whole(number, least=0, most=10**9, what="n")


def test_without_names_only_a_hash_is_a_model():
    models = Models(None)
    assert models.root("AB" * 32) == b"\xab" * 32
    for text in ("small-7b", "ab" * 31, "g" * 64, "ab" * 33):
        with pytest.raises(Unreadable):
            models.root(text)
