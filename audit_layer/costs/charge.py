"""A charge: one line of what a period adds to a tenant's bill, as exports, seals and reports take it. Pure.

A *usage* charge is one kind of consumption of one receipt at one price. A *period* charge belongs to no receipt: it
follows from the contract and from the period's usage as a whole (a volume discount, a minimum, a credit, rounding).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final


class ChargeKind(StrEnum):
    """What is charged for."""

    INPUT = "input"
    """Prompt tokens that no cache held."""
    CACHED = "cached"
    OUTPUT = "output"
    REQUEST = "request"
    GPU_SECOND = "gpu-second"
    """A claim of the node's, bounded by physics; charged only where the contract says so."""
    DISCOUNT = "discount"
    CREDIT = "credit"
    MINIMUM = "minimum"
    """What a committed minimum adds to usage that stayed below it."""
    FEE = "fee"
    TAX = "tax"
    ROUNDING = "rounding"


TOKENS: Final = (ChargeKind.INPUT, ChargeKind.CACHED, ChargeKind.OUTPUT)
USAGE: Final = (*TOKENS, ChargeKind.REQUEST, ChargeKind.GPU_SECOND)


class AuditState(StrEnum):
    """What the audit layer knows about the receipt behind a charge."""

    UNAUDITED = "unaudited"
    """Not drawn, or not judged yet."""
    PASSED = "passed"
    HELD = "held"
    """A FAIL awaits another worker's verdict."""
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge. Times in ms, periods half-open; `amount` = `quantity` × `unit_price` / `per`, exactly."""

    tenant: str
    operator: str
    kind: ChargeKind
    quantity: int
    """Tokens, requests, GPU-milliseconds (with `per` 1000); 1 for a period charge. Negative in a correction."""
    unit_price: Decimal
    per: int
    amount: Decimal
    currency: str
    started: int
    ended: int
    period_start: int
    period_end: int
    node: str | None = None
    model_root: bytes | None = None
    model_name: str | None = None
    receipt: bytes | None = None
    log_index: int | None = None
    rate_card: bytes | None = None
    cost_centre: bytes | None = None
    """The blinded tag, as it is in the order."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What a holder of the tenant's tag key reads in `cost_centre`."""
    invoice_id: str | None = None
    """The number of the operator's invoice for this period, once there is one."""
    invoice_line: str | None = None
    """That invoice's line that bills it."""
    correction: bool = False
    """Whether it reverses (negative) or restores a charge of an earlier period."""
    audit: AuditState = AuditState.UNAUDITED
    verified_quantity: int | None = None
    """The quantity that a replay found; None where none was made."""
    reason: str | None = None
    because: bytes | None = None
    """Why it is held or corrected, and the entry of the statement that says so."""
    pricing_currency: str | None = None
    """The rate card's currency where the bill is in another one; `unit_price` and `amount` are in the bill's."""
    fx_rate: Decimal | None = None
    """Units of `currency` for one of `pricing_currency`."""

    @property
    def held(self) -> bool:
        """Whether it is not payable yet."""
        return self.audit is AuditState.HELD
