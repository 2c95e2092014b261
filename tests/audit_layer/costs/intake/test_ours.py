"""Our own invoice format keeps its strict parser; its content is the same in the common form."""

import json
from datetime import date
from decimal import Decimal

import pytest

from audit_layer.costs.billed import BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.intake.read import Format, preview, read_invoice
from tests.audit_layer.costs.intake.files import AMERICAN_MAPPING, mapping
from tests.audit_layer.costs.intake.refusals import malformed
from tests.audit_layer.costs.test_invoices import LINE, VALUES, text


def test_nothing_is_changed_but_the_form():
    invoice = read_invoice(text(time_zone="Europe/Berlin").encode())
    assert invoice.lines == (
        BilledLine(
            place="lines[0]",
            line_id="1",
            kind=ChargeKind.OUTPUT,
            amount=Decimal("0.06"),
            quantity=100,
            unit_price=Decimal("0.60"),
            per=1000,
            tenant="acme",
            node="node-a",
            model_root=b"\xab" * 32,
            day=date(2026, 11, 27),
        ),
    )
    assert (invoice.invoice_id, invoice.operator, invoice.currency) == ("N-1", "alpha", "EUR")
    assert (invoice.first, invoice.end) == (date(2026, 11, 1), date(2026, 12, 1))
    assert (invoice.total, invoice.rounding, invoice.format) == (Decimal("0.06"), 0, "json")


@pytest.mark.parametrize(
    ("issued", "zone", "day"),
    [("2026-12-01", None, 1), ("2026-12-01T00:30:00+01:00", None, 1), ("2026-11-30T23:30:00Z", "Europe/Berlin", 1),
     ("2026-12-01T00:30:00Z", None, 1)],
)  # fmt: skip
def test_it_was_issued_on_the_day_in_its_zone(issued, zone, day):
    assert read_invoice(text(issued_at=issued, time_zone=zone).encode()).issued == date(
        2026, 12, day
    )


def test_it_is_known_by_its_brace_and_refused_by_its_own_parser():
    content = text().encode()
    assert read_invoice(content, format=Format.JSON) == read_invoice(b"\xef\xbb\xbf  " + content)
    assert "unknown field" in malformed(
        lambda: read_invoice(json.dumps({**VALUES, "x": 1}).encode())
    )
    assert "total is" in malformed(lambda: read_invoice(text(total="1").encode()))


def test_nothing_is_stated_or_mapped_beside_it():
    assert "state nothing" in malformed(
        lambda: read_invoice(text().encode(), stated={"total": "0.06"})
    )
    made = mapping(AMERICAN_MAPPING)
    assert "the mapping is for csv" in malformed(
        lambda: read_invoice(text().encode(), format=Format.JSON, mapping=made)
    )


def test_its_dry_run_counts_its_lines():
    lines = [{**LINE, "line_id": str(at), "day": "2026-10-31"} for at in range(3)]
    made = preview(text(lines=lines, total="0.18").encode(), rows=2)
    assert (made.counts, len(made.rows), made.format) == ({"line": 3}, 2, Format.JSON)
    assert made.notes == (
        "3 lines are for days outside the period; reconciliation shows them as timing",
    )
