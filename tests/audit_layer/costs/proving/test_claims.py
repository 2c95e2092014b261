"""What a line bills, and the days, tenant, node and model whose receipts are behind it."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.proving.claims import claims_of, line_ids
from shared.codec.moment import Period, day_period, days_period, parse_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.line_proof_file import MAX_CLAIMS
from shared.verification.rating import TokenKind

DAY = date(2026, 3, 29)
"""On which clocks change in Berlin."""
LINE = BilledLine(
    place="lines[0]", line_id="a/1", kind=ChargeKind.OUTPUT, amount=Decimal("0.10"), quantity=50,
    unit_price=Decimal("2.0"), per=1000, tenant="acme", node="one", model_root=bytes(32), day=DAY,
)  # fmt: skip


def invoice(*lines: BilledLine, zone: str | None = "UTC", **changes: object) -> BilledInvoice:
    first, end = date(2026, 3, 1), date(2026, 4, 1)
    made = BilledInvoice(
        invoice_id="N-1", operator="alpha", currency="EUR", first=first, end=end,
        period=days_period(first, end, zone or "UTC"), issued=end, lines=lines,
        rounding=Decimal(0), total=Decimal(0), time_zone=zone,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def refused(made: BilledInvoice, line_id: str = "a/1") -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        claims_of(made, line_id, tenant=None)
    return caught.value


def test_a_line_is_told_as_the_invoice_has_it():
    (claim,), scope = claims_of(invoice(LINE), "a/1", tenant=None)
    assert (claim.kind, claim.quantity, claim.per) == (TokenKind.OUTPUT, 50, 1000)
    assert (claim.unit_price, claim.amount, claim.place) == ("2.0", "0.10", "lines[0]")
    assert (scope.tenant, scope.node, scope.model_root) == ("acme", "one", "00" * 32)
    assert Period(scope.start, scope.end) == day_period(DAY)


def test_what_a_line_leaves_out_takes_in_everything():
    bare = replace(LINE, tenant=None, node=None, model_root=None, day=None)
    made = invoice(bare)
    _, scope = claims_of(made, "a/1", tenant=None)
    assert (scope.tenant, scope.node, scope.model_root) == (None, None, None)
    assert Period(scope.start, scope.end) == made.period
    assert claims_of(made, "a/1", tenant="acme")[1].tenant == "acme"


def test_a_day_is_one_of_the_invoices_time_zone():
    _, scope = claims_of(invoice(LINE, zone="Europe/Berlin"), "a/1", tenant=None)
    assert scope.start == parse_rfc3339("2026-03-29T00:00:00+01:00")
    assert scope.end - scope.start == 23 * 3_600_000


def test_without_a_zone_days_are_counted_from_the_periods_start_unless_the_clock_changes():
    berlin = days_period(date(2026, 3, 1), date(2026, 4, 1), "Europe/Berlin")
    error = refused(invoice(LINE, zone=None, period=berlin))
    assert error.code is Code.INVALID_ARGUMENT
    assert "time_zone" in error.remedy
    hour = 3_600_000
    utc = days_period(date(2026, 3, 1), date(2026, 4, 1))
    east = Period(utc.start - hour, utc.end - hour)
    _, scope = claims_of(invoice(LINE, zone=None, period=east), "a/1", tenant=None)
    assert scope.start == parse_rfc3339("2026-03-29T00:00:00+01:00")


def test_lines_that_bill_the_same_tokens_are_told_together_the_one_asked_for_first():
    again = replace(LINE, line_id="b", place="lines[1]", amount=Decimal("0.05"), quantity=25)
    other_kind = replace(LINE, line_id="c", kind=ChargeKind.INPUT)
    other_node = replace(LINE, line_id="d", node="two")
    made = invoice(LINE, again, other_kind, other_node)
    claims, _ = claims_of(made, "b", tenant=None)
    assert [claim.line_id for claim in claims] == ["b", "a/1"]
    assert [claim.line_id for claim in claims_of(made, "d", tenant=None)[0]] == ["d"]


def test_a_row_that_bills_several_kinds_is_one_line():
    claims, _ = claims_of(invoice(LINE, replace(LINE, kind=ChargeKind.INPUT)), "a/1", tenant=None)
    assert {claim.kind for claim in claims} == {TokenKind.OUTPUT, TokenKind.INPUT}


def test_what_no_receipt_can_prove_is_refused():
    assert refused(invoice(LINE), "x\x1b").code is Code.NOT_FOUND
    fee = replace(LINE, kind=ChargeKind.DISCOUNT, quantity=None, unit_price=None)
    error = refused(invoice(fee))
    assert error.code is Code.INVALID_ARGUMENT
    assert "discount" in error.detail
    many = [replace(LINE, line_id=f"{at}") for at in range(MAX_CLAIMS)]
    assert refused(invoice(LINE, *many)).code is Code.CONFLICT


def test_only_lines_of_tokens_at_these_places_are_named_each_once():
    lines = (
        LINE,
        replace(LINE, kind=ChargeKind.INPUT),
        replace(LINE, line_id="b", place="lines[1]"),
        replace(LINE, line_id="c", place="lines[2]", kind=ChargeKind.FEE),
    )
    assert line_ids(invoice(*lines), ["lines[2]", "lines[0]"]) == ["a/1"]
