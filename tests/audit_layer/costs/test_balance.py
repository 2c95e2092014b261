"""The database itself refuses a journal whose postings do not sum to zero."""

from datetime import date
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from audit_layer.costs.models import JournalRow, PostingRow
from audit_layer.storage.engine import transaction
from tests.postgres import Database


def post(database: Database, *amounts: tuple[str, str]) -> None:
    with transaction(database.engine("worker")) as connection:
        journal = connection.scalar(
            insert(JournalRow)
            .values(
                kind="test",
                key=uuid4().hex,
                day=date(2026, 3, 1),
                posted_at=1,
                postings=max(2, len(amounts)),
            )
            .returning(JournalRow.id)
        )
        for amount, currency in amounts:
            connection.execute(
                insert(PostingRow).values(
                    journal=journal, account="expense:a", amount=Decimal(amount), currency=currency
                )
            )


def test_a_balanced_journal_is_kept(database):
    post(database, ("0.000000000000000000000001", "EUR"), ("-0.000000000000000000000001", "EUR"))
    post(database, ("1", "EUR"), ("2", "USD"), ("-1", "EUR"), ("-2", "USD"))


@pytest.mark.parametrize(
    "amounts",
    [
        [("1", "EUR")],
        [("1", "EUR"), ("-1", "USD")],
        [("1", "EUR"), ("-0.999999999999999999999999", "EUR")],
    ],
    ids=["one-sided", "two currencies", "by the last digit"],
)
def test_an_unbalanced_journal_is_refused_at_commit(database, amounts):
    with pytest.raises(IntegrityError, match="do not sum to zero"):
        post(database, *amounts)


def test_a_rated_receipt_names_a_journal_and_a_period_that_exist(database):
    """A trigger for each statement stands in for two foreign keys."""
    columns = "receipt, log_index, order_entry, tenant, number, attempt, complete, billable, operator, node, model_root, day"
    more = "started, ended, input, cached, output, rate_card, amount, currency, journal, period"
    h = "sha256('x')"
    row = f"{h}, 0, {h}, 't', 0, 0, true, true, 'o', 'n', {h}, '2026-03-01', 1, 2, 1, 0, 1, {h}, 1, 'EUR', 7, 7"
    with (
        pytest.raises(IntegrityError, match="does not exist"),
        transaction(database.engine("worker")) as connection,
    ):
        connection.exec_driver_sql(
            f"INSERT INTO costs_rated_receipts ({columns}, {more}) VALUES ({row})"  # noqa: S608
        )
