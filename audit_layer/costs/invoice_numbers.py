"""Which operator's invoice bills a charge, as far as invoices are stored. In the caller's transaction."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.billed import BilledLine
from audit_layer.costs.charge import Charge
from audit_layer.costs.models import InvoiceRow
from audit_layer.costs.stored_invoices import stored, tenants_of
from shared.codec.moment import Period

DAY_MS: Final = 86_400_000


class _Known(NamedTuple):
    operator: str
    currency: str
    period: Period
    tenants: frozenset[str]
    """Whom it names; nobody where it is for all."""
    number: str
    first: date
    lines: Sequence[BilledLine]

    def line_of(self, charge: Charge) -> str | None:
        """Return the line that bills a charge: of its kind, and of its tenant, node, model and day where it names them."""
        day = self.first + timedelta(days=(charge.ended - self.period.start) // DAY_MS)
        for line in self.lines:
            if line.kind is charge.kind and all(
                named is None or named == own
                for named, own in (
                    (line.tenant, charge.tenant),
                    (line.node, charge.node),
                    (line.model_root, charge.model_root),
                    (line.day, day if charge.receipt else None),
                )
            ):
                return line.line_id
        return None


class Numbered(NamedTuple):
    """Where a charge is billed: the invoice, and its line if there is one for it."""

    invoice: str
    line: str | None


Parties = tuple[str, str, str]
"""(operator, tenant, currency)"""


class InvoiceNumbers:
    """The numbers of stored invoices. Credit notes are none of their own: what they correct bills the charge."""

    def __init__(self, db: Session, operator: str | None = None) -> None:
        query = select(InvoiceRow).order_by(InvoiceRow.id.desc())
        if operator is not None:
            query = query.where(InvoiceRow.operator == operator)
        invoices = ((row, stored(db, row)) for row in db.scalars(query))
        self._known = [
            _Known(
                row.operator,
                found.currency,
                found.period,
                tenants_of([found]),
                row.invoice_id,
                found.first,
                found.lines,
            )
            for row, found in invoices
            if found.corrects is None
        ]
        self._found: dict[Parties, list[_Known]] = {}

    def of(self, charge: Charge) -> Numbered | None:
        """Return where a charge is billed; None as long as there is no invoice for it.

        It is of the charge's operator and currency, names its tenant or nobody, and its days hold the charge's billing
        period or, for a receipt that is no correction, its end. One that names the tenant comes before one that names
        nobody, and of two that are alike the later one counts.
        """
        whole = Period(charge.period_start, charge.period_end)
        dated = charge.receipt is not None and not charge.correction
        for known in self._of(charge):
            if _holds(known.period, whole) or (dated and charge.ended in known.period):
                return Numbered(known.number, known.line_of(charge))
        return None

    def _of(self, charge: Charge) -> list[_Known]:
        """Return the invoices of a charge's parties and currency, the best first."""
        parties = (charge.operator, charge.tenant, charge.currency)
        if parties not in self._found:
            fit = [
                known
                for known in self._known
                if (known.operator, known.currency) == (charge.operator, charge.currency)
                and (not known.tenants or charge.tenant in known.tenants)
            ]
            self._found[parties] = sorted(fit, key=lambda known: not known.tenants)
        return self._found[parties]


def _holds(outer: Period, inner: Period) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end
