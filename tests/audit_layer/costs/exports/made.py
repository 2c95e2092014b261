"""Charges for the tests of exports, and a strategy for random ones."""

import json
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from audit_layer.costs.charge import TOKENS, USAGE, AuditState, Charge, ChargeKind
from audit_layer.costs.exports.manifest import About
from shared.codec.moment import month_period
from shared.codec.money import amount_of

MONTH = month_period(2026, 11)
ABOUT = About(MONTH, MONTH.end + 5_000)
MODEL, RECEIPT, CARD, VERDICT = (bytes([number]) * 32 for number in (1, 2, 3, 4))


def charge(kind: ChargeKind = ChargeKind.OUTPUT, **changes: Any) -> Charge:
    """A charge; `amount` follows from quantity and price unless it is given."""
    usage: dict[str, Any] = (
        {"node": "one", "model_root": MODEL, "model_name": "tiny", "receipt": RECEIPT, "log_index": 5, "rate_card": CARD}
        if kind in USAGE
        else {"quantity": 1, "per": 1}
    )  # fmt: skip
    values: dict[str, Any] = {
        "tenant": "acme", "operator": "alpha", "kind": kind, "quantity": 1200, "unit_price": Decimal("0.60"),
        "per": 1_000_000, "currency": "EUR", "started": MONTH.start + 1500, "ended": MONTH.start + 2750,
        "period_start": MONTH.start, "period_end": MONTH.end, **usage, **changes,
    }  # fmt: skip
    amount = amount_of(values["quantity"], values["unit_price"], values["per"])
    return Charge(**{"amount": amount, **values})


def columns(charges: Iterable[Charge]) -> dict[str, list[Any]]:
    """The same charges as a batch of columns."""
    rows = list(charges)
    batch = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Charge)}
    batch["tags"] = [json.dumps(dict(tags)) if tags else None for tags in batch["tags"]]
    for name in ("kind", "audit"):
        batch[name] = [value.value for value in batch[name]]
    return batch


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
_PRICE = st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=9)
_HASH = st.binary(min_size=32, max_size=32)


@st.composite
def charges(draw: st.DrawFn, kinds: Iterable[ChargeKind] = tuple(ChargeKind)) -> Charge:
    """Any charge of these kinds, hostile text included."""
    kind = draw(st.sampled_from(tuple(kinds)))
    used = kind in USAGE
    started = draw(st.integers(MONTH.start, MONTH.end - 1))
    foreign = draw(st.booleans())
    given: dict[str, Any] = {
        # at the highest price and rate, the cost still has 14 digits before 24 after the point: what Parquet holds
        "quantity": draw(st.integers(-(10**9), 10**10)) if used else draw(st.sampled_from((1, -1))),
        "unit_price": draw(_PRICE),
        "per": draw(st.sampled_from((1, 1000, 1_000_000) if kind in TOKENS else (1, 1000))) if used else 1,
        "currency": draw(st.sampled_from(("EUR", "USD", "JPY"))),
        "tenant": draw(st.sampled_from(("acme", "bolt"))),
        "started": started,
        "ended": started + draw(st.integers(0, 100_000)),
        "tags": draw(st.dictionaries(_TEXT, _TEXT, max_size=2)),
        "invoice_id": draw(st.none() | _TEXT),
        "correction": draw(st.booleans()),
        "reason": draw(st.none() | _TEXT),
        "because": draw(st.none() | _HASH),
        "cost_centre": draw(st.none() | _HASH),
        "pricing_currency": "GBP" if foreign else None,
        "fx_rate": Decimal(draw(st.sampled_from(("0.92", "1.1734", "7")))) if foreign else None,
    }  # fmt: skip
    if used:
        given |= {
            "node": draw(st.sampled_from(("one", "two"))),
            "model_name": draw(st.none() | _TEXT),
            "receipt": draw(_HASH),
            "log_index": draw(st.integers(0, 2**62)),
            "audit": draw(st.sampled_from(AuditState)),
            "verified_quantity": draw(st.none() | st.integers(0, 10**12)),
        }
    return charge(kind, **given)
