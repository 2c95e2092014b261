"""An operator's invoice in the one form that reconciliation reads, whatever file it came in. Pure.

Nothing in it is trusted: it is what the operator says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from fractions import Fraction

from audit_layer.costs.charge import ChargeKind
from shared.codec.moment import Period


@dataclass(frozen=True, slots=True)
class BilledLine:
    """One line. What a line does not say is None: an invoice may name totals by model only."""

    place: str
    """Where it stands in the file, for people: `row 7`, `lines[3]`."""
    line_id: str
    kind: ChargeKind
    amount: Decimal
    """As stated; negative for discounts and credits."""
    quantity: int | None = None
    """Tokens, requests or GPU-milliseconds. None where the line has only an amount."""
    unit_price: Decimal | None = None
    per: int = 1
    tenant: str | None = None
    node: str | None = None
    model_root: bytes | None = None
    day: date | None = None
    description: str = ""

    @property
    def exact(self) -> Fraction:
        """Quantity × unit price / per; the stated amount where the line has no quantity and price."""
        if self.quantity is None or self.unit_price is None:
            return Fraction(self.amount)
        return Fraction(self.unit_price) * self.quantity / self.per


@dataclass(frozen=True, slots=True)
class BilledInvoice:
    """One invoice, or credit note, of one operator."""

    invoice_id: str
    operator: str
    currency: str
    first: date
    end: date
    """The days [first, end)."""
    period: Period
    """The same days as times, in the invoice's zone."""
    issued: date
    lines: Sequence[BilledLine]
    rounding: Decimal
    total: Decimal
    """Of all lines, tax included, with the rounding."""
    tenant: str | None = None
    """Whom it bills, where it says so once for all lines."""
    corrects: str | None = None
    """The number of the invoice that this one replaces or credits."""
    format: str = "json"
    time_zone: str | None = field(default=None, compare=False)
    """The zone of its days; None where only the bounds of its period say when its days begin. Two files that mean the same
    times may name it differently."""
