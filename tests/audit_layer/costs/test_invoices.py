"""An invoice file is read as it was meant, or refused with the name of the wrong field."""

import json
from datetime import date
from pathlib import Path

import pytest

from audit_layer.costs.invoices import Invoice
from shared.codec.moment import parse_rfc3339, to_rfc3339
from shared.runtime.errors import Code, CounterfoilError

LINE = {
    "line_id": "1", "tenant": "acme", "node": "node-a", "model_root": "ab" * 32, "day": "2026-11-27", "kind": "output",
    "quantity": 100, "unit_price": "0.60", "per": 1000, "amount": "0.06",
}  # fmt: skip
VALUES = {
    "invoice_id": "N-1", "operator": "alpha", "currency": "EUR", "period_start": "2026-11-01",
    "period_end": "2026-12-01", "issued_at": "2026-12-01T00:00:00Z", "lines": [LINE], "rounding": "0", "total": "0.06",
}  # fmt: skip


def text(**changes: object) -> str:
    return json.dumps({k: v for k, v in {**VALUES, **changes}.items() if v is not ...})


def parse(**changes: object) -> Invoice:
    return Invoice.parse(text(**changes).encode())


def line(**changes: object) -> list[dict[str, object]]:
    return [{**LINE, **changes}]


def refusal(data: str | bytes) -> str:
    with pytest.raises(CounterfoilError) as caught:
        Invoice.parse(data if isinstance(data, bytes) else data.encode())
    assert caught.value.code is Code.MALFORMED
    assert caught.value.remedy
    assert caught.value.detail.isprintable()
    return caught.value.detail


# -- periods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "zone", "from_", "to"),
    [
        ("2026-11-01", "2026-12-01", None, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-11-01", "2026-12-01", "Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00.000Z", None, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-11-01T00:00:00+01:00", "2026-12-01T00:00:00+01:00", None, "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00", None, "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
        ("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("2026-10-31T23:00:00Z", "2026-12-01", "Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("9999-12-01", "9999-12-31", None, "9999-12-01T00:00:00Z", "9999-12-31T00:00:00Z"),
    ],
)  # fmt: skip
def test_a_period_is_the_days_that_its_bounds_mean(start, end, zone, from_, to):
    made = parse(period_start=start, period_end=end, time_zone=zone)
    assert to_rfc3339(made.days.period.start) == to_rfc3339(parse_rfc3339(from_))
    assert to_rfc3339(made.days.period.end) == to_rfc3339(parse_rfc3339(to))
    assert made.days.first.day == 1


def test_the_days_of_a_berlin_month_are_berlin_days():
    for changes in (
        {"period_start": "2026-11-01T00:00:00+01:00", "period_end": "2026-12-01T00:00:00+01:00"},
        {"period_start": "2026-11-01", "period_end": "2026-12-01", "time_zone": "Europe/Berlin"},
    ):
        days = parse(**changes).days
        assert date(2026, 11, 1) in days
        assert date(2026, 11, 30) in days
        assert date(2026, 10, 31) not in days
        assert date(2026, 12, 1) not in days


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"period_start": "2026-10-31T23:00:00Z", "period_end": "2026-11-30T23:00:00Z"}, "time_zone"),
        ({"period_start": "2026-11-01T12:00:00Z", "period_end": "2026-12-01T00:00:00Z"}, "period_start"),
        ({"period_end": "2026-12-01T00:00:00Z"}, "time_zone"),
        ({"period_end": "2026-11-30T12:00:00Z", "time_zone": "Europe/Berlin"}, "period_end"),
        ({"period_start": "2026-12-01", "period_end": "2026-11-01"}, "not after period_start 2026-12-01"),
        ({"period_start": "2026-11-01", "period_end": "2026-11-01"}, "not after"),
        ({"period_start": 1793491200}, "period_start"),
        ({"period_start": "1793491200"}, "period_start"),
        ({"period_start": "20261101"}, "period_start"),
        ({"period_start": "2026-11-31"}, "period_start"),
        ({"period_start": "0000-11-01"}, "period_start"),
        ({"period_end": "9999-12-31", "time_zone": "Pacific/Honolulu"}, "1970 … 9999"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"issued_at": "yesterday"}, "issued_at"),
        ({"lines": line(day=20000)}, r"lines\.0\.day"),
        ({"lines": line(day="20000")}, r"lines\.0\.day"),
        ({"lines": line(day="2026-11-27T00:00:00Z")}, r"lines\.0\.day"),
    ],
)  # fmt: skip
def test_a_period_that_cannot_be_honoured_is_refused_by_name(changes, named):
    with pytest.raises(CounterfoilError, match=named) as caught:
        parse(**changes)
    assert caught.value.code is Code.MALFORMED


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "point"),
    [("X\t", "U+0009"), ("X\u202e", "U+202E"), ("\0", "U+0000"), ("\u2066a", "U+2066"), ("a\u200bb", "U+200B"),
     ("\x1b[31m", "U+001B"), ("\ud800", "U+D800"), ("a\nb", "U+000A"), ("\x9b", "U+009B")],
)  # fmt: skip
def test_a_character_that_nobody_sees_is_refused_by_its_number(odd, point):
    assert f"invoice_id: the label contains {point}" in refusal(text(invoice_id=odd))
    assert f"lines.0.line_id: the label contains {point}" in refusal(text(lines=line(line_id=odd)))


def test_names_in_other_scripts_are_names():
    assert parse(invoice_id="Rechnung № 7 / 株式会社").invoice_id == "Rechnung № 7 / 株式会社"


@pytest.mark.parametrize("label", ["", " a", "a ", "a" * 129, 7, None])
def test_a_label_is_some_text(label):
    assert "invoice_id" in refusal(text(invoice_id=label))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("invoice_number", "invoice_id"), ("vendor", "operator"), ("periodStart", "period_start"), ("Total", "total"),
     ("currancy", "currency"), ("timezone", "time_zone"), ("line_items", "lines")],
)  # fmt: skip
def test_an_unknown_field_is_named_with_the_one_that_was_meant(given, meant):
    values = {k: v for k, v in VALUES.items() if k != meant} | {given: "x"}
    told = refusal(json.dumps(values))
    assert f"unknown field {given}; did you mean {meant}?" in told
    assert f"{meant} is missing" in told or meant == "time_zone"


def test_an_unknown_field_of_a_line_is_found_among_a_lines_fields():
    told = refusal(text(lines=line(qty=5)))
    assert "unknown field lines.0.qty; did you mean quantity?" in told
    told = refusal(text(lines=line(zzzz=5)))
    assert "unknown field lines.0.zzzz" in told
    assert "did you mean" not in told


def test_a_name_from_the_file_reaches_no_terminal_as_it_is():
    told = refusal(text(**{"a\x1b]0;x\x07\u202eb": 1}))
    assert "unknown field a?]0;x??b" in told


def test_a_long_list_of_mistakes_is_counted():
    assert "and 4 more" in refusal(text(**{f"odd-{n}": n for n in range(9)}))


# -- JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (text()[:-1] + ', "total": "9"}', "'total' 2 times"),
        (text().replace('"day"', '"day": "2026-11-01", "day"'), "'day' 2 times"),
        (text(total=...)[:-1] + ', "total": NaN}', "NaN"),
        ('{"invoice_id": "1",\n "operator" "x"}', "line 2, column 13"),
        (b"\xff\xfe{\0", "UTF-8"),
        ('{"quantity": ' + "9" * 5000 + "}", "sensible size"),
        ("[" * 100_000, "sensible size"),
        (" " * (16 * 2**20 + 1), "16777216 bytes"),
        ("[]", "valid"),
    ],
)  # fmt: skip
def test_what_is_not_one_json_object_is_refused_with_the_place(data, told):
    assert told in refusal(data)


def test_the_invoice_in_the_docs_is_one():
    sample = Path("docs/invoices.md").read_text("utf-8").split("```json\n")[1].split("```")[0]
    assert Invoice.parse(sample.encode()).time_zone == "Europe/Berlin"


def test_a_byte_order_mark_is_not_a_mistake():
    assert Invoice.parse(b"\xef\xbb\xbf" + text().encode()) == parse()


# -- amounts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"total": "5.00"}, "total is 5.00, but the lines add up to 0.06"),
        ({"rounding": "4.94", "total": "5.00"}, "rounding 4.94"),
        ({"rounding": "0.01", "total": "0.07"}, "rounding 0.01"),
        ({"lines": line(amount="5.00"), "total": "5.00"}, "line 1: amount is 5.00"),
        ({"lines": [*line(), *line()], "total": "0.12"}, "line_id 1 is on 2 lines"),
        ({"lines": [], "total": "1"}, "total is 1"),
        ({"total": 0.06}, "total"),
        ({"total": "1e2"}, "total"),
        ({"total": "٣"}, "total"),
        ({"lines": line(quantity="100")}, "quantity"),
        ({"lines": line(quantity=100.0)}, "quantity"),
        ({"lines": line(quantity=True)}, "quantity"),
        ({"lines": line(quantity=2**63)}, "quantity"),
        ({"lines": line(quantity=-1)}, "quantity"),
        ({"lines": line(per=0)}, "per"),
    ],
)
def test_amounts_that_do_not_add_up_are_refused_with_both_numbers(changes, told):
    assert told in refusal(text(**changes))


def test_rounding_by_less_than_the_minor_unit_is_rounding():
    made = parse(lines=line(quantity=101, amount="0.06"), rounding="0.005", total="0.065")
    assert made.lines[0].exact.numerator == 303
    parse(lines=line(quantity=9, amount="0.0054"), rounding="0.0046", total="0.01")
    with pytest.raises(CounterfoilError, match="rounding"):
        parse(currency="KWD", lines=line(quantity=9, amount="0.0054"), rounding="0.0046", total="0.01")  # fmt: skip
