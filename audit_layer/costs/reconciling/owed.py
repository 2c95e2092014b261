"""What is proven to be owed for the days of an invoice, from the books. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.billing import bill_of
from audit_layer.costs.books import card_of, held, last_corrections
from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.contracts.store import terms_at
from audit_layer.costs.contracts.terms import last_day
from audit_layer.costs.models import PeriodRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.reading import among, ended_in
from audit_layer.costs.reconciling.variance import Key, Owed, Proven
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.ratecards import Price
from shared.verification.rating import price_for


class _Usage(NamedTuple):
    """What receipts of one key, rate card and standing add up to."""

    key: Key
    payable: bool
    tokens: tuple[int, ...]
    price: Price


def owed(db: Session, operator: str, period: Period, *, tenant: str | None, currency: str) -> Owed:
    """Return what a tenant, or every tenant, owes an operator for a period, as an invoice in `currency` would bill it.

    The contract's own charges count for billing periods that lie within the period. Errors: CONFLICT where receipts are
    priced in several currencies of which none is the invoice's, or tenants' contracts bill in different ones.
    """
    within = (
        RatedReceiptRow.operator == operator,
        RatedReceiptRow.amount.is_not(None),
        *ended_in(period),
        *(() if tenant is None else (RatedReceiptRow.tenant == tenant,)),
    )
    usage = _usage(db, within)
    tenants = sorted({item.key.tenant or "" for items in usage.values() for item in items})
    billing = {name: terms_at(db, name, operator, period.end - 1) for name in tenants}
    priced = currency if currency in usage or not usage else min(usage)
    wanted = {terms.currency or priced for terms in billing.values()} or {currency}
    if len(wanted) > 1:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the contracts of {', '.join(tenants)} with {operator} bill in {', '.join(sorted(wanted))}",
            remedy="Have the operator send an invoice for each tenant.",
        )
    billed_in = wanted.pop()
    rate = Decimal(1)
    if billed_in != priced and tenants:
        first = billing[tenants[0]]
        rate = first.fx_rate(priced, last_day(period, first.time_zone))
    return Owed(
        proven=_proven(usage.get(priced, ())),
        currency=priced,
        billing_currency=billed_in,
        fx_rate=Fraction(rate),
        terms=_terms(db, operator, period, tenants),
        held=_held(db, within, priced) * Fraction(rate),
    )


def _usage(db: Session, within: Sequence[Any]) -> dict[str, list[_Usage]]:
    """Return what receipts prove, by currency."""
    last = last_corrections()
    cards = {row.entry: card_of(row) for row in db.scalars(select(RateCardRow))}
    group = (
        RatedReceiptRow.currency,
        RatedReceiptRow.tenant,
        RatedReceiptRow.node,
        RatedReceiptRow.model_root,
        RatedReceiptRow.rate_card,
        last.c.payable.is_distinct_from(False),
    )
    columns = (RatedReceiptRow.input, RatedReceiptRow.cached, RatedReceiptRow.output)
    query = (
        select(*group, *map(func.sum, columns))
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(*within)
        .group_by(*group)
        .order_by(*group)
    )
    found: dict[str, list[_Usage]] = defaultdict(list)
    for currency, tenant, node, root, card, payable, *tokens in db.execute(query):
        price = price_for(cards[card], root)
        found[currency or ""].append(
            _Usage(Key(tenant, node, root), payable, tuple(map(int, tokens)), price)
        )
    return found


def _proven(usage: Sequence[_Usage]) -> list[Proven]:
    found = []
    for key, payable, tokens, price in usage:
        counted = dict(zip(TOKENS, tokens, strict=True))
        none: dict[ChargeKind, int] = {}
        prices = {
            kind: Fraction(unit) / price.per
            for kind, unit in zip(TOKENS, price.amounts(), strict=True)
        }
        found.append(
            Proven(key, counted if payable else none, prices, none if payable else counted)
        )
    return found


def _terms(
    db: Session, operator: str, period: Period, tenants: Sequence[str]
) -> dict[ChargeKind, Fraction]:
    rows = db.scalars(
        select(PeriodRow).where(
            PeriodRow.operator == operator,
            PeriodRow.tenant.in_(tenants),
            PeriodRow.start >= period.start,
            PeriodRow.end <= period.end,
        )
    ).all()
    found: dict[ChargeKind, Fraction] = defaultdict(Fraction)
    for row in rows:
        for charge in bill_of(db, row).charges:
            if charge.kind is not ChargeKind.ROUNDING:
                found[charge.kind] += Fraction(charge.amount)
    return dict(found)


def _held(db: Session, within: Sequence[Any], currency: str) -> Fraction:
    last = last_corrections()
    amount = db.scalar(
        select(func.sum(RatedReceiptRow.amount))
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(
            *within,
            RatedReceiptRow.currency == currency,
            last.c.payable.is_distinct_from(False),
            among(RatedReceiptRow.receipt, held(db)),
        )
    )
    return Fraction(amount or 0)
