"""Answers of the cost routes. Money is exact text, hashes lower-case hexadecimal, times Unix milliseconds."""

from decimal import Decimal
from fractions import Fraction
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from audit_layer.costs.contracts.bill import Bill
from audit_layer.costs.contracts.store import Contract
from audit_layer.costs.interval import Interval
from audit_layer.costs.invoicing import Listed, Outcome
from audit_layer.costs.ledger.balances import Balance, Entry
from audit_layer.costs.reconciling.words import headline, in_words
from audit_layer.costs.reporting import as_json, exact
from audit_layer.costs.schedule import PeriodState
from shared.codec.money import format_decimal


def plain(amount: Decimal) -> str:
    """Return an exact amount without zeros that say nothing."""
    return exact(Fraction(amount))


class View(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class PeriodView(View):
    """A billing period."""

    id: int
    tenant: str
    operator: str
    currency: str
    """Of the rate cards."""
    start: int
    end: int
    time_zone: str
    state: str
    since: int | None
    """When it was put into that state; null while it was always open."""
    by: str | None
    seal: str | None
    """Entry of the seal that closed it."""

    @classmethod
    def of(cls, item: PeriodState) -> Self:
        """Return the view."""
        row = item.row
        return cls(
            id=row.id,
            tenant=row.tenant,
            operator=row.operator,
            currency=row.currency,
            start=row.start,
            end=row.end,
            time_zone=row.time_zone,
            state=item.state,
            since=item.since,
            by=item.by,
            seal=None if item.seal is None else item.seal.hex(),
        )


class ChargeView(View):
    """One charge of a whole period."""

    kind: str
    amount: str
    why: str


class BillView(View):
    """A period's bill."""

    currency: str
    usage: str
    charges: list[ChargeView]
    held: str
    """The part of `total` that awaits another worker's verdict: not due yet."""
    total: str
    due: str
    usage_priced: str
    pricing_currency: str
    fx_rate: str
    contract: str
    """Digest of the terms."""

    @classmethod
    def of(cls, bill: Bill) -> Self:
        """Return the view."""
        text = plain
        return cls(
            currency=bill.currency,
            usage=text(bill.usage),
            charges=[
                ChargeView(kind=item.kind.value, amount=text(item.amount), why=item.why)
                for item in bill.charges
            ],
            held=text(bill.held),
            total=format_decimal(bill.total),
            due=text(bill.due),
            usage_priced=text(bill.usage_priced),
            pricing_currency=bill.pricing_currency,
            fx_rate=text(bill.fx_rate),
            contract=bill.contract.hex(),
        )


class ContractView(View):
    """Recorded terms."""

    id: int
    tenant: str
    operator: str
    terms: dict[str, Any]
    digest: str
    supersedes: int | None
    superseded_by: int | None
    recorded_at: int
    recorded_by: str

    @classmethod
    def of(cls, item: Contract) -> Self:
        """Return the view."""
        return cls(
            id=item.id,
            tenant=item.terms.tenant,
            operator=item.terms.operator,
            terms=item.terms.model_dump(mode="json"),
            digest=item.terms.digest.hex(),
            supersedes=item.supersedes,
            superseded_by=item.superseded_by,
            recorded_at=item.recorded_at,
            recorded_by=item.recorded_by,
        )


class InvoiceView(View):
    """A stored invoice and the state of its case."""

    id: int
    operator: str
    invoice_id: str
    format: str
    received_at: int
    received_by: str
    state: str | None
    """Null before it was compared."""
    gap: str | None
    currency: str | None

    @classmethod
    def of(cls, item: Listed) -> Self:
        """Return the view."""
        return cls(
            id=item.id,
            operator=item.operator,
            invoice_id=item.invoice_id,
            format=item.format,
            received_at=item.received_at,
            received_by=item.received_by,
            state=item.state,
            gap=item.gap,
            currency=item.currency,
        )


class SentenceView(View):
    """One part of a variance in words."""

    part: str
    amount: str
    text: str
    do: str


class EventView(View):
    """One change of a case."""

    state: str
    by: str
    at: int
    note: str
    amount: str


class IntervalView(View):
    """What the beacon's sample says about all receipts that an invoice bills, in its currency."""

    confidence: str
    low: str
    high: str
    found: str
    """What audits proved to be overbilled."""
    open: str
    """What audits without an answer may add."""
    unaudited: str
    """The amount of the receipts that nobody audited."""
    sentence: str

    @classmethod
    def of(cls, interval: Interval, currency: str) -> Self:
        """Return the view."""
        text = plain
        return cls(
            confidence=text(interval.confidence),
            low=text(interval.low),
            high=text(interval.high),
            found=text(interval.found),
            open=text(interval.open),
            unaudited=text(interval.unaudited),
            sentence=interval.sentence(currency),
        )


class ReconciliationView(View):
    """An invoice compared with what is proven."""

    id: int
    invoice_id: str
    operator: str
    tenant: str | None
    currency: str
    proven: str
    held: str
    billed: str
    tax: str
    gap: str
    fx_billed: str | None
    parts: dict[str, str]
    terms: dict[str, str]
    keys: list[dict[str, Any]]
    state: str
    history: list[EventView]
    headline: str
    sentences: list[SentenceView]
    sample: IntervalView | None
    """Null without receipts."""

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """Return the view."""
        names = outcome.names
        words = in_words(outcome.result, lambda root: names.get(root, root.hex()[:16]))
        data: dict[str, Any] = as_json(outcome.result)
        return cls(
            id=outcome.id,
            **data,
            state=outcome.history[-1].state,
            history=[
                EventView(
                    state=event.state, by=event.by, at=event.at, note=event.note, amount=exact(event.amount)
                )
                for event in outcome.history
            ],
            headline=headline(outcome.result),
            sample=None
            if outcome.interval is None
            else IntervalView.of(outcome.interval, outcome.result.currency),
            sentences=[
                SentenceView(part=one.part, amount=exact(one.amount), text=one.text, do=one.do)
                for one in words
            ],
        )  # fmt: skip


class BalanceView(View):
    """What an account holds: debits positive."""

    account: str
    currency: str
    amount: str

    @classmethod
    def of(cls, item: Balance) -> Self:
        """Return the view."""
        return cls(account=item.account, currency=item.currency, amount=plain(item.amount))


class EntryView(View):
    """One posting of an account's statement."""

    journal: int
    kind: str
    day: str
    amount: str
    balance: str
    currency: str
    memo: str | None
    mirrors: int | None

    @classmethod
    def of(cls, item: Entry) -> Self:
        """Return the view."""
        return cls(
            journal=item.journal,
            kind=item.kind,
            day=item.day.isoformat(),
            amount=plain(item.amount),
            balance=plain(item.balance),
            currency=item.currency,
            memo=item.memo,
            mirrors=item.mirrors,
        )
