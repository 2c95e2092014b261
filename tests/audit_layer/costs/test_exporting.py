"""Exports of the books: every format of a billing period and of days, which sum to the bill and name the right invoice."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openpyxl import load_workbook

from audit_layer.costs.exporting import Wanted, export
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import Manifest
from audit_layer.costs.ledger.operations import Operation
from shared.codec.moment import MAX_MS, Period, days_period
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.keeping import Keeping, keeping_over
from tests.audit_layer.costs.test_invoicing import note
from tests.audit_layer.costs.test_service import DAY, EACH, invoice, line
from tests.postgres import PostgresServer

MONTH = DAY.replace(day=1)
NEXT = (MONTH + timedelta(days=32)).replace(day=1)
AFTER_NEXT = (NEXT + timedelta(days=32)).replace(day=1)
EVER = Period(0, MAX_MS)
ACCOUNTS = b"account,gl_account,cost_centre\n*,4711,\n"
FOCUS = (
    Format.FOCUS_1_2_CSV, Format.FOCUS_1_2_PARQUET, Format.FOCUS_1_4_CSV, Format.FOCUS_1_4_PARQUET,
)  # fmt: skip
PERIODS = (Format.BILLING_PERIOD_CSV, Format.BILLING_PERIOD_PARQUET)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def keeping(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keeping]:
    """Books of acme and bolt with alpha and beta: one closed period and one that corrects it, a contract, a prepayment."""
    with keeping_over(postgres, tmp_path_factory.mktemp("books")) as found:
        found.contract(
            per_request="0.001", minimum="1", credits=[{"id": "launch", "amount": "0.25"}],
            discounts=[{"tiers": [{"above": "0.01", "percent": "10"}]}],
        )  # fmt: skip
        receipts = [found.serve(number) for number in range(3)]
        found.scene.books.receipt("bolt")
        found.serve(3, node=1)
        found.books.operate(Operation.STAKE, key="s", amount=Decimal(9), currency="EUR", operator="beta")  # fmt: skip
        found.books.operate(Operation.PREPAY, key="p", amount=Decimal(5), currency="EUR", tenant="acme")  # fmt: skip
        found.scene.catch_up()
        found.close(found.periods(tenant="acme", operator="alpha")[0])
        found.scene.convict(receipts[0])
        found.serve(4)
        found.serve(5)
        found.scene.catch_up()
        yield found


def exported(keeping: Keeping, path: Path, chosen: Format, **wanted: Any) -> tuple[Manifest, Rows]:
    """Export and read the file back."""
    where = path / f"export.{chosen.container}"
    manifest = export(keeping.engine, where, Wanted(chosen, accounts=ACCOUNTS, **wanted))
    return manifest, rows_of(where)


def rows_of(path: Path) -> Rows:
    if path.suffix == ".parquet":
        rows: Rows = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(path.read_text())))
    with closing(load_workbook(path, read_only=True)) as book:
        head, *lines = book["Lines"].iter_rows(values_only=True)
    return [dict(zip(map(str, head), line, strict=True)) for line in lines]


def costs(rows: Rows) -> Decimal:
    """Return what charges come to: FOCUS's column, or the exact text of a workbook."""
    name = "BilledCost" if "BilledCost" in rows[0] else "Amount (exact)"
    return sum((Decimal(row[name]) for row in rows), Decimal(0))


def gl(rows: Rows) -> Decimal:
    return sum((Decimal(row["Debit"] or 0) for row in rows), Decimal(0))


# -- a billing period ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [*FOCUS, Format.XLSX])
@pytest.mark.parametrize("which", [0, 1])
def test_every_format_of_a_period_sums_to_its_bill(
    keeping: Keeping, tmp_path: Path, chosen: Format, which: int
):
    number = keeping.periods(tenant="acme", operator="alpha")[which]
    bill = keeping.books.bill(number)
    manifest, rows = exported(keeping, tmp_path, chosen, number=number)
    assert costs(rows) == bill.total
    totals = json.loads(manifest.canonical())["totals"]
    assert sum(Decimal(amount) for amount in totals["EUR"].values()) == bill.total
    kinds = [row.get("SkuMeter") or row.get("What") for row in rows]
    assert "Requests" in kinds
    if chosen is Format.FOCUS_1_2_CSV:
        classes = {row["ChargeClass"] for row in rows if row["x_Receipt"]}
        assert classes == ({""} if which == 0 else {"Correction"})
        assert {row["BillingAccountId"] for row in rows} == {"acme"}
        assert {row["ProviderName"] for row in rows} == {"alpha"}


def test_a_period_after_an_exchange_is_exported_in_the_bills_currency(
    postgres: PostgresServer, tmp_path: Path
):
    with keeping_over(postgres, tmp_path) as keeping:
        fx = [{"currency": "EUR", "valid_from": "2020-01-01", "rate": "0.9375"}]
        keeping.contract(currency="CHF", fx=fx, per_request="0.01")
        receipt = keeping.serve(0)
        keeping.serve(1, cached=3)
        keeping.scene.catch_up()
        first = keeping.periods()[0]
        keeping.close(first)
        keeping.scene.convict(receipt)
        keeping.scene.catch_up()
        for number in keeping.periods():
            for chosen in (*FOCUS, Format.XLSX):
                manifest, rows = exported(keeping, tmp_path, chosen, number=number)
                assert costs(rows) == keeping.books.bill(number).total
                assert list(json.loads(manifest.canonical())["totals"]) == ["CHF"]
        _, rows = exported(keeping, tmp_path, Format.FOCUS_1_2_CSV, number=first)
        usage = [row for row in rows if row["x_Receipt"]]
        assert {(row["BillingCurrency"], row["PricingCurrency"]) for row in usage} == {("CHF", "EUR")}  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_the_journals_of_a_period_are_its_own_and_those_of_its_parties_alone(
    keeping: Keeping, tmp_path: Path, which: int
):
    number = keeping.periods(tenant="acme", operator="alpha")[which]
    _, rows = exported(keeping, tmp_path, Format.GL_CSV, number=number)
    kept = keeping.world.rows(
        "SELECT DISTINCT journal FROM costs_rated_receipts WHERE period = %s UNION"
        " SELECT journal FROM costs_corrections WHERE period = %s UNION"
        " SELECT id FROM costs_journals WHERE key = %s",
        number, number, f"close {number}",
    )  # fmt: skip
    assert {int(row["JournalId"]) for row in rows} == {found for (found,) in kept}
    assert gl(rows) == sum((Decimal(row["Credit"] or 0) for row in rows), Decimal(0))


def test_the_periods_usage_and_close_add_up_to_its_bill_in_the_general_ledger(
    keeping: Keeping, tmp_path: Path
):
    number = keeping.periods(tenant="acme", operator="alpha")[0]
    where = tmp_path / "gl.csv"
    accounts = b"account,gl_account,cost_centre\npayable:alpha,1600,\n*,4711,\n"
    export(keeping.engine, where, Wanted(Format.GL_CSV, number=number, accounts=accounts))
    payable = [row for row in rows_of(where) if row["Account"] == "1600"]
    owed = sum((Decimal(row["Credit"] or 0) - Decimal(row["Debit"] or 0) for row in payable), Decimal(0))  # fmt: skip
    assert owed == keeping.books.bill(number).total


@pytest.mark.parametrize("chosen", PERIODS)
def test_the_list_of_one_period_is_that_period(keeping: Keeping, tmp_path: Path, chosen: Format):
    for number, status in zip(keeping.periods(tenant="acme", operator="alpha"), ("Closed", "Open"), strict=True):  # fmt: skip
        _, rows = exported(keeping, tmp_path, chosen, number=number)
        assert [(row["BillingPeriodStatus"], row["InvoiceIssuerName"]) for row in rows] == [(status, "alpha")]  # fmt: skip


def test_a_period_of_others_is_not_found(keeping: Keeping, tmp_path: Path):
    number = keeping.periods(tenant="acme", operator="alpha")[0]
    for scope in ({"tenant": "bolt"}, {"operator": "beta"}):
        for chosen in Format:
            with pytest.raises(CounterfoilError) as caught:
                exported(keeping, tmp_path, chosen, number=number, **scope)
            assert caught.value.code is Code.NOT_FOUND


# -- days ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [*FOCUS, Format.XLSX])
def test_every_format_of_days_sums_to_what_receipts_come_to(
    keeping: Keeping, tmp_path: Path, chosen: Format
):
    def total(**scope: str) -> Decimal:
        return costs(exported(keeping, tmp_path, chosen, period=EVER, **scope)[1])

    assert total() == 6 * EACH
    assert total(tenant="acme") == 5 * EACH
    assert total(tenant="acme", operator="alpha") == 4 * EACH
    assert total(operator="beta") == EACH


def test_the_journals_of_days_are_those_of_whom_was_asked_for(keeping: Keeping, tmp_path: Path):
    days = days_period(MONTH, AFTER_NEXT)

    def debited(**scope: str) -> Decimal:
        return gl(exported(keeping, tmp_path, Format.GL_CSV, period=days, **scope)[1])

    everything = sum(
        (Decimal(amount) for (amount,) in keeping.world.rows("SELECT amount FROM costs_postings WHERE amount > 0")),
        Decimal(0),
    )  # fmt: skip
    assert debited() == everything
    assert debited(operator="beta") == 9 + EACH
    assert debited(tenant="bolt") == EACH
    with pytest.raises(CounterfoilError, match="needs the mapping") as caught:
        export(keeping.engine, tmp_path / "x.csv", Wanted(Format.GL_CSV, period=days))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("chosen", PERIODS)
def test_the_periods_of_days_are_those_that_begin_in_them(
    keeping: Keeping, tmp_path: Path, chosen: Format
):
    for operator, count in (("alpha", 3), ("beta", 1)):
        _, rows = exported(keeping, tmp_path, chosen, period=EVER, operator=operator)
        assert len(rows) == count
    _, rows = exported(keeping, tmp_path, chosen, period=days_period(NEXT, AFTER_NEXT))
    assert [row["BillingPeriodStatus"] for row in rows] == ["Open"]


@pytest.mark.parametrize("chosen", [Format.INVOICE_DETAIL_CSV, Format.INVOICE_DETAIL_PARQUET])
def test_what_is_written_from_an_invoice_is_not_written_from_a_period(
    keeping: Keeping, tmp_path: Path, chosen: Format
):
    with pytest.raises(CounterfoilError, match="from a stored invoice") as caught:
        exported(keeping, tmp_path, chosen, period=EVER)
    assert caught.value.code is Code.INVALID_ARGUMENT


# -- invoices ----------------------------------------------------------------------------------------------------------


def test_every_charge_names_the_invoice_of_its_operator_its_period_and_its_tenant(
    postgres: PostgresServer, tmp_path: Path
):
    with keeping_over(postgres, tmp_path) as keeping:
        receipt = keeping.serve(0)
        keeping.scene.books.receipt("bolt")
        keeping.serve(1, node=1)
        keeping.scene.catch_up()
        mine = keeping.periods(tenant="acme", operator="alpha")[0]
        keeping.close(mine)
        keeping.scene.convict(receipt)
        keeping.serve(2)
        keeping.scene.catch_up()
        later = keeping.periods(tenant="acme", operator="alpha")[1]

        def take(number: str, first: Any, end: Any, *lines: dict[str, Any], **changes: Any) -> None:
            given = {"period_start": str(first), "period_end": str(end), **changes}
            keeping.scene.books.take(invoice(*lines, invoice_id=number, **given))

        def numbers(**wanted: Any) -> set[tuple[str, str, str]]:
            _, rows = exported(keeping, tmp_path, Format.FOCUS_1_2_CSV, **wanted)
            return {(row["BillingAccountId"], row["ProviderName"], row["InvoiceId"]) for row in rows}  # fmt: skip

        assert numbers(number=mine) == {("acme", "alpha", "")}
        take("NEXT", NEXT, AFTER_NEXT)
        take("USD", MONTH, NEXT, currency="USD")
        take("BETA", MONTH, NEXT, operator="beta")
        assert numbers(number=mine) == {("acme", "alpha", "")}
        take("ALL", MONTH, NEXT)
        assert numbers(number=mine) == {("acme", "alpha", "ALL")}
        take("ACME", MONTH, NEXT, line("output", 7, "2"))
        take("BOLT", MONTH, NEXT, line("output", 7, "2", tenant="bolt"))
        take("LATER", MONTH, NEXT)
        keeping.scene.books.invoicing.take(note("NOTE", "ACME", "-0.01"), by="finance")
        assert numbers(number=mine) == {("acme", "alpha", "ACME")}
        assert numbers(number=later) == {("acme", "alpha", "NEXT")}
        whole = days_period(MONTH, NEXT)
        assert numbers(period=whole, operator="beta") == {("acme", "beta", "BETA")}
        assert numbers(period=whole, tenant="bolt") == {("bolt", "alpha", "BOLT")}
        assert numbers(period=days_period(DAY, DAY + timedelta(days=1)), operator="alpha") == {
            ("acme", "alpha", "ACME"), ("bolt", "alpha", "BOLT"),
        }  # fmt: skip
