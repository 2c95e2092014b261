"""A mapping file says everything, once, in words that are known; anything else is refused by name."""

import json

import pytest

from audit_layer.costs.intake.mapping import MAX_MAPPING, InvoiceMapping
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.intake.files import AMERICAN_MAPPING, GERMAN_MAPPING

SMALLEST = """
format = "csv"
[dates]
period_end = "last-day"
[columns]
amount = "Amount"
kind = 3
"""


def refusal(text: str | bytes) -> str:
    with pytest.raises(CounterfoilError) as caught:
        InvoiceMapping.parse(text if isinstance(text, bytes) else text.encode())
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.detail.isprintable()
    return caught.value.detail


@pytest.mark.parametrize("values", [GERMAN_MAPPING, AMERICAN_MAPPING])
def test_json_and_toml_say_the_same(values):
    assert InvoiceMapping.parse(json.dumps(values).encode()) == InvoiceMapping.model_validate(
        values
    )


def test_a_toml_file_is_read_with_what_it_leaves_out():
    made = InvoiceMapping.parse(SMALLEST.encode())
    assert made.columns == {"amount": "Amount", "kind": 3}
    assert (made.rows.header, made.numbers.decimal, made.file.encoding) == (1, ".", "utf-8")
    assert (made.dates.formats, made.dates.time_zone) == (("%Y-%m-%d",), "UTC")


def test_a_day_of_toml_is_a_constant():
    text = SMALLEST + "[constants]\nperiod_start = 2026-11-01\n"
    assert InvoiceMapping.parse(text.encode()).constants == {"period_start": "2026-11-01"}


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ("[colums]\n", "unknown field colums; did you mean columns?"),
        ("[numbers]\ndecimals = ','\n", "unknown field numbers.decimals; did you mean decimal?"),
        ("[constants]\noperater = 'x'\n", "did you mean operator?"),
        ("[cells]\ninvoiceid = 'B2'\n", "did you mean invoice_id?"),
        ("[values.knd]\na = 'input'\n", "did you mean kind?"),
        ("[values.kind]\nx = 'inputs'\n", "“x” cannot mean “inputs”"),
        ("[values.document]\nGutschrift = 'credit'\n", "one of invoice, credit-note"),
        ("[values.scale]\nk = '1000'\n", "wrong type"),
        ("[[rows.rules]]\ncolumn = 1\nequals = ''\nas = 'skp'\n", "did you mean skip?"),
        ("[[rows.rules]]\ncolumn = 1\nequal = ''\nas = 'skip'\n", "did you mean equals"),
        ("[[rows.rules]]\ncolumn = 1\nas = 'skip'\n", "one of equals, begins and contains"),
        ("[[rows.rules]]\ncolumn = 0\nequals = 'x'\nas = 'skip'\n", "column"),
        ("[numbers]\ndecimal = ','\nthousands = ','\n", "same character"),
        ("[numbers]\ndecimal = ';'\n", "decimal"),
        ("[file]\ndelimiter = ''\n", "delimiter"),
        ("[file]\ndelimiter = ';;'\n", "delimiter"),
        ("[file]\ndelimiter = \"'\"\nquote = \"'\"\n", "delimiter"),
        ("[file]\ndelimiter = '|'\nquote = '|'\n", "same character"),
        ("[file]\nencoding = 'utf-7'\n", "encoding"),
        ("[cells]\ntotal = 'b2'\n", "cells.total"),
        ("[cells]\ntotal = 'A0'\n", "cells.total"),
        ("[cells]\namount = 'B2'\n", "unknown name “amount”"),
        ("[constants]\nkind = 'input'\n", "unknown name “kind”"),
        ("[constants]\ntotal = 12.5\n", "constants.total"),
        ("[constants]\ntotal = true\n", "constants.total"),
        ("[cells]\ntotal = 'B2'\n[constants]\ntotal = '1'\n", "total is in cells and in constants"),
        ("[rows]\nheader = 0\n", "rows.header is 0"),
        ("[rows]\nheader = '1'\n", "rows.header"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(added, named):
    assert named in refusal(SMALLEST + added)


@pytest.mark.parametrize(
    ("formats", "named"),
    [(["%d.%m.%y"], "%y"), (["%d.%m"], "year, month and day"), (["%x"], "%x"), (["%Y-%m-%d %Y"], "twice"), ([], "formats"),
     (["%Y-%m-%d %"], "%")],
)  # fmt: skip
def test_a_date_format_says_a_whole_day_in_parts_that_no_locale_changes(formats, named):
    assert named in refusal(
        SMALLEST.replace("[dates]", f"[dates]\nformats = {json.dumps(formats)}")
    )


def test_an_unknown_time_zone_is_refused():
    assert "time zone" in refusal(SMALLEST.replace("[dates]", "[dates]\ntime_zone = 'Mars/Base'"))


@pytest.mark.parametrize(
    ("line", "named"),
    [('period_end = "last-day"', "dates.period_end"), ('amount = "Amount"', "columns.amount"), ("kind = 3", "columns.kind"),
     ('format = "csv"', "format")],
)  # fmt: skip
def test_what_must_be_said_is_asked_for(line, named):
    assert f"{named} is missing" in refusal(SMALLEST.replace(line, ""))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (SMALLEST + "[file]\nsheet = 'a'\n", "file.sheet says nothing about csv"),
        (SMALLEST.replace("csv", "xlsx") + "[file]\ndelimiter = ';'\n", "file.delimiter says nothing about xlsx"),
        ("format = 'focus'\n[numbers]\ndecimal = ','\n", "numbers says nothing about focus"),
        ("format = 'focus'\n[rows]\nlast = 7\n", "rows says nothing about focus"),
        ("format = 'focus'\n[dates]\nperiod_end = 'last-day'\n", "dates.period_end says nothing about focus"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(text, named):
    assert named in refusal(text)


def test_focus_says_itself_where_its_columns_are():
    focus = 'format = "focus"\n[columns]\n'
    assert InvoiceMapping.parse(f"{focus}kind = 'x_Direction'".encode()).columns
    assert "columns.amount" in refusal(f"{focus}amount = 'ListCost'")


@pytest.mark.parametrize(
    "data",
    [b"", b"format", b"\xff\xfe", b'{"format": "csv", "format": "xlsx"}', b"[" * 100_000, b"{" * 100_000, b"a = " + b"[" * 5000,
     b"#" * (MAX_MAPPING + 1), b"{}", b"format = 1"],
)  # fmt: skip
def test_something_else_is_refused_whatever_it_is(data):
    refusal(data)


def test_a_strangers_key_reaches_no_terminal_as_it_is():
    refusal(json.dumps({"format": "csv", "\x1b]0;x\x07": 1, "columns": {"\x1b[2J": 1}}))
