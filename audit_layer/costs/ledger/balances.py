"""What the ledger says: the trial balance and accounts' statements. In the caller's transaction."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.models import JournalRow, PostingRow
from shared.codec.money import exact_sum


class Balance(NamedTuple):
    """One account in one currency; debits are positive."""

    account: str
    currency: str
    amount: Decimal


class Entry(NamedTuple):
    """One posting, and the balance after it."""

    journal: int
    kind: str
    day: date
    amount: Decimal
    balance: Decimal
    currency: str
    memo: str | None
    mirrors: int | None


def trial_balance(db: Session) -> list[Balance]:
    """Return every account's balance; those of one currency sum to zero."""
    rows = db.execute(
        select(PostingRow.account, PostingRow.currency, func.sum(PostingRow.amount))
        .group_by(PostingRow.account, PostingRow.currency)
        .order_by(PostingRow.currency, PostingRow.account)
    )
    return [Balance(account, currency, amount) for account, currency, amount in rows]


def statement(db: Session, account: str, currency: str) -> Iterator[Entry]:
    """Yield an account's postings in one currency, in the order in which they were posted."""
    rows = db.execute(
        select(JournalRow, PostingRow.amount)
        .join(PostingRow, PostingRow.journal == JournalRow.id)
        .where(PostingRow.account == account, PostingRow.currency == currency)
        .order_by(PostingRow.id)
    )
    balance = Decimal(0)
    for journal, amount in rows:
        balance = exact_sum((balance, amount))
        yield Entry(
            journal.id,
            journal.kind,
            journal.day,
            amount,
            balance,
            currency,
            journal.memo,
            journal.mirrors,
        )
