"""A billing period's usage charges as columns, for exports of millions of rows. In the caller's transaction."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy.orm import Session

from audit_layer.costs.billing import CHARGES, Prices, audit_state, bill_of
from audit_layer.costs.books import held
from audit_layer.costs.charge import TOKENS, AuditState
from audit_layer.costs.models import PeriodRow
from shared.verification.payable import Standing

PAGE: Final = 20_000
_PASSED: Final = AuditState.PASSED.value
_SAME: Final = (
    *("tenant", "operator", "started", "ended", "node", "model_root", "receipt"),
    *("log_index", "rate_card", "cost_centre"),
)
"""Columns that a charge has from its receipt's row."""


def usage_batches(
    db: Session, row: PeriodRow, names: Mapping[bytes, str]
) -> Iterator[dict[str, Any]]:
    """Yield the charges of `billing.charges_of` that belong to receipts, as columns by the names of `Charge`'s fields."""
    bill = bill_of(db, row)
    foreign = bill.currency != bill.pricing_currency
    constants = {
        "currency": bill.currency,
        "period_start": row.start,
        "period_end": row.end,
        "pricing_currency": bill.pricing_currency if foreign else None,
        "fx_rate": bill.fx_rate if foreign else None,
    }
    prices, waiting = Prices(db, bill.fx_rate), held(db)
    result = db.execute(CHARGES, {"period": row.id}, execution_options={"yield_per": PAGE})
    places = {name: place for place, name in enumerate(result.keys())}
    for page in result.partitions(PAGE):
        columns: list[Any] = list(zip(*page, strict=True))
        given = {name: columns[place] for name, place in places.items()}
        for batch in _by_kind(given, row, prices, waiting, names):
            yield constants | batch


def _by_kind(
    given: Mapping[str, Any],
    row: PeriodRow,
    prices: Prices,
    waiting: Mapping[bytes, Standing],
    names: Mapping[bytes, str],
) -> Iterator[dict[str, Any]]:
    receipts, nets, ended = given["receipt"], given["net"], given["ended"]
    stuck = [waiting.get(receipt) for receipt in receipts] if waiting else [None] * len(receipts)
    priced = [
        prices.of(card, model)
        for card, model in zip(given["rate_card"], given["model_root"], strict=True)
    ]
    shared = {name: list(given[name]) for name in _SAME} | {
        "model_name": [names.get(root) for root in given["model_root"]],
        "correction": [
            net < 0 or not row.start <= end < row.end for net, end in zip(nets, ended, strict=True)
        ],
        "audit": [
            (AuditState.HELD if wait else audit_state(verdicts, net)).value
            for wait, verdicts, net in zip(stuck, given["verdict"], nets, strict=True)
        ],
        "reason": [
            wait.reason if wait else why for wait, why in zip(stuck, given["why"], strict=True)
        ],
        "because": [
            wait.because if wait else why for wait, why in zip(stuck, given["because"], strict=True)
        ],
    }
    for kind in TOKENS:
        chosen = [at for at, quantity in enumerate(given[kind.value]) if quantity]
        if not chosen:
            continue
        tokens = given[kind.value]
        yield {
            **{name: [values[at] for at in chosen] for name, values in shared.items()},
            "kind": kind.value,
            "quantity": [nets[at] * tokens[at] for at in chosen],
            "unit_price": [priced[at].units[kind] for at in chosen],
            "per": [priced[at].per for at in chosen],
            "verified_quantity": [
                nets[at] * tokens[at] if shared["audit"][at] == _PASSED else None for at in chosen
            ],
        }
