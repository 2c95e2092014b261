"""What is proven to be owed for the days of an invoice, from the books. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from audit_layer.costs.billing import bill_of
from audit_layer.costs.books import card_of, held, last_corrections
from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.contracts.store import terms_at
from audit_layer.costs.contracts.terms import Cached, last_day
from audit_layer.costs.models import PeriodRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.reading import among, ended_in
from audit_layer.costs.reconciling.variance import Key, Owed, Proven
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.ratecards import Price

_IN_PRICES = frozenset({ChargeKind.ROUNDING, ChargeKind.FEE})
"""Charges that are not compared by themselves: the one fee that a contract knows is in the prices of cached tokens."""


class _Usage(NamedTuple):
    """What receipts of one key, rate card and standing add up to."""

    key: Key
    payable: bool
    tokens: tuple[int, ...]
    price: Price


def owed(
    db: Session,
    operator: str,
    period: Period,
    *,
    tenant: str | None,
    currency: str,
    fees: bool = False,
) -> Owed:
    """Return what a tenant, or every tenant, owes an operator for a period, as an invoice in `currency` would bill it.

    Where a contract bills cached tokens as fresh ones, they have that price; with `fees`, they have their own, and what is
    added is a fee.

    The contract's own charges count for billing periods that lie within the period. Errors: CONFLICT where receipts are
    priced in several currencies of which none is the invoice's, or tenants' contracts bill in different ones or at
    different exchange rates.
    """
    within = (
        RatedReceiptRow.operator == operator,
        *ended_in(period),
        *(() if tenant is None else (RatedReceiptRow.tenant == tenant,)),
    )
    usage = _usage(db, within)
    tenants = sorted({item.key.tenant or "" for items in usage.values() for item in items})
    billing = {name: terms_at(db, name, operator, period.end - 1) for name in tenants}
    if currency not in usage and len(usage) > 1:
        raise CounterfoilError(
            Code.CONFLICT,
            f"{operator} has rate cards in {', '.join(sorted(usage))}, and the invoice is in {currency}",
            remedy="Have the operator send an invoice for each of these currencies.",
        )
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
        rates = {
            terms.fx_rate(priced, last_day(period, terms.time_zone)) for terms in billing.values()
        }
        if len(rates) > 1:
            raise CounterfoilError(
                Code.CONFLICT,
                f"the contracts of {', '.join(tenants)} with {operator} have different exchange rates",
                remedy="Have the operator send an invoice for each tenant.",
            )
        rate = rates.pop()
    as_input = {name for name, terms in billing.items() if terms.cached is Cached.AS_INPUT}
    return Owed(
        proven=_proven(usage.get(priced, ()), frozenset() if fees else as_input),
        currency=priced,
        billing_currency=billed_in,
        fx_rate=Fraction(rate),
        terms=_terms(db, (operator, priced), period, tenants, fees=fees),
        held=_held(db, within, priced) * Fraction(rate),
    )


def _usage(db: Session, within: Sequence[Any]) -> dict[str, list[_Usage]]:
    """Return what receipts prove, and those that are not payable, by currency."""
    last = last_corrections()
    cards = {row.entry: card_of(row) for row in db.scalars(select(RateCardRow))}
    payable = and_(RatedReceiptRow.billable, last.c.payable.is_distinct_from(False))
    group = (
        RatedReceiptRow.tenant,
        RatedReceiptRow.node,
        RatedReceiptRow.model_root,
        RatedReceiptRow.rate_card,
        payable,
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
    unpriced: list[tuple[Key, tuple[int, ...]]] = []
    for tenant, node, root, entry, ok, *sums in db.execute(query):
        key, tokens, card = Key(tenant, node, root), tuple(map(int, sums)), cards.get(entry)
        price = None if card is None else card.price_of(root)
        if card is None or price is None:
            unpriced.append((key, tokens))
        else:
            found[card.currency].append(_Usage(key, ok, tokens, price))
    for key, tokens in unpriced:  # never payable; at the price of what the key has otherwise
        for usage in found.values():
            other = next((item for item in usage if item.key == key), None)
            if other is not None:
                usage.append(_Usage(key, False, tokens, other.price))
                break
    return found


def _proven(usage: Sequence[_Usage], as_input: Collection[str]) -> list[Proven]:
    found = []
    for key, payable, tokens, price in usage:
        counted = dict(zip(TOKENS, tokens, strict=True))
        none: dict[ChargeKind, int] = {}
        prices = {
            kind: Fraction(unit) / price.per
            for kind, unit in zip(TOKENS, price.amounts(), strict=True)
        }
        if key.tenant in as_input:
            prices[ChargeKind.CACHED] = prices[ChargeKind.INPUT]
        found.append(
            Proven(key, counted if payable else none, prices, none if payable else counted)
        )
    return found


def _terms(
    db: Session,
    operator_and_currency: tuple[str, str],
    period: Period,
    tenants: Sequence[str],
    *,
    fees: bool,
) -> dict[ChargeKind, Fraction]:
    operator, currency = operator_and_currency
    rows = db.scalars(
        select(PeriodRow).where(
            PeriodRow.operator == operator,
            PeriodRow.currency == currency,
            PeriodRow.tenant.in_(tenants),
            PeriodRow.start >= period.start,
            PeriodRow.end <= period.end,
        )
    ).all()
    found: dict[ChargeKind, Fraction] = defaultdict(Fraction)
    for row in rows:
        for charge in bill_of(db, row).charges:
            if charge.kind not in ({ChargeKind.ROUNDING} if fees else _IN_PRICES):
                found[charge.kind] += Fraction(charge.amount)
    return dict(found)


def _held(db: Session, within: Sequence[Any], currency: str) -> Fraction:
    last = last_corrections()
    amount = db.scalar(
        select(func.sum(RatedReceiptRow.amount))
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(
            *within,
            RatedReceiptRow.billable,
            RatedReceiptRow.currency == currency,
            last.c.payable.is_distinct_from(False),
            among(RatedReceiptRow.receipt, held(db)),
        )
    )
    return Fraction(amount or 0)
