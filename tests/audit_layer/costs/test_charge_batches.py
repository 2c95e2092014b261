"""Columns and rows are two ways to the same charges."""

from dataclasses import fields

from audit_layer.costs.billing import charges_of
from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.charge import USAGE, Charge
from audit_layer.costs.charge_batches import usage_batches
from audit_layer.costs.exports.charge_columns import ChargeColumns
from audit_layer.costs.models import PeriodRow
from audit_layer.storage.engine import session
from shared.statements.receipts import Finish
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_books import Scene, scene
from tests.audit_layer.costs.test_service import Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "scene", "world"]

NAMES = {made.MODEL: "fox"}


def both(books: Books) -> tuple[list[Charge], list[Charge]]:
    """Return every period's usage charges, as rows and as columns, each in one order."""
    with session(books.world.database.engine("worker")) as db:
        rows, columns = [], []
        for item in Bookkeeping(books.world.database.engine("worker")).periods():
            row = db.get_one(PeriodRow, item.row.id)
            rows += [charge for charge in charges_of(db, row, NAMES) if charge.kind in USAGE]
            for batch in usage_batches(db, row, NAMES):
                found = ChargeColumns(batch)
                columns += [found.charge(at) for at in range(found.rows)]
    return sorted(rows, key=_place), sorted(columns, key=_place)


def _place(charge: Charge) -> tuple[int, str]:
    assert charge.log_index is not None
    return charge.log_index, charge.kind


def test_columns_are_the_charges_that_rows_are(scene: Scene):
    books = scene.books
    passed, held, convicted = (scene.receipt(number=number) for number in range(3))
    scene.receipt(number=3, attempt=0)
    scene.receipt(number=3, attempt=1)
    scene.receipt(number=4, finish=Finish.FAILED)
    scene.verdict(passed, "PASS")
    scene.verdict(held, "FAIL")
    scene.convict(convicted)
    scene.catch_up()
    rows, columns = both(books)
    assert len(rows) == 2 * 3
    for field in fields(Charge):
        assert [getattr(one, field.name) for one in rows] == [
            getattr(one, field.name) for one in columns
        ], field.name
    states = {charge.receipt: charge.audit for charge in rows}
    assert states[passed] == "passed"
    assert states[held] == "held"
    assert {charge.model_name for charge in rows} == {"fox"}


def test_a_bill_in_another_currency_converts_every_charge_exactly(books: Books):
    keep = Bookkeeping(books.world.database.engine("server"))
    keep.record_contract(
        b'{"tenant": "acme", "operator": "alpha", "valid_from": "2020-01-01", "currency": "USD",'
        b' "fx": [{"currency": "EUR", "valid_from": "2020-01-01", "rate": "1.17"}]}',
        by="finance",
    )
    books.receipt()
    books.costs.rate_new()
    rows, columns = both(books)
    assert rows == columns
    assert {(one.currency, one.pricing_currency, str(one.fx_rate)) for one in rows} == {
        ("USD", "EUR", "1.17")
    }
    (period,) = keep.periods()
    assert sum(one.amount for one in rows) == keep.bill(period.row.id).usage
