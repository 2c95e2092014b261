"""FOCUS 1.4 Billing Period: which periods an operator bills, and whether they are closed. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from audit_layer.costs.exports.focus_rows import SECOND
from audit_layer.costs.exports.table import Column, Dataset, Kind, Row
from shared.codec.moment import Period

BILLING_PERIOD_1_4: Final = Dataset(
    "BillingPeriod",
    "1.4",
    (
        Column("BillingPeriodCreated", Kind.TIME),
        Column("BillingPeriodEnd", Kind.TIME),
        Column("BillingPeriodLastUpdated", Kind.TIME),
        Column("BillingPeriodStart", Kind.TIME),
        Column("BillingPeriodStatus", Kind.TEXT),
        Column("InvoiceIssuerName", Kind.TEXT),
    ),
)


@dataclass(frozen=True, slots=True)
class BilledPeriod:
    """One period of one operator. Times in ms."""

    operator: str
    period: Period
    created: int
    closed: int | None = None
    """When it was closed: every invoice that was expected is there, and nothing changes any more."""


def period_rows(periods: Iterable[BilledPeriod]) -> Iterator[Row]:
    """Yield one record for each period."""
    for found in periods:
        updated = found.created if found.closed is None else max(found.created, found.closed)
        yield {
            "BillingPeriodCreated": found.created // SECOND * SECOND,
            "BillingPeriodEnd": found.period.end,
            "BillingPeriodLastUpdated": updated // SECOND * SECOND,
            "BillingPeriodStart": found.period.start,
            "BillingPeriodStatus": "Open" if found.closed is None else "Closed",
            "InvoiceIssuerName": found.operator,
        }
