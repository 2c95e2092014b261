"""The operator's invoice, from its nodes' own meters, never from anything the audit layer knows.
Every line is exact; the sum is rounded to the currency's minor unit once, and the rounding is stated.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from execution_layer.node.request_records import MeterRow
from execution_layer.node.settings import NodeSettings
from execution_layer.node.store import meter_rows, rate_card_statements
from shared.codec.moment import Period, day_of, to_rfc3339
from shared.codec.money import Money, format_decimal, parse_decimal, round_to_minor_unit
from shared.codec.money import amount_of as exact_amount
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import connect
from shared.statements.cose import open_as, parse_statement
from shared.statements.ratecards import Price, RateCard
from shared.verification.trust import key_for


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One billed quantity: tokens of one kind, for one tenant, node, model, day (UTC) and price."""

    line_id: str
    tenant: str
    node: str
    model_root: str
    day: str
    kind: str
    quantity: int
    unit_price: str
    per: int
    amount: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """An operator's claim for a period [start, end)."""

    invoice_id: str
    operator: str
    currency: str
    period_start: str
    period_end: str
    issued_at: str
    lines: tuple[InvoiceLine, ...]
    rounding: str
    total: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True, slots=True)
class MeteredNode:
    """One node's meter readings, and the rate cards that it has used, by entry."""

    node: str
    rows: Sequence[MeterRow]
    cards: dict[bytes, RateCard]


def read_meter(settings: NodeSettings, period: Period) -> MeteredNode:
    """Read a node's meter from its database; the node may be running."""
    db = connect(settings.spool, read_only=True)
    try:
        rows = meter_rows(db, first_day=_day(period.start), end_day=_day(period.end))
        statements = rate_card_statements(db)
    finally:
        db.close()
    cards = {entry: open_as(RateCard, raw, None)[0] for entry, raw in statements.items()}
    return MeteredNode(settings.node, rows, cards)


def make_invoice(
    operator: str,
    nodes: Iterable[MeteredNode],
    period: Period,
    *,
    issued_ms: int,
    invoice_id: str | None = None,
) -> Invoice:
    """Price the meters. CONFLICT if the rate cards have different currencies, NOT_FOUND if there is nothing to bill."""
    lines: list[InvoiceLine] = []
    currencies: set[str] = set()
    for node in nodes:
        for row in node.rows:
            card = node.cards[row.rate_card]
            currencies.add(card.currency)
            lines += _lines(node.node, row, _price(card, row.model_root))
    if not lines:
        raise CounterfoilError(Code.NOT_FOUND, f"nothing was metered in {period}")
    if len(currencies) > 1:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the period has prices in {', '.join(sorted(currencies))}",
            remedy="Invoice the parts of the period separately.",
        )
    (currency,) = currencies
    return total_up(
        Invoice(
            invoice_id=invoice_id or f"{operator}-{_day(period.start)}-{secrets.token_hex(4)}",
            operator=operator,
            currency=currency,
            period_start=to_rfc3339(period.start),
            period_end=to_rfc3339(period.end),
            issued_at=to_rfc3339(issued_ms),
            lines=tuple(lines),
            rounding="0",
            total="0",
        )
    )


def total_up(invoice: Invoice) -> Invoice:
    """Return the invoice with its lines' total, rounded once."""
    exact = Money.sum(
        (Money(Decimal(line.amount), invoice.currency) for line in invoice.lines), invoice.currency
    )
    total, rounding = round_to_minor_unit(exact)
    values = {name: getattr(invoice, name) for name in Invoice.__slots__}
    return Invoice(**{**values, "total": total.text(), "rounding": rounding.text()})


def amount_of(quantity: int, unit_price: str, per: int) -> str:
    """Return quantity × price / per exactly, as a plain decimal without trailing zeros."""
    text = format_decimal(exact_amount(quantity, parse_decimal(unit_price), per))
    return text.rstrip("0").removesuffix(".") if "." in text else text


def _lines(node: str, row: MeterRow, price: Price) -> Iterator[InvoiceLine]:
    """Yield one line per kind of token; cached input has a price of its own."""
    kinds = (
        ("input", row.input - row.cached, price.input),
        ("cached", row.cached, price.cached),
        ("output", row.output, price.output),
    )
    names = f"{node}/{row.tenant}/{row.model_root.hex()}/{row.rate_card.hex()}"
    mark = sha256(names.encode()).hexdigest()[:24]
    for kind, quantity, unit_price in kinds:
        if quantity:
            yield InvoiceLine(
                line_id=f"{row.day}-{kind}-{mark}",
                tenant=row.tenant,
                node=node,
                model_root=row.model_root.hex(),
                day=row.day,
                kind=kind,
                quantity=quantity,
                unit_price=unit_price,
                per=price.per,
                amount=amount_of(quantity, unit_price, price.per),
            )


def _price(card: RateCard, model_root: bytes) -> Price:
    price = card.price_of(model_root)
    if price is None:
        raise CounterfoilError(
            Code.NOT_FOUND, f"rate card {card.name!r} has no price for {model_root.hex()[:16]}…"
        )
    return price


def load_rate_card(path: Path, *operator_keys: bytes) -> tuple[RateCard, bytes, bytes]:
    """Return (card, entry, statement) of a signed rate card; CONFIGURATION if none of the operator's keys signed it."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} cannot be read: {error.strerror}",
            remedy="Make a rate card with `counterfoil node rate-card`.",
        ) from error
    try:
        signed = parse_statement(raw, expected=RateCard.TYPE)
        card, statement = open_as(RateCard, raw, key_for(signed, operator_keys))
    except CounterfoilError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} is not a rate card of this operator: {error.detail}",
            remedy="Sign it again with `counterfoil node rate-card`, or keep the list of earlier keys (operator.keys) beside"
            " the operator's key file.",
        ) from error
    return card, statement.entry, raw


def _day(ms: int) -> str:
    return day_of(ms).isoformat()
