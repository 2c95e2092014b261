"""Recompute the ledger: every journal from what it was made of, and what no sequence of journals may lead to."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from audit_layer.costs.books import owed
from audit_layer.costs.ledger.operations import Operation, journal_of
from audit_layer.costs.ledger.posting import BY_RULE, Posting
from audit_layer.costs.models import JournalRow, PostingRow
from shared.codec.money import exact_sum
from shared.runtime.errors import CounterfoilError

_HELD: Final = {"escrow": 1, "stake": -1, "slash": -1, "bounty": -1, "dispute": -1}
"""Accounts that hold what may only be taken once it is there, and the sign of their balance."""
_MADE: Final = text("""
SELECT journal, tenant, operator, currency, sum(amount) FROM (
  SELECT journal, tenant, operator, currency, amount FROM costs_rated_receipts WHERE journal IS NOT NULL
  UNION ALL
  SELECT c.journal, r.tenant, r.operator, r.currency, CASE WHEN c.payable THEN r.amount ELSE -r.amount END
    FROM costs_corrections c JOIN costs_rated_receipts r USING (receipt) WHERE c.journal IS NOT NULL
) made GROUP BY 1, 2, 3, 4
""")
Postings = Mapping[int, Sequence[Posting]]


def check_ledger(db: Session) -> Iterator[str]:
    """Yield what in journals and balances is not as operations, receipts and corrections make it."""
    found: dict[int, list[Posting]] = defaultdict(list)
    columns = (PostingRow.journal, PostingRow.account, PostingRow.amount, PostingRow.currency)
    for journal, account, amount, currency in db.execute(select(*columns).order_by(PostingRow.id)):
        found[journal].append(Posting(account, amount, currency))
    journals = {row.id: row for row in db.scalars(select(JournalRow).order_by(JournalRow.id))}
    rated = _rated(db)
    for row in journals.values():
        yield from _balance(row, found[row.id])
        if row.mirrors is not None:
            yield from _mirror(row, journals, found)
        elif row.kind in {"usage", "correction"}:
            if sorted(found[row.id]) != sorted(rated.get(row.id, ())):
                yield f"journal {row.id} does not post what its receipts come to"
        elif row.kind in frozenset(Operation):
            if not _operates(row, found[row.id]):
                yield f"journal {row.id} does not post what {row.kind} does"
        elif row.kind not in BY_RULE:
            yield f"journal {row.id} is of no known kind"
    yield from _overdrawn(found)


def _balance(row: JournalRow, postings: Sequence[Posting]) -> Iterator[str]:
    if len(postings) != row.postings:
        yield f"journal {row.id} has {len(postings)} postings, but {row.postings} were made"
    for currency in sorted({posting.currency for posting in postings}):
        rest = exact_sum(posting.amount for posting in postings if posting.currency == currency)
        if rest:
            yield f"journal {row.id} does not balance: it is off by {rest:f} {currency}"


def _mirror(row: JournalRow, journals: Mapping[int, JournalRow], found: Postings) -> Iterator[str]:
    first = journals[row.mirrors or 0]
    undone = [posting._replace(amount=posting.amount.copy_negate()) for posting in found[first.id]]
    if sorted(found[row.id]) != sorted(undone):
        yield f"journal {row.id} does not mirror journal {first.id}"
    if first.mirrors is not None or first.kind in BY_RULE:
        yield f"journal {row.id} mirrors journal {first.id}, which is not mirrored by hand"


def _rated(db: Session) -> dict[int, list[Posting]]:
    """Return what receipts and corrections make of each journal."""
    made: dict[int, list[Posting]] = defaultdict(list)
    for journal, tenant, operator, currency, amount in db.execute(_MADE):
        made[journal] += owed(tenant, operator, amount, currency)
    return made


def _operates(row: JournalRow, postings: Sequence[Posting]) -> bool:
    """Whether an operation's journal has its two accounts, those of its parties."""
    try:
        (debit, _) = postings
        made = journal_of(
            Operation(row.kind),
            key=row.key,
            amount=debit.amount,
            currency=debit.currency,
            day=row.day,
            tenant=row.tenant,
            operator=row.operator,
        )
    except (CounterfoilError, ValueError):
        return False
    return list(made.postings) == list(postings)


def _overdrawn(found: Postings) -> Iterator[str]:
    balances: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for postings in found.values():
        for account, amount, currency in postings:
            balances[account, currency] = exact_sum((balances[account, currency], amount))
    for (account, currency), balance in sorted(balances.items()):
        held = balance * _HELD.get(account.partition(":")[0], 0)
        if held < 0:
            yield f"account {account} has less than was taken from it: {held:f} {currency}"
