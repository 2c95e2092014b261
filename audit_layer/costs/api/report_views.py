"""Answers of the routes of reports. Money is exact text, hashes lower-case hexadecimal, times Unix milliseconds."""

from fractions import Fraction
from typing import Self

from audit_layer.costs.api.views import ChargeView, View
from audit_layer.costs.reporting import exact
from audit_layer.costs.reports import CentreReport


class CentreView(View):
    """What one tenant's receipts of a cost centre and model come to."""

    tenant: str
    cost_centre: str | None
    """Blinded; null for orders without tags."""
    model_root: str
    model_name: str | None
    currency: str
    receipts: int
    """Those billed, less those taken back."""
    tokens: int
    amount: str
    held: str
    """The part of `amount` that awaits another worker's verdict."""


class CentresView(View):
    """Spend by cost centre."""

    sums: list[CentreView]
    tenant: str | None
    """Whom `charges` are for: null where days were asked for."""
    currency: str | None
    charges: list[ChargeView]
    """What a contract charges for the whole billing period, which belongs to no cost centre."""

    @classmethod
    def of(cls, report: CentreReport) -> Self:
        """Return the view."""
        return cls(
            sums=[
                CentreView(
                    tenant=one.tenant,
                    cost_centre=None if one.cost_centre is None else one.cost_centre.hex(),
                    model_root=one.model_root.hex(),
                    model_name=report.names.get(one.model_root),
                    currency=one.currency,
                    receipts=one.receipts,
                    tokens=one.tokens,
                    amount=exact(Fraction(one.amount)),
                    held=exact(Fraction(one.held)),
                )
                for one in report.centres.sums
            ],
            tenant=report.tenant,
            currency=report.centres.currency,
            charges=[
                ChargeView(kind=item.kind.value, amount=exact(Fraction(item.amount)), why=item.why)
                for item in report.centres.charges
            ],
        )
