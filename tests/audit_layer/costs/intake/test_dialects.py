"""Invoices as operators of several countries send them are read as people read them."""

import gzip
from datetime import date
from decimal import Decimal

import pytest

from audit_layer.costs.billed import BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.intake.read import Format, read_invoice
from shared.codec.moment import parse_rfc3339
from tests.audit_layer.costs.intake.files import (
    AMERICAN,
    AMERICAN_MAPPING,
    GERMAN,
    GERMAN_MAPPING,
    LARGE,
    MODELS,
    SMALL,
    STATED,
    mapping,
)
from tests.audit_layer.costs.intake.refusals import refusal

GERMAN_BYTES = GERMAN.encode("cp1252")


def german(text: str = GERMAN, **changes):
    return read_invoice(
        text.encode("cp1252"), mapping=mapping(GERMAN_MAPPING, **changes), names=MODELS.get
    )


def german_refusal(text: str = GERMAN, **changes) -> str:
    return refusal(
        text.encode("cp1252"), mapping=mapping(GERMAN_MAPPING, **changes), names=MODELS.get
    )


def american(text: str = AMERICAN, stated=STATED, **changes):
    return read_invoice(text.encode(), mapping=mapping(AMERICAN_MAPPING, **changes), stated=stated)


def american_refusal(text: str = AMERICAN, stated=STATED, **changes) -> str:
    return refusal(text.encode(), mapping=mapping(AMERICAN_MAPPING, **changes), stated=stated)


def test_a_german_invoice_is_read_with_its_preamble_and_footer():
    invoice = german()
    assert (invoice.invoice_id, invoice.operator, invoice.tenant) == (
        "RE-2026/0117",
        "hinz",
        "acme",
    )
    assert (invoice.first, invoice.end) == (date(2026, 11, 1), date(2026, 12, 1))
    assert invoice.period.start == parse_rfc3339("2026-10-31T23:00:00Z")
    assert invoice.period.end == parse_rfc3339("2026-11-30T23:00:00Z")
    assert (invoice.issued, invoice.format) == (date(2026, 12, 2), "csv")
    assert (invoice.total, invoice.rounding) == (Decimal("691.96"), 0)
    assert invoice.lines[0] == BilledLine(
        place="row 6",
        line_id="row-6",
        kind=ChargeKind.INPUT,
        amount=Decimal("617.28"),
        quantity=1_234_567_000,
        unit_price=Decimal("0.5"),
        per=1_000_000,
        model_root=SMALL,
        day=date(2026, 11, 3),
        description="Los 1; Nacht",
    )
    assert [line.quantity for line in invoice.lines] == [
        1_234_567_000,
        200_500,
        12_000_000,
        None,
        None,
    ]
    assert [line.kind for line in invoice.lines[1:]] == ["cached", "output", "discount", "tax"]
    assert [line.amount for line in invoice.lines[3:]] == [Decimal("-64.61"), Decimal("110.48")]
    assert invoice.lines[2].model_root == LARGE
    assert invoice.lines[2].description == 'sehr "schnell" gewesen'


def test_an_american_invoice_is_read_with_parentheses_and_a_footer_total():
    invoice = american()
    assert [line.line_id for line in invoice.lines] == ["L-001", "L-002", "L-003", "L-004"]
    assert invoice.lines[0].quantity == 1_234_567_000
    assert invoice.lines[0].unit_price == Decimal("0.50")
    assert invoice.lines[0].day == date(2026, 11, 3)
    assert {line.tenant for line in invoice.lines} == {"acme"}
    assert [line.node for line in invoice.lines] == ["node-a", "node-a", "node-b", None]
    assert (invoice.lines[3].kind, invoice.lines[3].amount) == ("credit", Decimal("-46.09"))
    assert (invoice.total, invoice.currency) == (Decimal(600), "USD")
    assert (invoice.invoice_id, invoice.issued) == ("INV-77", date(2026, 12, 1))
    assert invoice.period.start == parse_rfc3339("2026-11-01T04:00:00Z")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_every_encoding_that_is_declared_gives_the_same_invoice(encoding):
    content = GERMAN.encode(encoding)
    made = mapping(GERMAN_MAPPING, file={"encoding": encoding})
    assert read_invoice(content, mapping=made, names=MODELS.get) == german()


def test_utf_8_has_a_byte_order_mark_or_not():
    made = mapping(GERMAN_MAPPING, file={"encoding": "utf-8"})
    assert read_invoice(GERMAN.encode("utf-8-sig"), mapping=made, names=MODELS.get) == german()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_as_on_any_system(end):
    assert german(GERMAN.replace("\r\n", end)) == german()


def test_a_file_is_read_from_its_path_and_out_of_gzip(tmp_path):
    path = tmp_path / "rechnung.csv.gz"
    path.write_bytes(gzip.compress(GERMAN_BYTES))
    assert read_invoice(path, mapping=mapping(GERMAN_MAPPING), names=MODELS.get) == german()
    twice = gzip.compress(path.read_bytes())  # as a client sends on what an operator wrapped
    assert read_invoice(twice, mapping=mapping(GERMAN_MAPPING), names=MODELS.get) == german()
    assert "neither text" in refusal(gzip.compress(twice), mapping=mapping(GERMAN_MAPPING))


def test_totals_by_model_need_no_day_node_or_tenant():
    text = "Model,Kind,Tokens,Amount\nsmall-7b,input,1000,1.00\nLarge 70B,output,5,2.00\n"
    values = {
        "format": "csv",
        "dates": {"period_end": "last-day"},
        "columns": {"model": "Model", "kind": "Kind", "quantity": "Tokens", "amount": "Amount"},
        "constants": {
            "operator": "beta", "currency": "USD", "period_start": "2026-11-01", "period_end": "2026-11-30", **STATED,
        },
    }  # fmt: skip
    invoice = read_invoice(text.encode(), mapping=mapping(values), names=MODELS.get)
    assert [
        (line.model_root, line.quantity, line.unit_price, line.day, line.node, line.tenant)
        for line in invoice.lines
    ] == [
        (SMALL, 1000, None, None, None, None),
        (LARGE, 5, None, None, None, None),
    ]
    assert invoice.total == 3


def test_a_model_is_named_or_its_hash_is_given_and_each_name_is_asked_for_once():
    asked = []

    def names(name):
        asked.append(name)
        return MODELS.get(name)

    text = GERMAN.replace(";Large 70B;", f";{LARGE.hex().upper()};")
    content = text.encode("cp1252")
    assert (
        read_invoice(content, mapping=mapping(GERMAN_MAPPING), names=names).lines == german().lines
    )
    read_invoice(GERMAN_BYTES, mapping=mapping(GERMAN_MAPPING), names=names)
    assert asked == ["small-7b", "small-7b", "Large 70B"]


def test_a_model_that_nobody_knows_is_refused_by_its_place():
    told = german_refusal(GERMAN.replace("Large 70B", "Huge 700B"))
    assert "row 8, column C (Modell), model: found “Huge 700B”, expected the root" in told


def test_a_kind_that_is_not_translated_is_refused_with_the_one_that_was_meant():
    told = german_refusal(GERMAN.replace(";Ausgabe-Token;", ";Ausgabe-Tokens;"))
    assert "row 8, column D (Leistung), kind: found “Ausgabe-Tokens”" in told
    assert "did you mean “Ausgabe-Token”?" in told


def test_what_is_stated_beside_the_file_must_agree_with_it():
    assert (
        read_invoice(
            GERMAN_BYTES,
            mapping=mapping(GERMAN_MAPPING),
            names=MODELS.get,
            stated={"total": "691.96"},
        )
        == german()
    )
    told = refusal(
        GERMAN_BYTES,
        mapping=mapping(GERMAN_MAPPING),
        names=MODELS.get,
        stated={"invoice_id": "RE-2026/0118"},
    )
    assert (
        "row 2, invoice_id: found “RE-2026/0117”, expected RE-2026/0118, which stated says" in told
    )
    assert "tenant: is stated, but the mapping has a column" in american_refusal(
        stated={**STATED, "tenant": "acme"}
    )
    assert "found “amount”, expected one of invoice_id" in american_refusal(
        stated={**STATED, "amount": "1"}
    )


def test_what_is_stated_replaces_a_constant():
    assert american(stated={**STATED, "operator": "gamma"}).operator == "gamma"


@pytest.mark.parametrize(
    "field", ["invoice_id", "issued_at", "operator", "currency", "period_start"]
)
def test_what_no_source_says_is_asked_for_by_name(field):
    stated = {name: text for name, text in STATED.items() if name != field}
    constants = {field: ...} if field in AMERICAN_MAPPING["constants"] else {}
    assert f"{field}: is stated nowhere" in american_refusal(stated=stated, constants=constants)


def test_a_column_that_speaks_for_the_whole_must_say_one_thing():
    columns = {"currency": "Node", "node": ...}
    currencies = {"currency": {"node-a": "USD", "node-b": "EUR"}}
    told = american_refusal(columns=columns, constants={"currency": ...}, values=currencies)
    assert "row 4, currency: found “node-b”, expected USD, which row 2 says" in told


def test_a_last_row_and_rows_by_number_are_not_read():
    text = AMERICAN.replace("Total,,,,,,,,", "Sum,,,,,,,,")
    changes = {"rows": {"last": 5, "rules": []}}
    assert american(text, **changes).lines == american().lines
    assert american(text, rows={"skip": [6], "rules": []}).lines == american().lines
    assert american(text, rows={"skip": [6], "rules": []}).total == Decimal("600.00")


def test_columns_are_named_by_number_where_there_is_no_header():
    text = "input;1000;2,50\noutput;10;1,00\n"
    values = {
        "format": "csv",
        "file": {"delimiter": ";"},
        "rows": {"header": 0},
        "numbers": {"decimal": ","},
        "dates": {"period_end": "last-day"},
        "columns": {"kind": 1, "quantity": 2, "amount": 3},
        "constants": {**AMERICAN_MAPPING["constants"], **STATED, "per": 1},
    }
    invoice = read_invoice(text.encode(), mapping=mapping(values))
    assert [(line.kind, line.quantity, line.amount) for line in invoice.lines] == [
        ("input", 1000, Decimal("2.50")),
        ("output", 10, 1),
    ]


def test_a_cell_that_means_nothing_is_empty():
    text = AMERICAN.replace("11/30/2026,ACME Inc.,,,", "11/30/2026,ACME Inc.,n/a,-,")
    assert american(text, file={"empty": ["n/a", "-"]}) == american()
    assert "node: found “n/a”" in american_refusal(text)


def test_units_of_quantity_and_price_stand_in_columns_of_their_own():
    text = (
        "kind,n,unit,price,of,amount\ninput,2.5,k tokens,3,1M tokens,0.01\n"
        "request,7,,0.5,,3.5\ngpu-second,12.5,,0.02,,0.25\n"
    )
    values = {
        "format": "csv",
        "dates": {"period_end": "last-day"},
        "columns": {
            "kind": "kind", "quantity": "n", "scale": "unit", "unit_price": "price", "per": "of", "amount": "amount",
        },
        "values": {"scale": {"k tokens": 1000}, "per": {"1M tokens": 1_000_000}},
        "constants": {
            name: text for name, text in AMERICAN_MAPPING["constants"].items() if name != "per"
        } | STATED,
    }  # fmt: skip
    invoice = read_invoice(text.encode(), mapping=mapping(values))
    assert [(line.quantity, line.per) for line in invoice.lines] == [
        (2500, 10**6),
        (7, 1),
        (12_500, 1000),
    ]
    assert [line.exact for line in invoice.lines] == [
        Decimal("0.0075"),
        Decimal("3.5"),
        Decimal("0.25"),
    ]


def test_the_scale_for_tokens_is_not_that_of_requests():
    text = "kind,n,price,amount\ninput,2,3,0.00\nrequest,7,0.5,3.5\n"
    values = {
        "format": "csv",
        "dates": {"period_end": "last-day"},
        "columns": {"kind": "kind", "quantity": "n", "unit_price": "price", "amount": "amount"},
        "constants": {**AMERICAN_MAPPING["constants"], **STATED, "scale": 1000},
    }
    invoice = read_invoice(text.encode(), mapping=mapping(values))
    assert [(line.quantity, line.per) for line in invoice.lines] == [(2000, 10**6), (7, 1)]


def test_a_file_that_was_cut_off_lacks_the_total_that_the_mapping_expects():
    told = american_refusal(AMERICAN.split("Total")[0])
    assert "total: no row is the total that the mapping expects" in told
    told = german_refusal(GERMAN.split(";;;Umsatz")[0])
    assert told.endswith("total: no row is the total that the mapping expects")


def test_a_single_cell_that_is_empty_is_refused():
    told = german_refusal(cells={"net_total": "H2"})
    assert "cell H2, net_total: is empty" in told
    assert "cell C99, tax_total: is empty" in german_refusal(cells={"tax_total": "C99"})
    assert german(cells={"corrects": "H2"}).corrects is None


def test_without_a_header_every_line_reaches_the_columns_that_are_read():
    values = {
        "format": "csv",
        "rows": {"header": 0},
        "dates": {"period_end": "last-day"},
        "columns": {"kind": 1, "amount": 2, "day": 3},
        "constants": {**AMERICAN_MAPPING["constants"], **STATED},
    }
    told = refusal(b"fee,1,2026-11-03\nfee,2\n", mapping=mapping(values))
    assert "row 2: the row has 2 cells, but the mapping reads 3" in told


def test_a_price_is_per_a_number_that_keeps_sums_short():
    told = american_refusal(constants={"per": 999_983})
    assert "per: found “999983”, expected a product of 2, 3 and 5" in told


# -- formats -------------------------------------------------------------------------------------------------


def test_a_format_is_never_guessed():
    assert "give a mapping" in refusal(AMERICAN.encode())
    assert "needs a mapping" in refusal(AMERICAN.encode(), format=Format.CSV)
    assert "the mapping is for csv" in refusal(
        AMERICAN.encode(), format=Format.FOCUS, mapping=mapping(AMERICAN_MAPPING)
    )
    assert "to be read as focus, but it is a JSON object" in refusal(b"{}", format=Format.FOCUS)
    assert "to be read as json, but it is text" in refusal(AMERICAN.encode(), format=Format.JSON)
    assert "to be read as csv, but it is a ZIP" in refusal(
        b"PK\x03\x04" + bytes(60), mapping=mapping(AMERICAN_MAPPING)
    )
    others = (
        (b"%PDF-1.7 ", "a PDF"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), ".xls"),
        (b"\x00\x01\x02", "neither"),
    )
    for magic, named in others:
        assert named in refusal(magic + bytes(60))


def test_the_mappings_format_may_be_said_again():
    assert (
        read_invoice(
            GERMAN_BYTES, format=Format.CSV, mapping=mapping(GERMAN_MAPPING), names=MODELS.get
        )
        == german()
    )
