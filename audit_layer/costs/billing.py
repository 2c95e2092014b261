"""A billing period's lines, usage and bill, from the books. In the caller's transaction."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from audit_layer.costs.books import card_of, held
from audit_layer.costs.charge import TOKENS, AuditState, Charge, ChargeKind
from audit_layer.costs.contracts.bill import Bill, Usage, Used, make_bill
from audit_layer.costs.contracts.store import terms_at, terms_by_digest
from audit_layer.costs.contracts.terms import Terms, default_terms, last_day
from audit_layer.costs.models import PeriodEventRow, PeriodRow, RateCardRow, RatedReceiptRow
from audit_layer.costs.periods import CLOSED
from shared.codec.moment import Period
from shared.codec.money import amount_of, exact_sum
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.ratecards import Price
from shared.statements.verdicts import Outcome
from shared.verification.rating import price_for

NET: Final = """
WITH changed AS (
  SELECT receipt, sum(CASE WHEN payable THEN 1 ELSE -1 END) AS net, max(turn) AS turn
    FROM costs_corrections WHERE period = :period GROUP BY receipt
), lines AS (
  SELECT r.*, (coalesce(r.period = :period, false)::int + coalesce(c.net, 0))::int AS net, c.turn
    FROM costs_rated_receipts r LEFT JOIN changed c USING (receipt) WHERE r.period = :period
  UNION ALL
  SELECT r.*, c.net::int, c.turn FROM changed c JOIN costs_rated_receipts r USING (receipt)
   WHERE r.period IS DISTINCT FROM :period
)
"""
"""What a period adds: receipts that it bills (net 1) or takes back (net −1)."""
_LINES: Final = text(f"{NET} SELECT receipt, net FROM lines WHERE net <> 0 ORDER BY log_index")  # noqa: S608  # constants
CHARGES: Final = text(
    f"{NET} SELECT l.*, x.reason AS why, x.because, v.outcome AS verdict FROM lines l"  # noqa: S608
    " LEFT JOIN costs_corrections x ON x.receipt = l.receipt AND x.turn = l.turn"
    " LEFT JOIN LATERAL (SELECT outcome FROM trail_verdicts WHERE receipt = l.receipt"
    " ORDER BY log_index DESC LIMIT 1) v ON true WHERE l.net <> 0 ORDER BY l.log_index"
)
_USED: Final = text(
    f"{NET} SELECT model_root, rate_card, sum(net * input) AS input, sum(net * cached) AS cached,"  # noqa: S608
    " sum(net * output) AS output, sum(net) AS requests FROM lines WHERE net <> 0 GROUP BY 1, 2 ORDER BY 1, 2"
)
_GPU: Final = text(
    f"{NET} SELECT coalesce(sum(net * t.compute_ms), 0) FROM lines JOIN trail_receipts t ON t.entry = lines.receipt"  # noqa: S608
)
_FAILED: Final = text(
    "SELECT coalesce(sum(r.amount), 0) FROM costs_corrections c JOIN costs_rated_receipts r USING (receipt)"
    " WHERE c.period = :period AND NOT c.payable AND c.reason LIKE 'confirmed FAIL%'"
)
PAGE: Final = 10_000
_EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])


def period_row(db: Session, number: int) -> PeriodRow:
    """Return a period; NOT_FOUND if there is none."""
    row = db.get(PeriodRow, number)
    if row is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no billing period {number}")
    return row


def lines_of(db: Session, period: int) -> Iterator[tuple[bytes, int]]:
    """Yield a period's lines in order of log index: (receipt, net)."""
    rows = db.execute(_LINES, {"period": period}, execution_options={"yield_per": PAGE})
    return ((bytes(receipt), net) for receipt, net in rows)


def usage_of(db: Session, row: PeriodRow, *, gpu: bool) -> Usage:
    """Return what a period bills."""
    given = {"period": row.id}
    prices = Prices(db)
    used: dict[tuple[bytes, ChargeKind], list[Used]] = defaultdict(list)
    requests, saving = 0, Decimal(0)
    for found in db.execute(_USED, given):
        price, root = prices.of(found.rate_card, found.model_root).price, bytes(found.model_root)
        fresh, cached, _ = price.amounts()
        saving = exact_sum((saving, amount_of(int(found.cached), fresh - cached, price.per)))
        requests += int(found.requests)
        for kind, unit in zip(TOKENS, price.amounts(), strict=True):
            tokens = int(getattr(found, kind.value))
            used[root, kind].append(Used(root, kind, tokens, amount_of(tokens, unit, price.per)))
    waiting = list(held(db))
    stuck = db.scalar(
        select(func.sum(RatedReceiptRow.amount)).where(
            RatedReceiptRow.period == row.id, RatedReceiptRow.receipt.in_(waiting)
        )
    )
    return Usage(
        used=[_summed(items) for items in used.values()],
        currency=row.currency,
        requests=requests,
        gpu_ms=int(db.scalar(_GPU, given) or 0) if gpu else 0,
        failed=db.scalar(_FAILED, given) or Decimal(0),
        cached_saving=saving,
        held=stuck or Decimal(0),
    )


def _summed(items: Sequence[Used]) -> Used:
    return items[0]._replace(
        tokens=sum(item.tokens for item in items),
        amount=exact_sum(item.amount for item in items),
    )


def bill_of(db: Session, row: PeriodRow) -> Bill:
    """Return a period's bill: as it stands, under the terms in force on its last day; a closed one as it was closed.

    Errors: CONFLICT where the terms have no exchange rate; NOT_FOUND where those of a closed one are not in the books.
    """
    closed = _closed(db, row.id)
    terms = terms_at(db, row.tenant, row.operator, row.end - 1) if closed is None else closed.terms
    usage = usage_of(db, row, gpu=terms.per_gpu_second > 0)
    day = last_day(Period(row.start, row.end), row.time_zone)
    used = credits_used(db, row, None if closed is None else closed.at)
    bill = make_bill(usage, terms, day, used)
    return bill if closed is None else replace(bill, held=closed.held)


class _Closed(NamedTuple):
    """What the bill of a closed period rests on, besides its lines."""

    at: int
    terms: Terms
    held: Decimal
    """What awaited another verdict at the close: later ones change nothing of the bill."""


def _closed(db: Session, period: int) -> _Closed | None:
    row = db.scalar(
        select(PeriodEventRow).where(
            PeriodEventRow.period == period, PeriodEventRow.state == CLOSED
        )
    )
    if row is None:
        return None
    document = json.loads(row.bill or b"{}")
    digest = bytes.fromhex(document["contract"])
    parties = period_row(db, period)
    terms = terms_by_digest(db, digest)
    if terms is None:
        terms = default_terms(parties.tenant, parties.operator)
        if terms.digest != digest:
            raise CounterfoilError(
                Code.NOT_FOUND,
                f"billing period {period} was billed under terms that are not in the books: {digest.hex()}",
            )
    return _Closed(row.at, terms, Decimal(document["held"]))


def credits_used(db: Session, row: PeriodRow, before: int | None = None) -> Mapping[str, Decimal]:
    """Return how much of each credit other periods of the two parties used: those closed before a time (ms), or all."""
    documents = db.scalars(
        select(PeriodEventRow.bill)
        .join(PeriodRow, PeriodRow.id == PeriodEventRow.period)
        .where(
            PeriodEventRow.state == CLOSED,
            PeriodRow.tenant == row.tenant,
            PeriodRow.operator == row.operator,
            PeriodRow.id != row.id,
            *(() if before is None else (PeriodEventRow.at < before,)),
        )
    )
    used: dict[str, list[Decimal]] = defaultdict(list)
    for document in documents:
        for charge in json.loads(document or b"{}").get("charges", ()):
            if charge["id"]:
                used[charge["id"]].append(-Decimal(charge["amount"]))
    return {name: exact_sum(amounts) for name, amounts in used.items()}


def charges_of(db: Session, row: PeriodRow, names: Mapping[bytes, str]) -> Iterator[Charge]:
    """Yield a period's charges: those of receipts in order of log index, then those of the whole period.

    All are in the currency of the bill.
    """
    bill = bill_of(db, row)
    prices, waiting = Prices(db, bill.fx_rate), held(db)
    foreign = bill.currency != bill.pricing_currency
    rows = db.execute(CHARGES, {"period": row.id}, execution_options={"yield_per": PAGE})
    for found in rows:
        price = prices.of(found.rate_card, found.model_root)
        stuck = waiting.get(bytes(found.receipt))
        state = AuditState.HELD if stuck else audit_state(found.verdict, found.net)
        for kind, unit in price.units.items():
            tokens = found.net * getattr(found, kind.value)
            if tokens:
                yield Charge(
                    tenant=found.tenant,
                    operator=found.operator,
                    kind=kind,
                    quantity=tokens,
                    unit_price=unit,
                    per=price.per,
                    amount=amount_of(tokens, unit, price.per),
                    currency=bill.currency,
                    started=found.started,
                    ended=found.ended,
                    period_start=row.start,
                    period_end=row.end,
                    node=found.node,
                    model_root=bytes(found.model_root),
                    model_name=names.get(bytes(found.model_root)),
                    receipt=bytes(found.receipt),
                    log_index=found.log_index,
                    rate_card=bytes(found.rate_card),
                    cost_centre=found.cost_centre and bytes(found.cost_centre),
                    correction=found.net < 0 or not row.start <= found.ended < row.end,
                    audit=state,
                    verified_quantity=tokens if state is AuditState.PASSED else None,
                    reason=stuck.reason if stuck else found.why,
                    because=stuck.because if stuck else found.because and bytes(found.because),
                    pricing_currency=bill.pricing_currency if foreign else None,
                    fx_rate=bill.fx_rate if foreign else None,
                )
    for charge in bill.charges:
        yield Charge(
            tenant=row.tenant,
            operator=row.operator,
            kind=charge.kind,
            quantity=charge.quantity,
            unit_price=charge.amount if charge.unit_price is None else charge.unit_price,
            per=charge.per,
            amount=charge.amount,
            currency=bill.currency,
            started=row.start,
            ended=row.end,
            period_start=row.start,
            period_end=row.end,
            reason=charge.why,
        )


def audit_state(verdict: str | None, net: int) -> AuditState:
    """Return what the last verdict about a receipt says of its charge; an exact replay found every count that it bills."""
    if net < 0:
        return AuditState.FAILED
    return {
        Outcome.PASS.value: AuditState.PASSED,
        Outcome.INCONCLUSIVE.value: AuditState.INCONCLUSIVE,
    }.get(verdict or "", AuditState.UNAUDITED)


@dataclass(frozen=True, slots=True)
class Priced:
    """The prices of one model, in the currency of the bill."""

    price: Price
    units: Mapping[ChargeKind, Decimal]
    """Of `per` tokens of each kind."""
    per: int


class Prices:
    """Prices by rate card and model."""

    def __init__(self, db: Session, rate: Decimal = Decimal(1)) -> None:
        self._db = db
        self._rate = rate
        self._known: dict[tuple[bytes, bytes], Priced] = {}

    def of(self, card: bytes, model_root: bytes) -> Priced:
        """Return the prices that something was rated at."""
        key = (bytes(card), bytes(model_root))
        if key not in self._known:
            price = price_for(card_of(self._db.get_one(RateCardRow, key[0])), key[1])
            units = (_EXACT.multiply(amount, self._rate) for amount in price.amounts())
            self._known[key] = Priced(price, dict(zip(TOKENS, units, strict=True)), price.per)
        return self._known[key]
