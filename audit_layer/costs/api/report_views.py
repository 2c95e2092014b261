"""Answers of the routes of reports. Money is exact text, hashes lower-case hexadecimal, times Unix milliseconds."""

from fractions import Fraction
from typing import Self

from audit_layer.costs.api.views import ChargeView, View
from audit_layer.costs.plausibility.checking import NodeReport
from audit_layer.costs.reporting import exact
from audit_layer.costs.reports import CentreReport
from shared.verification.physics import Finding


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


class FindingView(View):
    """A claim beyond its bound. It convicts nobody, and changes no amount."""

    subject: str
    """The receipt's entry, or the stretch of time."""
    quantity: str
    claimed: float
    bound: float
    """In ms, or mJ for energy."""
    arithmetic: str
    loosened_by: list[str]
    """What was declared that can make the bound looser."""

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Return the view."""
        return cls(
            subject=finding.subject,
            quantity=finding.quantity.value,
            claimed=finding.claimed,
            bound=finding.bound,
            arithmetic=finding.arithmetic,
            loosened_by=list(finding.loosened_by),
        )


class NodeView(View):
    """What was found about one node."""

    node: str
    receipts: int
    findings: dict[str, int]
    """About single receipts, by quantity; `worst` are the worst of them."""
    worst: list[FindingView]
    together: list[FindingView]
    """About receipts that overlap in time: of each kind the worst."""
    unmeasured: dict[str, int]
    """Receipts without a value, by quantity: not zero."""
    unbounded: dict[str, int]
    """Why claims of single receipts had no bound, and how many."""
    unbounded_together: dict[str, int]

    @classmethod
    def of(cls, report: NodeReport) -> Self:
        """Return the view."""
        return cls(
            node=report.node,
            receipts=report.receipts,
            findings={quantity.value: count for quantity, count in sorted(report.found.items())},
            worst=[FindingView.of(each) for each in report.worst],
            together=[FindingView.of(each) for each in report.together],
            unmeasured={each.value: count for each, count in sorted(report.unmeasured.items())},
            unbounded=dict(report.unbounded),
            unbounded_together=dict(report.unbounded_together),
        )


class PlausibilityView(View):
    """An operator's receipts held against its declared hardware."""

    operator: str
    nodes: list[NodeView]
    implausible: bool
    """Whether there is any finding."""
