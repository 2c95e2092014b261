"""Which operator's invoice bills a charge, as far as invoices are stored. In the caller's transaction."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.charge import Charge
from audit_layer.costs.models import InvoiceRow
from audit_layer.costs.stored_invoices import stored, tenants_of
from shared.codec.moment import Period


class _Known(NamedTuple):
    operator: str
    currency: str
    period: Period
    tenants: frozenset[str]
    """Whom it names; nobody where it is for all."""
    number: str


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
            _Known(row.operator, found.currency, found.period, tenants_of([found]), row.invoice_id)
            for row, found in invoices
            if found.corrects is None
        ]
        self._found: dict[Parties, list[_Known]] = {}

    def of(self, charge: Charge) -> str | None:
        """Return the number of the invoice that bills a charge; None as long as there is none.

        It is of the charge's operator and currency, names its tenant or nobody, and its days hold the charge's billing
        period or, for a receipt that is no correction, its end. One that names the tenant comes before one that names
        nobody, and of two that are alike the later one counts.
        """
        whole = Period(charge.period_start, charge.period_end)
        dated = charge.receipt is not None and not charge.correction
        for known in self._of(charge):
            if _holds(known.period, whole) or (dated and charge.ended in known.period):
                return known.number
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
