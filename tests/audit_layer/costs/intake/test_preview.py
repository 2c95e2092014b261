"""A dry run shows every field as it stands and as it is meant, and what was left out and why."""

import json

from audit_layer.costs.intake.read import preview, read_invoice
from audit_layer.costs.intake.shown import as_json, lines_of
from audit_layer.costs.intake.trace import FieldReading
from tests.audit_layer.costs.intake.files import (
    AMERICAN,
    AMERICAN_MAPPING,
    GERMAN,
    GERMAN_MAPPING,
    MODELS,
    STATED,
    mapping,
)


def german(text: str = GERMAN, **options):
    return preview(
        text.encode("cp1252"), mapping=mapping(GERMAN_MAPPING), names=MODELS.get, **options
    )


def test_it_gives_the_invoice_that_reading_gives():
    made = german()
    assert made.invoice == read_invoice(
        GERMAN.encode("cp1252"), mapping=mapping(GERMAN_MAPPING), names=MODELS.get
    )
    assert (made.problems, made.problem_count) == ((), 0)


def test_it_tells_of_every_row_what_became_of_it():
    made = german()
    assert [(row.row, row.outcome, row.why) for row in made.rows] == [
        (6, "line", ""), (7, "line", ""), (8, "line", ""), (9, "skipped", "blank"), (10, "line", "rule 1: discount"),
        (11, "total", "rule 2: net-total"), (12, "line", "rule 3: tax"), (13, "total", "rule 4: total"),
    ]  # fmt: skip
    assert made.counts == {"line": 5, "skipped": 1, "total": 2}


def test_it_shows_each_field_raw_and_meant_with_its_place():
    made = german()
    assert (
        FieldReading("quantity", "column E (Menge (Tsd. Token))", "200,5", "200500")
        in made.rows[1].fields
    )
    assert (
        FieldReading("kind", "column D (Leistung)", "Eingabe-Token (Cache)", "cached")
        in made.rows[1].fields
    )
    assert FieldReading("operator", "cell B1", "GPU-Kontor Hinz & Söhne GmbH", "hinz") in made.facts
    assert FieldReading("tenant", "constant", "acme", "acme") in made.facts
    lines = lines_of(made)
    assert "  quantity: “200,5” → 200500 (column E (Menge (Tsd. Token)))" in lines
    assert "row 9 is skipped: blank" in lines
    assert "Rows: 5 line, 2 total, 1 skipped." in lines
    assert lines[-1].startswith(
        "Invoice “RE-2026/0117” of hinz, 2026-11-01 to before 2026-12-01: 5 lines, total 691.96 EUR"
    )


def test_it_keeps_only_the_first_rows_of_each_outcome():
    made = german(rows=1)
    assert [(row.row, row.outcome) for row in made.rows] == [
        (6, "line"),
        (9, "skipped"),
        (11, "total"),
    ]
    assert made.counts == {"line": 5, "skipped": 1, "total": 2}


def test_problems_are_listed_beside_the_rows_that_can_be_read():
    text = GERMAN.replace("28,80", "28.80").replace("Large 70B", "\x1b[31mHuge")
    made = german(text)
    assert made.invoice is None
    assert made.problem_count == 2
    assert [row.outcome for row in made.rows][:3] == ["line", "line", "problem"]
    lines = lines_of(made)
    assert "2 problems; nothing would be stored." in lines
    assert (
        "  row 8, column G (Betrag €), amount: found “28.80”, expected a number like 1.234,50 or -1.234,50"
        in lines
    )
    assert all(line.isprintable() for line in lines)


def test_a_total_that_nothing_states_is_said_to_be_a_sum():
    text = AMERICAN.replace("Total,,,,,,,,", "X,,,,,,,,")
    made = preview(
        text.encode(), mapping=mapping(AMERICAN_MAPPING, rows={"last": 5, "rules": []}), stated=STATED
    )  # fmt: skip
    assert "no total is stated: it is the sum of the lines" in made.notes
    assert "row 6 is skipped: after the last row of the mapping" in lines_of(made)


def test_programs_get_the_same_as_json():
    made = as_json(german(GERMAN.replace("28,80", "28.80")))
    assert json.loads(json.dumps(made)) == made
    assert made["readable"] is False
    assert made["problems"] == [
        {"row": 8, "column": "G (Betrag €)", "field": "amount", "raw": "28.80", "expected": "a number like 1.234,50 or -1.234,50"}
    ]  # fmt: skip
    assert as_json(german())["readable"] is True
