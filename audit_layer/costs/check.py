"""Recompute the books from what the log has: every amount, standing, balance, journal and close. Reports, and repairs nothing."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.audit_fees import check_fees
from audit_layer.costs.books import last_corrections
from audit_layer.costs.by_itself import ERASED, Card, cards_in_books, rated_by_itself
from audit_layer.costs.chains import links_of
from audit_layer.costs.check_ledger import check_ledger
from audit_layer.costs.check_periods import check_periods
from audit_layer.costs.models import JournalRow, PostingRow, RatedReceiptRow
from audit_layer.trail.models import OrderRow, ReceiptRow, RefusalRow, StatementRow, VerdictRow
from audit_layer.trail.standings import opinion_of
from shared.codec.money import exact_sum
from shared.runtime.errors import CounterfoilError
from shared.statements.verdicts import Outcome
from shared.verification.payable import ANSWERED, COMPLETE, Claim, State, standings
from shared.verification.rating import price_for, rate_tokens

_PAGE: Final = 1000
_SAME: Final = (
    *("log_index", "order_entry", "tenant", "number", "attempt", "operator", "node", "model_root"),
    *("started", "ended", "rate_card"),
)


def check_books(db: Session) -> Iterator[str]:
    """Yield what in the books differs from what receipts, rate cards, verdicts, contracts and seals imply."""
    cards = cards_in_books(db)
    query = select(RatedReceiptRow, ReceiptRow).outerjoin(
        ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt
    )
    rated: list[tuple[RatedReceiptRow, ReceiptRow | None]] = [
        (row, receipt) for row, receipt in db.execute(query)
    ]
    for row, receipt in rated:
        yield from _receipt(row, receipt, cards)
    yield from _reasons(db, cards)
    yield from _standings(db, [(row, receipt) for row, receipt in rated if receipt is not None])
    yield from _balances(db)
    yield from check_ledger(db)
    yield from check_periods(db)
    yield from check_fees(db)


def _receipt(
    row: RatedReceiptRow, receipt: ReceiptRow | None, cards: Mapping[bytes, Card]
) -> Iterator[str]:
    """Compare one rated receipt with the trail's, and its amount with its tokens at the prices of its card."""
    name = f"receipt {row.receipt.hex()}"
    if receipt is None:
        yield f"{name} is in the books but not in the log"
        return
    yield from (
        f"{name}: {column} is not the receipt's"
        for column in _SAME
        if getattr(row, column) != getattr(receipt, column)
    )
    if row.complete != (receipt.finish in COMPLETE):
        yield f"{name}: complete is not the receipt's"
    cached = receipt.cached_tokens
    tokens = (receipt.input_tokens - cached, cached, receipt.output_tokens)
    if (row.input, row.cached, row.output) != tokens:
        yield f"{name}: its tokens are not the receipt's"
    if row.amount is None:
        return
    if not row.billable and row.reason != ANSWERED:
        yield f"{name} is not billable but has an amount"
    try:
        card = cards[receipt.rate_card].value
        expected = exact_sum(
            line.amount for line in rate_tokens(tokens, price_for(card, receipt.model_root))
        )
        same = row.amount == expected and row.currency == card.currency
    except (CounterfoilError, KeyError):  # no price, hence no amount
        same = False
    if not same:
        yield f"{name}: its amount is not its usage at its rate card's prices"


def _reasons(db: Session, cards: Mapping[bytes, Card]) -> Iterator[str]:
    """Compare why a receipt is not billable with what it and its order say; of an erased one, what was booked stands."""
    query = (
        select(RatedReceiptRow, ReceiptRow, StatementRow.raw, OrderRow.raw)
        .join(ReceiptRow, ReceiptRow.entry == RatedReceiptRow.receipt)
        .join(StatementRow, StatementRow.entry == RatedReceiptRow.receipt)
        .outerjoin(OrderRow, OrderRow.entry == ReceiptRow.order_entry)
        .where(RatedReceiptRow.reason.is_distinct_from(ANSWERED))
        .execution_options(yield_per=_PAGE)
    )
    for row, receipt, raw, order_raw in db.execute(query):
        card = cards.get(receipt.rate_card)
        try:
            rating = rated_by_itself(db, receipt, raw, order_raw, card)
        except CounterfoilError as error:
            yield f"receipt {row.receipt.hex()}: it or its order cannot be read: {error.detail}"
            continue
        if rating.reason not in {row.reason, ERASED}:
            yield (
                f"receipt {row.receipt.hex()}: {_booked(row.reason)} in the books, but"
                f" {_booked(rating.reason)} by what was signed"
            )
        if (
            rating.order is not None
            and row.billable
            and rating.order.cost_centre != row.cost_centre
        ):
            yield f"receipt {row.receipt.hex()}: cost_centre is not the order's"


def _booked(reason: str | None) -> str:
    return "billable" if reason is None else f"not billable ({reason})"


def _standings(db: Session, rated: list[tuple[RatedReceiptRow, ReceiptRow]]) -> Iterator[str]:
    """Compare what the books pay with the rule applied to all receipts and verdicts at once."""
    verdicts = db.scalars(select(VerdictRow).where(VerdictRow.outcome != Outcome.PASS.value))
    every = db.execute(select(RefusalRow.order_entry, RefusalRow.entry))
    refusals = {row.order_entry: row.entry for row in every}
    links = links_of(db)
    claims = [
        Claim(
            receipt=receipt.entry,
            log_index=receipt.log_index,
            order=receipt.order_entry,
            tenant=receipt.tenant,
            number=receipt.number,
            attempt=receipt.attempt,
            complete=receipt.finish in COMPLETE,
            unbillable=None if row.reason == ANSWERED else row.reason,
            refused=refusals.get(receipt.order_entry),
            link=links.get(receipt.entry),
        )
        for row, receipt in rated
    ]
    wanted = standings(claims, map(opinion_of, verdicts))
    last = last_corrections()
    columns = (last.c.receipt, last.c.payable, last.c.reason, last.c.because)
    corrected = {row[0]: tuple(row[1:]) for row in db.execute(select(*columns))}
    for row, _ in rated:
        standing = wanted[row.receipt]
        refused = standing.state is State.REFUSED
        found: tuple[Any, ...] = corrected.get(row.receipt, (True, None, None))
        if not row.billable:
            found = (False, row.reason, None)
            standing = type(standing)(standing.state, standing.reason)
        rule = (False, standing.reason, standing.because) if refused else (True, None, None)
        if found != rule:
            yield (
                f"receipt {row.receipt.hex()} is booked as {_told(found)}, but "
                f"is {_told(rule)} by the rule"
            )


def _told(standing: tuple[Any, ...]) -> str:
    payable, reason, _ = standing
    return "payable" if payable else f"not payable ({reason})"


def _balances(db: Session) -> Iterator[str]:
    """Compare every account with the receipts that are posted and not reversed."""
    last = last_corrections()
    expected: dict[tuple[str, str], list[Decimal]] = defaultdict(list)
    owed = db.execute(
        select(
            RatedReceiptRow.tenant,
            RatedReceiptRow.operator,
            RatedReceiptRow.currency,
            func.sum(RatedReceiptRow.amount),
        )
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(last.c.payable.is_distinct_from(False), RatedReceiptRow.amount.is_not(None))
        .group_by(RatedReceiptRow.tenant, RatedReceiptRow.operator, RatedReceiptRow.currency)
    )
    for tenant, operator, currency, amount in owed:
        total = amount or Decimal(0)
        expected[f"expense:{tenant}", currency or ""].append(total)
        expected[f"payable:{operator}", currency or ""].append(total.copy_negate())
    posted = db.execute(
        select(PostingRow.account, PostingRow.currency, func.sum(PostingRow.amount))
        .join(JournalRow, JournalRow.id == PostingRow.journal)
        .where(JournalRow.kind.in_(("usage", "correction")))
        .group_by(PostingRow.account, PostingRow.currency)
    )
    found = {(account, currency): amount for account, currency, amount in posted}
    for account in sorted({*found, *expected}):
        should = exact_sum(expected.get(account, ()))
        if found.get(account, Decimal(0)) != should:
            yield (
                f"account {account[0]} holds {found.get(account, 0):f} {account[1]}, but "
                f"its receipts add up to {should:f}"
            )
