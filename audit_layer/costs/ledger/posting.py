"""Journals: what is posted together, and sums to zero in each currency. The database refuses any other at commit.

Debits are positive and credits negative. Nothing is changed: a journal that was wrong is mirrored by another, once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from audit_layer.costs.models import JournalRow, PostingRow
from shared.codec.moment import now_ms
from shared.codec.money import exact_sum
from shared.runtime.errors import Code, CounterfoilError

SCALE: Final = 24
"""Digits after the point that a posting's column holds."""
LIMIT: Final = Decimal(10) ** 24
"""What a posting's column holds stays below this."""
BY_RULE: Final = frozenset({"usage", "correction", "close", "audit"})
"""Kinds of journals that receipts, verdicts, the close of a period and audits that tenants asked for bring about."""
_COVERED: Final = "costs_account_covered"


class Posting(NamedTuple):
    """One side of a journal."""

    account: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Journal:
    """What is to be posted under an idempotency key."""

    kind: str
    key: str
    day: date
    postings: Sequence[Posting]
    tenant: str | None = None
    operator: str | None = None
    memo: str | None = None
    mirrors: int | None = None

    def __post_init__(self) -> None:
        sums: dict[str, list[Decimal]] = defaultdict(list)
        for posting in self.postings:
            _check_amount(posting.amount)
            sums[posting.currency].append(posting.amount)
        off = {currency: exact_sum(amounts) for currency, amounts in sums.items()}
        if len(self.postings) < 2 or any(off.values()):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"journal {self.key!r} does not balance: it is off by {off}"
            )


def post(db: Session, journal: Journal) -> int:
    """Post a journal and return its id. The same journal again is the same id.

    Errors: CONFLICT when its key was used for another journal.
    """
    return post_all(db, [journal])[0]


def post_all(db: Session, journals: Sequence[Journal]) -> list[int]:
    """Post journals of different keys together and return their ids, in their order; errors as in `post`."""
    keys = [journal.key for journal in journals]
    known = {row.key: row for row in db.scalars(select(JournalRow).where(JournalRow.key.in_(keys)))}
    numbers = {
        journal.key: _the_same(db, known[journal.key], journal)
        for journal in journals
        if journal.key in known
    }
    fresh = [journal for journal in journals if journal.key not in known]
    if fresh:
        made = db.scalars(
            insert(JournalRow).returning(JournalRow.id, sort_by_parameter_order=True),
            [_values(journal) for journal in fresh],
        ).all()
        numbers |= {journal.key: number for journal, number in zip(fresh, made, strict=True)}
        db.execute(
            insert(PostingRow),
            [
                {"journal": number, "account": account, "amount": amount, "currency": currency}
                for journal, number in zip(fresh, made, strict=True)
                for account, amount, currency in journal.postings
            ],
        )
    return [numbers[key] for key in keys]


def _values(journal: Journal) -> dict[str, Any]:
    return {
        "kind": journal.kind,
        "key": journal.key,
        "tenant": journal.tenant,
        "operator": journal.operator,
        "day": journal.day,
        "posted_at": now_ms(),
        "postings": len(journal.postings),
        "mirrors": journal.mirrors,
        "memo": journal.memo,
    }


def mirror(db: Session, number: int, *, day: date, memo: str) -> int:
    """Reverse a whole journal and return the id of its mirror; doing so again returns the same one.

    Errors: NOT_FOUND; INVALID_ARGUMENT for a journal that is itself a mirror, usage, which its receipts correct, or the
    close of a period.
    """
    row = db.get(JournalRow, number)
    if row is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no journal {number}")
    if row.mirrors is not None or row.kind in BY_RULE:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"journal {number} is {row.kind if row.mirrors is None else 'a mirror'}, which is not mirrored by hand",
            remedy="Usage is corrected by verdicts and receipts, also after a close; what a mirror undid is posted anew.",
        )
    postings = [
        Posting(posting.account, posting.amount.copy_negate(), posting.currency)
        for posting in postings_of(db, number)
    ]
    return post(
        db,
        Journal(
            kind=row.kind,
            key=f"mirror {number}",
            day=day,
            postings=postings,
            tenant=row.tenant,
            operator=row.operator,
            memo=memo,
            mirrors=number,
        ),
    )


def check_covered(db: Session) -> None:
    """Check now what the database checks at commit: that no account has less than was taken from it.

    Errors: CONFLICT, naming the account; the transaction is void then.
    """
    try:
        db.connection().exec_driver_sql("SET CONSTRAINTS costs_postings_covered IMMEDIATE")
    except IntegrityError as error:
        told = cast("Any", error.orig).diag
        if told.constraint_name != _COVERED:
            raise
        raise CounterfoilError(
            Code.CONFLICT,
            str(told.message_primary),
            remedy="Nothing was posted. `counterfoil cost ledger balances` shows what each account has.",
        ) from error


def postings_of(db: Session, journal: int) -> list[Posting]:
    """Return a journal's postings, in the order in which they were posted."""
    rows = db.execute(
        select(PostingRow.account, PostingRow.amount, PostingRow.currency)
        .where(PostingRow.journal == journal)
        .order_by(PostingRow.id)
    )
    return [Posting(account, amount, currency) for account, amount, currency in rows]


def _the_same(db: Session, row: JournalRow, journal: Journal) -> int:
    same = row.kind == journal.kind and row.mirrors == journal.mirrors
    if not same or sorted(postings_of(db, row.id)) != sorted(journal.postings):
        raise CounterfoilError(
            Code.CONFLICT,
            f"the key {journal.key!r} was used for another journal ({row.id})",
            remedy="A different journal needs a key of its own.",
        )
    return row.id


def _check_amount(amount: Decimal) -> None:
    """Refuse what the column would round, or cannot hold."""
    exponent = amount.as_tuple().exponent
    exact = isinstance(exponent, int) and exponent >= -SCALE
    if not exact or amount.copy_abs() >= LIMIT:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"{amount} is not an amount below 10^24 with at most {SCALE} digits after the point",
        )
